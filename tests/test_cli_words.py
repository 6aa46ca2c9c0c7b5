"""What the command line says: help with examples that parse, completion in a real shell, nearest names, colours, lone flags."""

import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from rich.console import Console

from avalanche_llm import cli
from avalanche_llm.canon import load_canon
from avalanche_llm.catalog import entries
from avalanche_llm.catalog_print import print_list
from avalanche_llm.cli import build_parser, main
from avalanche_llm.cli_help import EXAMPLES, HELP
from avalanche_llm.completion import script
from avalanche_llm.config import resolve_config
from avalanche_llm.errors import ConfigError, UsageError
from avalanche_llm.io.store import RunStore
from avalanche_llm.settings import parse_settings
from avalanche_llm.suggest import nearest

RUN = "RUN_S07_0123456789ab"


# --- help and examples


@pytest.mark.parametrize("command", HELP)
def test_every_command_has_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out.partition("examples:")[2]
    lines = [line.partition("    #")[0].strip() for line in shown.splitlines() if line.strip()]
    assert len(lines) == len(EXAMPLES[command]) > 0
    for line in lines:
        words = shlex.split(line)
        assert words[:4] == ["python", "-m", "avalanche_llm", command]
        _, unknown = build_parser().parse_known_args(words[3:])
        assert unknown == []


def test_examples_are_of_commands_that_are_there() -> None:
    assert list(EXAMPLES) == list(HELP)


# --- a boolean flag before a name


@pytest.mark.parametrize("command", ["report", "register", "verify"])
@pytest.mark.parametrize("flag", ["--dry_run", "--allow_resume"])
def test_a_name_after_a_boolean_flag_is_not_its_value(command: str, flag: str) -> None:
    parsed = build_parser().parse_args([command, flag, RUN])
    assert vars(parsed)[flag.removeprefix("--")] is True
    assert (parsed.targets if command == "verify" else parsed.run_ids) == [RUN]


@pytest.mark.parametrize("flag", ["--dry_run", "--allow_resume"])
@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("1", True), ("yes", True), ("False", False), ("0", False), ("no", False)]
)
def test_a_boolean_after_a_boolean_flag_is_its_value(word: str, value: bool, flag: str) -> None:
    parsed = build_parser().parse_args(["report", flag, word, RUN])
    assert (vars(parsed)[flag.removeprefix("--")], parsed.run_ids) == (value, [RUN])


def test_runs_show_takes_its_names_on_either_side_of_a_flag() -> None:
    for words in (["runs", "--dry_run", "show", RUN], ["runs", "show", "--dry_run", RUN], ["runs", "show", RUN, "--dry_run"]):
        parsed = build_parser().parse_args(words)
        assert (parsed.action, parsed.run_ids, parsed.dry_run) == ("show", [RUN], True)


# --- the nearest name


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["phase1_calibrat"], "did you mean phase1_calibrate?"),
        (["reprot"], "did you mean report?"),
        (["phase1_calibrate", "--confg", "x"], "did you mean --config?"),
        (["phase1_calibrate", "--model_role", "instrukt"], "did you mean INSTRUCT?"),
        (["phase2_select_gstar", "--gstar_method", "btot_near"], "did you mean btot_near_one?"),
        (["runs", "shwo"], "did you mean show?"),
    ],
)
def test_usage_errors_name_the_nearest(arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert hint in capsys.readouterr().err


def test_what_is_near_nothing_gets_no_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zzz"]) == 1
    assert "did you mean" not in capsys.readouterr().err
    assert nearest("zzz", ["report"]) == ""


def test_config_errors_name_the_nearest(model_folder: Path, tmp_path: Path) -> None:
    bad = tiny.write_config(tmp_path / "tiny.yaml", model_folder, run__model_role="INSTRUKT")
    with pytest.raises(ConfigError, match=r"run\.model_role: .*found 'INSTRUKT', did you mean INSTRUCT\?"):
        parse_settings(resolve_config(bad, load_canon()).values)
    with pytest.raises(ConfigError, match=r"tinny\.yaml does not exist, did you mean tiny\.yaml\?: name one with --config"):
        resolve_config(tmp_path / "tinny.yaml", load_canon())


def test_a_run_that_is_not_there_is_answered_with_the_nearest(
    pipeline: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tiny.run_of(pipeline, "S02").name
    slip = there[:-1] + ("0" if there[-1] != "0" else "1")
    for arguments in (["report", slip], ["runs", "show", slip], ["phase2_select_gstar", "--dep", slip]):
        assert main([*arguments, "--config", str(config), "--runs_dir", str(pipeline)]) == 3
        assert f"did you mean {there}?" in capsys.readouterr().err
    assert main(["runs", "show", "RUN_S09_ffffffffffff", "--runs_dir", str(pipeline)]) == 3
    assert "did you mean" not in capsys.readouterr().err


# --- completion


def completed(line: str, folder: Path) -> list[str]:
    """What bash offers at the end of a line."""
    last = '""' if line.endswith(" ") else ""
    bash = "\n".join(
        [
            script("bash"),
            f"COMP_WORDS=({line}{last})",
            "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))",
            "_shtab_avalanche_llm",
            'printf "%s\\n" "${COMPREPLY[@]}"',
        ]
    )
    found = subprocess.run(["bash", "-c", bash], cwd=folder, capture_output=True, text=True, check=True)
    return found.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_flags_choices_and_run_ids(tmp_path: Path) -> None:
    (tmp_path / "runs" / RUN).mkdir(parents=True)
    assert completed("avalanche_llm ", tmp_path) == [*HELP, "completion"]
    assert completed("avalanche_llm phase1_calibrate --dty", tmp_path) == ["--dtype"]
    assert completed("avalanche_llm phase1_calibrate --dtype b", tmp_path) == ["bf16"]
    assert completed("avalanche_llm runs show RUN_", tmp_path) == [RUN]
    assert completed("avalanche_llm phase2_gain_grid --dep RUN_", tmp_path) == [RUN]


def test_zsh_script_names_every_command_and_the_run_ids() -> None:
    made = script("zsh")
    assert made.startswith("#compdef avalanche_llm")
    assert "_avalanche_llm_runs" in made
    assert all(command in made for command in HELP)


def test_completion_refuses_another_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 1
    assert "invalid choice: 'fish'" in capsys.readouterr().err


# --- colours


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "no_color", "coloured"), [(Terminal, "", True), (Terminal, "1", False), (io.StringIO, "", False)]
)
def test_colours_are_for_terminals_without_no_color(
    stream: type[io.StringIO], no_color: str, coloured: bool, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TERM", "xterm-256color"), ("NO_COLOR", no_color)):
        monkeypatch.setenv(name, value)
    for name in ("FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stderr", stream())
    cli._say_error("no run [red]RUN[/]")
    said = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert re.sub(r"\x1b\[[0-9;]*m", "", said) == "error: no run [red]RUN[/]\n"
    assert ("31m" in said) == coloured
    listed = stream()
    store = RunStore(pipeline)
    print_list(list(entries(store)), store.root, Console(file=listed, width=140))
    assert ("32mcomplete" in listed.getvalue()) == coloured


def test_a_long_error_stays_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    cli._say_error("word " * 200 + "end")
    assert sys.stderr.getvalue().count("\n") == 1  # type: ignore[attr-defined]


def test_parser_raises_our_error() -> None:
    with pytest.raises(UsageError, match=r"\(see python -m avalanche_llm runs --help\)$"):
        build_parser().parse_args(["runs", "--dtype", "int8"])
