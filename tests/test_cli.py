"""The command line: what it accepts, its exit codes, its one-line errors, and that a dry run does nothing."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from avalanche_llm.canon import load_canon
from avalanche_llm.cli import HELP, build_parser, main
from avalanche_llm.commands import make_request
from avalanche_llm.config import Overrides
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.io.store import RunStore
from avalanche_llm.phases import validate_env
from avalanche_llm.phases.calibrate import calibrate
from avalanche_llm.phases.job import JobRequest
from avalanche_llm.settings_sources import ModelChoice
from avalanche_llm.stages import stages

HEAVY = ("torch", "transformers", "dagster", "datasets", "pandas", "pyarrow", "matplotlib", "scipy")
IMPORTED_BY = """
import sys
from avalanche_llm.cli import main
try:
    code = main(sys.argv[2:])
except SystemExit as leaving:
    code = leaving.code
heavy = [name for name in sys.argv[1].split(",") if name in sys.modules]
print(f"\\n{code} {heavy}")
"""
Main = Callable[..., "Result"]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def fails(self, code: int, pattern: str) -> None:
        """The contracted code, one line on stderr that says what, and no traceback."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert re.search(pattern, lines[0]), lines[0]
        assert self.code == code


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Main:
    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def copied(pipeline: Path, runs: Path) -> Path:
    """A runs folder of our own with phases 1 and 2 complete."""
    return tiny.copied(pipeline, runs)


def no_complete_run(runs: Path, *tags: str) -> bool:
    return not any(RunStore(runs).complete_runs(tag) for tag in tags or [stage.tag for stage in stages().values()])


def at(config: Path, runs: Path) -> list[str]:
    return ["--config", str(config), "--runs_dir", str(runs)]


def process(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "avalanche_llm", *map(str, arguments)]
    return subprocess.run(command, cwd=tiny.REPO, capture_output=True, text=True, timeout=600, check=False)


# --- what is accepted


@pytest.mark.parametrize("name", sorted(load_canon()["CLI.CMD"]))
def test_every_command_string_of_the_registry_parses(name: str) -> None:
    command = load_canon()["CLI.CMD"][name]
    request = make_request(build_parser().parse_args(command.split()[3:]))
    assert request.config == Path("configs/pipeline.yaml")
    assert (request.overrides.device, request.overrides.dtype, request.run_id_mode) == ("cuda", "bf16", "content_hash")
    assert request.overrides.model_role == ("BASE" if name.endswith("_BASE") else None)
    assert not request.allow_resume


def test_help_lists_every_command_of_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    for command in load_canon()["CLI.CMD"].values():
        assert command.split()[3] in shown
    assert {command.split()[3] for command in load_canon()["CLI.CMD"].values()} == set(HELP)
    assert "completion" in shown


@pytest.mark.parametrize("command", sorted(HELP))
def test_every_command_takes_the_common_arguments_with_the_contracted_defaults(command: str) -> None:
    plain = build_parser().parse_args([command])
    assert make_request(plain).overrides == Overrides()  # the config's own values, canonical ones by default
    assert (plain.config, plain.run_id_mode, plain.allow_resume, plain.dry_run) == (None, "content_hash", False, False)
    given = [
        "--allow_resume",
        "--dry_run",
        "true",
        "--model_role",
        "BASE",
        "--dep",
        "RUN_S01_0123456789ab",
        "--dep",
        "RUN_S02_0123456789ab",
    ]
    request = make_request(build_parser().parse_args([command, *given, "--data_a", "x", "--model_id", "m"]))
    assert request.allow_resume
    assert request.pinned == ("RUN_S01_0123456789ab", "RUN_S02_0123456789ab")
    assert request.overrides == Overrides(model_role="BASE", data_a="x", model_id="m")


