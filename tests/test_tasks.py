"""tasks/: the index followed literally works, and each page names what the registry and the stage table name."""

import re
import shlex
from pathlib import Path

import pytest
import tiny

from avalanche_llm.canon import load_canon
from avalanche_llm.cli import main
from avalanche_llm.io.store import RunStore
from avalanche_llm.stages import Stage, stages

TASKS = tiny.REPO / "tasks"
PAGES = tuple(range(9))
SECTIONS = ["Purpose", "Command", "Needs", "Leaves", "Done when", "Failures"]
BESIDE_THE_PHASES = {"REPORT"}


def blocks(page: str) -> list[list[str]]:
    """The lines of every fenced block."""
    return [block.splitlines() for block in re.findall(r"^```\n(.*?)^```$", (TASKS / page).read_text(encoding="utf-8"), re.M | re.S)]


def indexed() -> list[str]:
    """The command lines of the index: its one fenced block."""
    (lines,) = blocks("TASK_INDEX.md")
    return lines


def sections(number: int) -> dict[str, str]:
    _, *parts = re.split(r"^## (.*)\n", (TASKS / f"PHASE_{number}.md").read_text(encoding="utf-8"), flags=re.M)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def stages_of(number: int) -> list[Stage]:
    return [stage for stage in stages().values() if stage.phase_id.startswith(f"PHASE{number}_")]


def test_index_lists_every_phase_in_the_order_of_the_stage_table() -> None:
    phases = [stage.command for stage in stages().values() if stage.phase_id not in BESIDE_THE_PHASES]
    assert indexed() == [
        f"python -m avalanche_llm {command} --config configs/demo.yaml" for command in ("phase0_validate_env", *phases, "verify")
    ]


@pytest.mark.parametrize("number", PAGES)
def test_page_has_its_sections_and_its_commands(number: int) -> None:
    assert list(sections(number)) == SECTIONS
    demo, canonical = blocks(f"PHASE_{number}.md")
    registry = load_canon()["CLI.CMD"]
    assert canonical == [text for name, text in registry.items() if name.startswith(f"PHASE{number}_") or (name, number) == ("VERIFY", 8)]
    assert demo == [line for line in indexed() if f" phase{number}_" in line or (" verify " in line and number == 8)]


@pytest.mark.parametrize("number", PAGES[1:])
def test_page_names_what_its_phases_need_and_leave(number: int) -> None:
    page = sections(number)
    for stage in stages_of(number):
        for phase_id in stage.needs:
            assert stages()[phase_id].command in page["Needs"]
        assert f"RUN_{stage.tag}_..." in page["Leaves"]
        for name, relative in stage.artifacts.items():
            exported = re.match(r"[TF]\d\d(?=_)", name)
            assert (exported[0] if exported else Path(relative).name) in page["Leaves"], name


@pytest.mark.parametrize("number", PAGES)
def test_page_gives_every_failure_a_contracted_exit_code(number: int) -> None:
    rows = re.findall(r"^\| (.*) \| (.*) \|$", sections(number)["Failures"], flags=re.M)
    assert rows[0] == ("cause", "exit")
    codes = [code for _, code in rows[1:]]
    assert codes == sorted(codes)
    assert set(codes) <= {"1", "2", "3", "4"}
    assert ("3" in codes) == any(stage.needs for stage in stages_of(number))
    assert ("4" in codes) == bool(stages_of(number))


def test_index_followed_literally_gives_a_whole_intact_measurement(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two gains and one rate: what is tried here is the order of work."""
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, gains__grid=[0.8, 1.0], events__target_rates=[8e-3])
    runs = tmp_path / "runs"
    for line in indexed():
        python, module, package, *arguments = shlex.split(line)
        assert (python, module, package) == ("python", "-m", "avalanche_llm")
        arguments[arguments.index("configs/demo.yaml")] = str(config)
        capsys.readouterr()
        assert main([*arguments, "--runs_dir", str(runs)]) == 0, capsys.readouterr().err
    made = {stage.tag for stage in stages().values() if RunStore(runs).complete_runs(stage.tag)}
    assert made == {stage.tag for stage in stages().values() if stage.phase_id not in BESIDE_THE_PHASES}
    assert capsys.readouterr().out.splitlines()[-1] == f"{len(made)} intact, 0 changed, 0 incomplete"