def test_phase_specific_arguments_become_overrides() -> None:
    arguments = ["--arc_split", "validation", "--arc_config", "ARC-Easy"]
    assert make_request(build_parser().parse_args(["phase6_arc_mcq_eval", *arguments])).overrides == Overrides(
        arc_split="validation", arc_config="ARC-Easy"
    )
    arguments = ["--gstar_method", "btot_near_one"]
    assert make_request(build_parser().parse_args(["phase2_select_gstar", *arguments])).overrides == Overrides(
        gstar_method="btot_near_one"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["phase9_dream"], "invalid choice: 'phase9_dream'"),
        (["phase1_calibrate", "--colour", "red"], "unrecognized arguments: --colour red"),
        (["phase1_calibrate", "--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (["phase1_calibrate", "--run_id_mode", "latest"], "argument --run_id_mode: invalid choice"),
        (["phase1_calibrate", "--model_role", "TEACHER"], "argument --model_role: invalid choice"),
        (["phase1_calibrate", "--dry_run", "perhaps"], "expected true or false, found 'perhaps'"),
        (["phase1_calibrate", "--gstar_method", "btot_near_one"], "unrecognized arguments: --gstar_method"),
        (["phase2_select_gstar", "--gstar_method", "loudest"], "argument --gstar_method: invalid choice"),
        (["phase1_calibrate", "--config"], "argument --config: expected one argument"),
    ],
)
def test_usage_errors_exit_with_one(arguments: list[str], complaint: str, cli: Main) -> None:
    cli(*arguments).fails(1, re.escape(complaint) + r".*--help\)$")


def imported_by(*arguments: object) -> str:
    command = [sys.executable, "-c", IMPORTED_BY, ",".join(HEAVY), *map(str, arguments)]
    found = subprocess.run(command, cwd=tiny.REPO, capture_output=True, text=True, check=True)
    return found.stdout.splitlines()[-1]


def test_help_and_version_import_nothing_heavy() -> None:
    for arguments in (["--help"], ["--version"], ["phase1_calibrate", "--help"], ["completion", "bash"]):
        assert imported_by(*arguments) == "0 []"


def test_dry_run_and_config_errors_import_neither_torch_nor_dagster(config: Path, runs: Path) -> None:
    for arguments, code in (
        (["phase1_calibrate", "--dry_run", *at(config, runs)], 0),
        (["phase1_calibrate", "--config", "nowhere.yaml"], 2),
    ):
        found, _, heavy = imported_by(*arguments).partition(" ")
        assert found == str(code)
        assert not {"torch", "transformers", "dagster"} & set(re.findall(r"\w+", heavy))


# --- a dry run


def test_dry_run_prints_the_plan_and_creates_nothing(config: Path, runs: Path, cli: Main) -> None:
    result = cli("phase1_calibrate", "--dry_run", *at(config, runs))
    assert (result.code, result.err) == (0, "")
    assert re.search(r"^run +\S+/runs/RUN_S01_[0-9a-f]{12} \(new\)$", result.out, re.MULTILINE)
    assert re.search(r"^cost +2 passes, 32 windows in all; about .* on cpu in fp32$", result.out, re.MULTILINE)
    assert not runs.exists()


def test_dry_run_without_upstream_is_exit_three_and_creates_nothing(config: Path, runs: Path, cli: Main) -> None:
    result = cli("phase2_gain_grid", "--dry_run", *at(config, runs))
    result.fails(3, "no complete phase1_calibrate run for this config under .*; run phase1_calibrate first")
    assert "upstream    phase1_calibrate: missing: " in result.out
    assert not runs.exists()


def test_dry_run_of_a_run_that_exists_is_exit_four(pipeline: Path, config: Path, cli: Main) -> None:
    before = tiny.file_hashes(pipeline)
    cli("phase2_gain_grid", "--dry_run", *at(config, pipeline)).fails(4, r"RUN_S02_\w+ is complete; the phase would not start")
    assert tiny.file_hashes(pipeline) == before


def test_dry_run_of_an_incomplete_run_needs_allow_resume(config: Path, runs: Path, cli: Main) -> None:
    tiny.job_of(config, runs).begin("PHASE1_CALIBRATE").release()
    cli("phase1_calibrate", "--dry_run", *at(config, runs)).fails(4, r"RUN_S01_\w+ is incomplete; the phase would not start")
    assert cli("phase1_calibrate", "--dry_run", "--allow_resume", *at(config, runs)).code == 0


def test_dry_run_refuses_what_the_phase_would_refuse(
    config: Path, model_folder: Path, runs: Path, tmp_path: Path, cli: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    costly = tiny.write_config(tmp_path / "costly.yaml", model_folder, budgets__gpu_hours_max=1e-12)
    cli("phase1_calibrate", "--dry_run", "--device", "cuda", *at(costly, runs)).fails(2, "would take .* GPU hours")
    begun = tiny.job_of(config, runs).begin("PHASE1_CALIBRATE")
    begun.release()
    with monkeypatch.context() as other_code:
        other_code.setattr("avalanche_llm.io.store.code_version", lambda: "9.9.9+src.000000000000")
        cli("phase1_calibrate", "--dry_run", "--allow_resume", *at(config, runs)).fails(2, "was begun by code")
    (begun.folder / "run_record.json").write_bytes(b"{}")
    cli("phase1_calibrate", "--dry_run", *at(config, runs)).fails(2, r"breaks spec/run_record\.schema\.json")


def test_dry_run_of_register_names_the_runs_and_records_nothing(
    copied: Path, config: Path, tmp_path: Path, cli: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    names = [tiny.run_of(copied, tag).name for tag in ("S01", "S02", "S02B")]
    assert cli("register", "--dry_run", *at(config, copied)).out.split() == names
    assert cli("register", "--dry_run", names[1], *at(config, copied)).out.split() == names[1:2]
    assert not (tmp_path / "home").exists()


def test_a_home_folder_in_the_name_of_the_runs_folder_is_written_out(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, paths__runs_dir="~/measured")
    assert JobRequest(config).job().store.root == tmp_path / "measured"
    assert JobRequest(config, runs_dir=Path("~/other")).job().store.root == tmp_path / "other"


def test_report_of_named_runs_looks_for_all_it_needs_where_they_lie(
    model_folder: Path, runs: Path, tmp_path: Path, cli: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, paths__runs_dir=str(tmp_path / "elsewhere"))
    run_id = calibrate(JobRequest(config, runs_dir=runs).job())
    monkeypatch.chdir(tmp_path)
    cli("report", run_id, "--dry_run").fails(3, "no complete phase7_paper_export run for this config under runs; ")


def test_dry_run_validates_the_config(model_folder: Path, tmp_path: Path, runs: Path, cli: Main) -> None:
    bad = tiny.write_config(tmp_path / "c.yaml", model_folder, gains__grid=[0, 1])
    cli("phase1_calibrate", "--dry_run", *at(bad, runs)).fails(2, r"gains\.grid\.0")


def test_dry_run_of_run_all_lists_what_is_missing(pipeline: Path, config: Path, cli: Main) -> None:
    before = tiny.file_hashes(pipeline)
    result = cli("run_all", "--dry_run", *at(config, pipeline))
    assert result.code == 0
    planned = re.findall(r"^phase +(\w+)$", result.out, re.MULTILINE)
    assert planned == [stage.command for stage in stages().values() if stage.command not in tiny.PHASES]
    assert tiny.file_hashes(pipeline) == before


# --- runs that exist, upstream runs


def test_the_same_config_twice_is_exit_four_and_the_first_run_is_untouched(pipeline: Path, config: Path, cli: Main) -> None:
    before = tiny.file_hashes(pipeline)
    for phase in tiny.PHASES:
        cli(phase, *at(config, pipeline)).fails(
            4, r"RUN_\w+ is complete and stays as it is; change the config or use --run_id_mode"
        )
    assert tiny.file_hashes(pipeline) == before


@pytest.mark.parametrize(
    ("phase", "needed"), [("phase2_gain_grid", "phase1_calibrate"), ("phase2_select_gstar", "phase2_gain_grid")]
)
def test_a_phase_without_its_upstream_is_exit_three(phase: str, needed: str, config: Path, runs: Path, cli: Main) -> None:
    cli(phase, *at(config, runs)).fails(3, f"no complete {needed} run for this config under .*; run {needed} first")
    assert not runs.exists()


def test_two_upstream_runs_are_named_and_dep_chooses(copied: Path, config: Path, cli: Main) -> None:
    shutil.rmtree(tiny.run_of(copied, "S02"))
    first = tiny.run_of(copied, "S01")
    again = cli("phase1_calibrate", "--run_id_mode", "timestamp_counter", *at(config, copied))
    assert again.code == 0
    second = Path(again.out.splitlines()[-1])
    assert tiny.result_hashes(first) == tiny.result_hashes(second)
    names = sorted([first.name, second.name])
    ambiguous = cli("phase2_gain_grid", *at(config, copied))
    ambiguous.fails(3, f"{names[0]} and {names[1]} all fit as upstream phase1_calibrate; choose one with --dep RUN_ID")
    assert cli("phase2_gain_grid", "--dep", second.name, *at(config, copied)).code == 0
    record = json.loads((tiny.run_of(copied, "S02") / "run_record.json").read_text(encoding="utf-8"))
    assert [entry["run_id"] for entry in record["dependencies"]] == [second.name]


def test_dep_that_is_no_run_id_is_a_usage_error_and_one_that_is_not_there_is_exit_three(
    copied: Path, config: Path, cli: Main
) -> None:
    shutil.rmtree(tiny.run_of(copied, "S02"))
    cli("phase2_gain_grid", "--dep", "../../etc", *at(config, copied)).fails(1, "'../../etc' is not a run id")
    cli("phase2_gain_grid", "--dep", "RUN_S01_0123456789ab", *at(config, copied)).fails(3, "no run RUN_S01_0123456789ab under")


@pytest.mark.parametrize("name", ["calibration_stats.npz", "rate_targets.json"])
def test_a_tampered_upstream_artifact_is_exit_three_and_named(name: str, copied: Path, config: Path, cli: Main) -> None:
    shutil.rmtree(tiny.run_of(copied, "S02"))
    tiny.flip_a_byte(tiny.run_of(copied, "S01") / "results" / name)
    cli("phase2_gain_grid", *at(config, copied)).fails(3, f"results/{name} changed since it was recorded .*; rebuild RUN_S01_")
    assert no_complete_run(copied, "S02")


def test_both_model_roles_see_the_same_windows_and_find_their_own_runs(
    model_folder: Path, tmp_path: Path, runs: Path, cli: Main
) -> None:
    base = tiny.save_model(tiny.llama(seed=1), tmp_path / "base")
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, models__BASE={"hf_id": str(base)})
    records = {}
    for role in ("INSTRUCT", "BASE"):
        for phase in tiny.PHASES[:2]:
            result = cli(phase, "--model_role", role, *at(config, runs))
            assert result.code == 0, result.err
            records[role, phase] = json.loads((Path(result.out.splitlines()[-1]) / "run_record.json").read_text(encoding="utf-8"))
    slices = {record["dataset"]["A_CALIBRATION"]["sha256"] for record in records.values()}
    assert len(slices) == 1
    for role in ("INSTRUCT", "BASE"):
        calibration, grid = (records[role, phase] for phase in tiny.PHASES[:2])
        assert calibration["model"]["role"] == grid["model"]["role"] == role
        assert [entry["run_id"] for entry in grid["dependencies"]] == [calibration["run_id"]]
    assert len({record["run_id"] for record in records.values()}) == 4


# --- bad input


@dataclass(frozen=True)
class Bad:
    """Changes of the tiny config, what the error line must say, and the contracted exit code."""

    changes: dict[str, Any]
    pattern: str
    code: int = 2


BAD_CONFIGS = {
    "unknown registry key": Bad(
        {"events__eps": "CANON.CONST.EPSILON"}, r"config\.events\.eps: unknown registry reference CANON\.CONST\.EPSILON"
    ),
    "unknown spike definition": Bad(
        {"events__spike_defs": ["SPIKE_SIDEWAYS"]}, r"events\.spike_defs\.0: .*found 'SPIKE_SIDEWAYS'"
    ),
    "gain of zero": Bad({"gains__grid": [0.0, 1.0]}, r"gains\.grid\.0: Input should be greater than 0"),
    "negative gain": Bad({"gains__grid": [-1.0, 1.0]}, r"gains\.grid\.0: Input should be greater than 0"),
    "gain that is no number": Bad({"gains__grid": [1.0, float("nan")]}, r"gains\.grid\.1: "),
    "gain in words": Bad({"gains__grid": [1.0, "loud"]}, r"gains\.grid\.1: .*found 'loud'"),
    "unknown key": Bad({"pipeline__batch_sizes": 4}, r"pipeline\.batch_sizes: unknown key"),
    "no windows left": Bad(
        {"datasets__A__n_windows_rasters": 1_000_000}, r"windows of 64 tokens left for A_RASTERS, 1000000 are needed"
    ),
    "too few samples": Bad(
        {"datasets__A__n_windows_calibration": 1}, r"4096 calibration samples a layer, at least 20000 are needed"
    ),
    "rate too low for the slice": Bad({"events__target_rates": [1e-7]}, r"target rate 1e-07 .* leaves layer \d without an event"),
    "no such data file": Bad({"datasets__A__hf_id": "absent.txt"}, r"data file absent\.txt does not exist", 1),
    "no such column": Bad({"datasets__A__text_column": "body"}, r"has no text column 'body' \(columns: text\)"),
    "no such model folder": Bad({"models__INSTRUCT__hf_id": "./absent"}, r"model folder \./absent does not exist", 1),
    "no such module": Bad(
        {"models__INSTRUCT__hooks": {"layers": "layers", "mlp": "ffn", "attn": "self_attn", "down": "ffn.down"}},
        r"layer 0 has no module 'ffn.down' \(it has: self_attn, ",
        1,
    ),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_config_is_one_line_and_leaves_no_complete_run(
    name: str, model_folder: Path, tmp_path: Path, runs: Path, cli: Main
) -> None:
    bad = BAD_CONFIGS[name]
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, **bad.changes)
    cli("phase1_calibrate", *at(config, runs)).fails(bad.code, bad.pattern)
    assert no_complete_run(runs)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "config file .* does not exist: name one with --config"),
        ("a: [1", "config file .* is not valid yaml"),
        ("- a", "must hold one mapping"),
    ],
)
def test_missing_or_malformed_config_is_exit_two(text: str | None, complaint: str, tmp_path: Path, runs: Path, cli: Main) -> None:
    config = tmp_path / "c.yaml"
    if text is not None:
        config.write_text(text, encoding="utf-8")
    cli("phase1_calibrate", *at(config, runs)).fails(2, complaint)
    assert not runs.exists()


def test_a_model_type_that_is_not_known_is_exit_one(tmp_path: Path, runs: Path, cli: Main) -> None:
    folder = tiny.save_model(tiny.codegen(), tmp_path / "codegen")
    config = tiny.write_config(tmp_path / "c.yaml", folder)
    cli("phase1_calibrate", *at(config, runs)).fails(1, r"no MLP is known for model type 'codegen' .*name its modules in the config")
    assert no_complete_run(runs)


def broken_model(folder: Path, value: float) -> Path:
    """The tiny model with one weight of its second layer's down projection replaced."""
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = value
    return tiny.save_model(model, folder)


def test_a_model_with_nan_weights_is_exit_two(tmp_path: Path, runs: Path, cli: Main) -> None:
    config = tiny.write_config(tmp_path / "c.yaml", broken_model(tmp_path / "model", float("nan")))
    cli("phase1_calibrate", *at(config, runs)).fails(2, r"NaN or infinite weights in model\.layers\.1\.mlp\.down_proj\.weight")
    assert no_complete_run(runs)


def test_activations_that_overflow_are_exit_two_and_the_windows_are_named(tmp_path: Path, runs: Path, cli: Main) -> None:
    """A weight that float32 holds but whose products it does not."""
    config = tiny.write_config(tmp_path / "c.yaml", broken_model(tmp_path / "model", 3e38))
    cli("phase1_calibrate", *at(config, runs)).fails(
        2, r"activations became NaN or infinite at gain 1\.0 in windows \d+ to \d+; use --dtype fp32"
    )
    assert no_complete_run(runs)


def test_a_gain_that_overflows_ends_the_grid_and_not_the_calibration(
    model_folder: Path, tmp_path: Path, runs: Path, cli: Main
) -> None:
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, gains__grid=[1.0, 1e38])
    assert cli("phase1_calibrate", *at(config, runs)).code == 0
    cli("phase2_gain_grid", *at(config, runs)).fails(2, r"at gain 1e\+38 in windows .*leave that gain out")
    assert no_complete_run(runs, "S02")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_where_there_is_none_is_exit_one(config: Path, runs: Path, cli: Main) -> None:
    cli("phase1_calibrate", "--device", "cuda", *at(config, runs)).fails(
        1, "--device cuda needs a CUDA GPU and none is visible; use --device cpu"
    )
    assert no_complete_run(runs)


def test_a_runs_folder_that_cannot_be_written_is_exit_one(config: Path, tmp_path: Path, cli: Main) -> None:
    """Below a regular file nobody can write, root included."""
    (tmp_path / "file").write_bytes(b"")
    cli("phase1_calibrate", *at(config, tmp_path / "file" / "runs")).fails(
        1, "the runs folder .*file/runs cannot be written: Not a directory"
    )


def test_a_dagster_home_that_cannot_be_used_is_exit_one(
    config: Path, tmp_path: Path, runs: Path, cli: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "file" / "home"))
    cli("phase1_calibrate", *at(config, runs)).fails(
        1, "DAGSTER_HOME .*file/home cannot be written: Not a directory; set it to a folder of yours"
    )
    monkeypatch.setenv("DAGSTER_HOME", "relative/home")
    cli("phase1_calibrate", *at(config, runs)).fails(1, "DAGSTER_HOME must be an absolute path, found 'relative/home'")
    assert not runs.exists()


@pytest.fixture(params=[4, 8, 16])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of a few KiB; where none may be mounted, one whose writes find it full after as many files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(folder)]
    if shutil.which("mount") and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    left, real = request.param // 4, os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal left
        if str(folder) in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield folder


def test_a_full_disk_is_exit_one_and_leaves_no_complete_run(small_disk: Path, config: Path, cli: Main) -> None:
    cli("phase1_calibrate", *at(config, small_disk)).fails(1, "No space left on device")
    assert no_complete_run(small_disk)


def test_a_process_that_fails_in_a_phase_ends_in_one_error_line_without_a_traceback(tmp_path: Path, runs: Path) -> None:
    """What the platform and the libraries print by themselves is seen only in a process of its own."""
    config = tiny.write_config(tmp_path / "c.yaml", broken_model(tmp_path / "model", float("nan")))
    found = process("phase1_calibrate", *at(config, runs))
    assert found.returncode == 2
    assert found.stdout == ""
    assert re.fullmatch(r"error: .* has NaN or infinite weights in .*; the checkpoint is damaged\n", found.stderr)


# --- phase 0 and run_all


def test_phase_zero_validates_and_creates_no_run_directory(model_folder: Path, tmp_path: Path, runs: Path, cli: Main) -> None:
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, datasets__ARC_MCQ__hf_id="allenai/ai2_arc")
    result = cli("phase0_validate_env", *at(config, runs))
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[-1] == "environment valid"
    assert any(re.match(r"ok    hook check: 3 layers, largest difference 0 \(tolerance 1e-05\)$", line) for line in lines)
    assert any(re.match(r"ok    model: .*: 3 layers, d_ff 64, fp32$", line) for line in lines)
    assert any(re.match(r"ok    determinism: .*torch_deterministic_algorithms=True", line) for line in lines)
    assert not any(line.startswith("FAIL") for line in lines)
    assert any(re.match(r"warn  data ARC_MCQ: allenai/ai2_arc cannot be reached", line) for line in lines)  # not needed yet
    assert not runs.exists()


def test_phase_zero_asks_the_hub_for_the_revision_that_the_config_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(validate_env, "try_to_load_from_cache", lambda *_, revision: asked.append(revision))
    monkeypatch.setattr(validate_env.HfApi, "repo_info", lambda self, hf_id, **options: asked.append(options["revision"]))
    for revision in (None, "v2"):
        assert validate_env._model_problem(ModelChoice(hf_id="org/model", revision=revision)) == ""
    assert asked == [None, None, "v2", "v2"]


def test_phase_zero_fails_where_a_later_phase_would(model_folder: Path, tmp_path: Path, runs: Path, cli: Main) -> None:
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, datasets__A__hf_id="absent.txt")
    result = cli("phase0_validate_env", *at(config, runs))
    result.fails(1, r"data file absent\.txt does not exist")
    assert "FAIL  data A: data file absent.txt does not exist" in result.out
    strict = tiny.write_config(tmp_path / "strict.yaml", tiny.save_model(tiny.codegen(), tmp_path / "codegen"))
    cli("phase0_validate_env", *at(strict, runs)).fails(1, "no MLP is known for model type 'codegen'")
    assert cli("phase0_validate_env", "--dry_run", *at(strict, runs)).code == 0
    assert not runs.exists()


def test_run_all_keeps_what_is_complete_runs_the_rest_and_ends_with_a_table(copied: Path, config: Path, cli: Main) -> None:
    before = {tag: tiny.file_hashes(tiny.run_of(copied, tag)) for tag in ("S01", "S02", "S02B")}
    result = cli("run_all", *at(config, copied))
    assert result.code == 0, result.err
    assert {tag: tiny.file_hashes(tiny.run_of(copied, tag)) for tag in before} == before
    for word in ("delta_b_tot", "occupancy", "status", "|b_tot - 1|"):
        assert word in result.out
    for stage in stages().values():
        assert read_record(tiny.run_of(copied, stage.tag))["stage_status"] == "complete"
    for place in ("00_PAPER_SNAPSHOT.md", "05_CLAIMS_TO_EVIDENCE.md", "release.zip", "report.html"):
        assert place in result.out
    folders = sorted(folder.name for folder in copied.iterdir())
    assert cli("run_all", *at(config, copied)).code == 0
    assert sorted(folder.name for folder in copied.iterdir()) == folders
    (tiny.run_of(copied, "S02B") / "results" / "gstar.json").write_bytes(b"{}")
    cli("run_all", *at(config, copied)).fails(3, r"gstar\.json changed since it was recorded")
