"""`verify`: whatever is done to a run, it names the file; the tables are made again without a model; it writes nothing."""

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import small_runs
import tiny

from avalanche_llm.cli import main
from avalanche_llm.errors import MissingArtifact
from avalanche_llm.io.artifacts import RECORD_NAME, read_record
from avalanche_llm.io.hashing import sha256_file
from avalanche_llm.io.store import RunStore
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.release import release
from avalanche_llm.release import chain, remake
from avalanche_llm.release.chain import chain_of
from avalanche_llm.stages import stages

SHORT = "--no_tables"
LATER = {
    "S02": "gain_grid:gain_grid",
    "S02B": "select_gstar:select_gstar",
    "S03": "extract_rasters:extract_rasters",
    "S04": "run_nulls:run_nulls",
    "S05": "analyze:analyze",
    "S06B": "generalize:generalize",
}
MEASURED = tuple(LATER)


@dataclass(frozen=True)
class Said:
    """What `verify` printed: per run its status and the lines below it."""

    code: int
    status: dict[str, str]
    lines: dict[str, list[str]]
    last: str
    err: str

    def problems(self, word: str) -> list[str]:
        return [line for lines in self.lines.values() for line in lines if word in line]


Verify = Callable[..., Said]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    def call(runs: Path, *arguments: object) -> Said:
        capsys.readouterr()
        config = tiny.REPO / "configs" / "demo.yaml"
        code = main(["verify", *map(str, arguments), "--config", str(config), "--runs_dir", str(runs)])
        out, err = capsys.readouterr()
        *body, last = out.splitlines() or [""]
        status: dict[str, str] = {}
        lines: dict[str, list[str]] = {}
        for line in body:
            if line.startswith("    "):
                lines[next(reversed(status))].append(line.strip())
            else:
                subject, status[line.split()[0]] = line.split()
                lines[subject] = []
        return Said(code, status, lines, last, err)

    return call


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every stage up to the paper, with small files. Read only."""
    return small_runs.every_run(tmp_path_factory.mktemp("small") / "runs")


@pytest.fixture
def runs(small: Path, tmp_path: Path) -> Path:
    return tiny.copied(small, tmp_path / "runs")


@pytest.fixture(scope="module")
def measured(pipeline: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phases 1 to 6 B of the tiny model. Read only."""
    folder = tiny.copied(pipeline, tmp_path_factory.mktemp("measured") / "runs")
    for tag in ("S03", "S04", "S05", "S06B"):
        phase(tag)(tiny.job_of(config, folder))
    return folder


def phase(tag: str) -> Callable[[Job], str]:
    module, name = LATER[tag].split(":")
    function: Callable[[Job], str] = getattr(import_module(f"avalanche_llm.phases.{module}"), name)
    return function


def name_of(runs: Path, tag: str) -> str:
    return tiny.run_of(runs, tag).name


def below(runs: Path, run_id: str) -> set[str]:
    """Every run that rests on this one, directly or not."""
    store = RunStore(runs)
    return {folder.name for folder in runs.glob("RUN_*") if run_id in chain_of(store, [folder.name])} - {run_id}


# --- what is intact


def test_untouched_runs_are_intact(small: Path, verify: Verify) -> None:
    said = verify(small, SHORT)
    assert said.code == 0
    assert set(said.status) == {folder.name for folder in small.glob("RUN_*")}
    assert said.last == f"{len(small_runs.PAPER_AND_ABOVE)} intact, 0 changed, 0 incomplete"


def test_named_runs_bring_what_they_rest_on_upstream_first(small: Path, verify: Verify) -> None:
    said = verify(small, name_of(small, "S03"), SHORT)
    assert list(said.status) == [name_of(small, tag) for tag in ("S01", "S02", "S02B", "S03")]
    assert said.code == 0


def test_measured_tables_are_made_again_without_model_and_data(
    measured: Path, model_folder: Path, tmp_path: Path, verify: Verify
) -> None:
    away = tmp_path / "away"
    model_folder.rename(away)
    try:
        before = state(measured)
        said = verify(measured)
        assert state(measured) == before
    finally:
        away.rename(model_folder)
    assert said.code == 0, said.lines
    assert said.last == "7 intact, 0 changed, 0 incomplete"
    assert said.lines[name_of(measured, "S05")] == [
        "made again, equal: T01_SUMMARY, T04_TAIL_FITS, T05_CRACKLING_DIAGNOSTICS, T06_ABLATIONS"
    ]
    assert said.lines[name_of(measured, "S06B")] == ["made again, equal: T02_GENERALIZATION"]


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path with its mode and the time of its last change."""
    return {str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in (folder, *folder.rglob("*"))}


def test_verify_without_tables_needs_no_torch_and_writes_nothing(small: Path) -> None:
    before = state(small)
    script = "import sys; from avalanche_llm.cli import main; code = main(sys.argv[1:]); print(code, 'torch' in sys.modules)"
    arguments = ["verify", SHORT, "--config", "configs/demo.yaml", "--runs_dir", str(small)]
    found = subprocess.run([sys.executable, "-c", script, *arguments], cwd=tiny.REPO, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "0 False"
    assert state(small) == before


def test_dry_run_lists_what_would_be_verified(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny.REPO / "configs" / "demo.yaml"
    assert main(["verify", name_of(small, "S02"), "--dry_run", "--config", str(config), "--runs_dir", str(small)]) == 0
    assert capsys.readouterr().out.split() == [name_of(small, "S01"), name_of(small, "S02")]


# --- what is not there


def test_a_named_run_that_is_not_there_is_exit_three(small: Path, tmp_path: Path, verify: Verify) -> None:
    there = name_of(small, "S02")
    said = verify(small, there[:-1] + ("0" if there[-1] != "0" else "1"), SHORT)
    assert (said.code, said.status) == (3, {})
    assert f"did you mean {there}" in said.err
    assert verify(tmp_path / "nothing").code == 3
    assert verify(small, "nothing").code == 1
    said = verify(small, small / there)
    assert said.code == 1
    assert f"expected {there} --runs_dir {small}" in said.err


def test_a_run_removed_in_the_middle_leaves_what_rests_on_it_incomplete(runs: Path, verify: Verify) -> None:
    gap = name_of(runs, "S03")
    rested = below(runs, gap)
    shutil.rmtree(runs / gap)
    said = verify(runs, SHORT)
    assert said.code == 2
    assert {run_id for run_id, status in said.status.items() if status == "incomplete"} == rested
    assert f"rests on {gap}, which is not there" in said.lines[name_of(runs, "S04")]
    assert said.status[name_of(runs, "S06B")] == "intact"
    assert said.last == f"{len(said.status) - len(rested)} intact, 0 changed, {len(rested)} incomplete"


def test_an_unfinished_run_is_incomplete(tmp_path: Path, verify: Verify) -> None:
    job = small_runs.job_on(tmp_path / "runs")
    first, second = small_runs.PAPER_AND_ABOVE[:2]
    small_runs.begun_run(job, first).complete()
    run = small_runs.begun_run(job, second)
    said = verify(tmp_path / "runs", SHORT)
    run.release()
    assert said.code == 2
    assert said.lines[run.run_id] == ["it was not finished; continue it with --allow_resume"]
    assert said.last == "1 intact, 0 changed, 1 incomplete"
    assert "1 of 2 are not as recorded" in said.err


# --- what was changed


def test_a_flipped_byte_is_named_and_nothing_else(runs: Path, verify: Verify) -> None:
    """An artifact and the config of every run; every other artifact alone: test_tampering.py."""
    for folder in sorted(runs.glob("RUN_*")):
        for relative in (next(iter(read_record(folder)["artifacts"].values())), "config_resolved.yaml"):
            path = folder / relative
            whole = path.read_bytes()
            tiny.flip_a_byte(path)
            said = verify(runs, SHORT)
            path.write_bytes(whole)
            assert said.code == 2
            assert said.status[folder.name] == "changed"
            assert len(said.lines[folder.name]) == 1
            assert re.fullmatch(rf"{re.escape(relative)} changed since it was recorded \(sha256 [0-9a-f]{{12}}, expected [0-9a-f]{{12}}\)", said.lines[folder.name][0])
            assert {run_id for run_id, status in said.status.items() if status == "changed"} == below(runs, folder.name) | {folder.name}
            assert len(said.problems("sha256")) == 1
    assert verify(runs, SHORT).code == 0


def test_a_run_below_a_changed_one_is_said_to_rest_on_it(runs: Path, verify: Verify) -> None:
    first = tiny.run_of(runs, "S01")
    tiny.flip_a_byte(first / "results" / "rate_targets.json")
    said = verify(runs, name_of(runs, "S02B"), SHORT)
    assert said.lines[name_of(runs, "S02")] == [f"rests on {first.name}, which is changed"]
    assert said.lines[name_of(runs, "S02B")] == [f"rests on {name_of(runs, 'S02')}, which is changed"]
    assert said.last == "0 intact, 3 changed, 0 incomplete"


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("missing", r"results/gstar\.json is missing \(expected sha256 \w{12}\)"),
        ("extra", r"tables/appendix/more\.csv is not in the artifact index"),
        ("paper", r"paper/more\.md is not in the artifact index"),
        ("link", r"results/gstar\.json is a link"),
        ("linked folder", r"results is a link"),
        ("config", r"config_resolved\.yaml changed since it was recorded \(sha256 \w{12}, expected \w{12}\)"),
        ("no config", r"config_resolved\.yaml is missing \(expected sha256 \w{12}\)"),
        ("no record", r".*run_record\.json is no file; it cannot be read as a run record"),
        ("broken record", r".*breaks spec/run_record\.schema\.json at .*"),
    ],
)
def test_whatever_is_done_to_a_folder_is_named(what: str, line: str, runs: Path, tmp_path: Path, verify: Verify) -> None:
    folder = tiny.run_of(runs, "S02B")
    chosen = folder / "results" / "gstar.json"
    match what:
        case "missing":
            chosen.unlink()
        case "extra" | "paper":
            more = folder / ("tables/appendix/more.csv" if what == "extra" else "paper/more.md")
            more.parent.mkdir(parents=True, exist_ok=True)
            more.write_text("a,b\n")
        case "link":
            chosen.rename(tmp_path / "gstar.json")
            chosen.symlink_to(tmp_path / "gstar.json")
        case "linked folder":
            chosen.parent.rename(tmp_path / "results")
            chosen.parent.symlink_to(tmp_path / "results")
        case "config":
            (folder / "config_resolved.yaml").write_bytes((folder / "config_resolved.yaml").read_bytes() + b"\n")
        case "no config":
            (folder / "config_resolved.yaml").unlink()
        case "no record":
            (folder / RECORD_NAME).unlink()
        case "broken record":
            tiny.edited(folder, lambda record: record.pop("hashes"))
    said = verify(runs, SHORT)
    assert said.code == 2
    assert said.status[folder.name] == "changed"
    assert re.fullmatch(line, said.lines[folder.name][0])
    assert len(said.lines[folder.name]) == 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda record: record.update(phase_id="PHASE3_EXTRACT_RASTERS"), "phase_id PHASE3_EXTRACT_RASTERS does not belong to .* S02B"),
        (lambda record: record["hashes"].update(config_sha256="0" * 64), r"config_resolved\.yaml changed since it was recorded \(sha256 \w+, expected 0{12}\)"),
        (lambda record: record["hashes"].update(scope_sha256="0" * 64), r"scope_sha256 is not that of config_resolved\.yaml"),
        (lambda record: record.update(artifact_index=[]), "artifact gstar has no hash on record"),
        (lambda record: record.update(artifacts={"other": "results/gstar.json"}), r"artifact other at results/gstar\.json, expected None"),
        (lambda record: record.update(dependencies=[]), "no run of PHASE2_GAIN_GRID among its dependencies"),
        (lambda record: record["dependencies"][0].update(record_sha256="0" * 64), r"run_record\.json changed since it was read \(sha256 \w+, expected 0{12}\)"),
        (lambda record: record["dependencies"][0].update(config_sha256="0" * 64), r"config_sha256 of RUN_S02_\w+ is \w+, expected 0+"),
        (lambda record: record["dependencies"][0].update(run_id=record["run_id"]), "which rests on it in turn"),
    ],
)
def test_an_edited_record_is_named(change: Callable[[dict[str, Any]], object], line: str, runs: Path, verify: Verify) -> None:
    folder = tiny.run_of(runs, "S02B")
    tiny.edited(folder, change)
    said = verify(runs, name_of(runs, "S02B"), SHORT)
    assert said.code == 2
    assert any(re.search(line, one) for one in said.lines[folder.name]), said.lines[folder.name]


def test_a_config_that_is_none_is_named(tmp_path: Path, verify: Verify) -> None:
    job = replace(small_runs.job_on(tmp_path / "runs"), run_id_mode="timestamp_counter")
    run = small_runs.begun_run(job, small_runs.PAPER_AND_ABOVE[0])
    run.complete()
    config = run.folder / "config_resolved.yaml"
    for path in (run.folder, config, run.folder / RECORD_NAME):
        path.chmod(0o755)
    config.write_text("- no\n- mapping\n")
    tiny.edited(run.folder, lambda record: record["hashes"].update(config_sha256=sha256_file(config)))
    said = verify(tmp_path / "runs", SHORT)
    assert said.code == 2
    assert "must hold one mapping, found list" in said.lines[run.run_id][0]


def test_an_edit_that_only_the_hash_of_the_record_shows_is_named_by_what_read_it(runs: Path, verify: Verify) -> None:
    folder = tiny.run_of(runs, "S03")
    tiny.edited(folder, lambda record: record["timings"].update(forward_s=0.001))
    said = verify(runs, SHORT)
    assert said.code == 2
    assert said.status[name_of(runs, "S04")] == said.status[name_of(runs, "S05")] == "changed"
    (named, again) = said.problems("since it was read")
    assert named == again
    assert named.startswith(f"{folder.name}/run_record.json changed since it was read (sha256 ")


def test_two_runs_with_their_files_swapped_are_both_named(runs: Path, verify: Verify) -> None:
    grid, rasters = tiny.run_of(runs, "S02"), tiny.run_of(runs, "S03")
    one, other = grid / "results" / "metrics.parquet", rasters / "results" / "metrics.parquet"
    one.rename(runs / "kept")
    other.rename(one)
    (runs / "kept").rename(other)
    said = verify(runs, SHORT)
    for folder in (grid, rasters):
        assert [line for line in said.lines[folder.name] if line.startswith("results/metrics.parquet changed since it was recorded")]
    assert said.code == 2


def test_two_folders_with_their_names_swapped_are_both_named(runs: Path, verify: Verify) -> None:
    other = small_runs.job_on(runs, data_a=tiny.SHIPPED["B"])
    run = small_runs.begun_run(other, small_runs.PAPER_AND_ABOVE[0])
    run.complete()
    one = runs / next(folder.name for folder in runs.glob("RUN_S01_*") if folder.name != run.run_id)
    one.rename(runs / "kept")
    run.folder.rename(one)
    (runs / "kept").rename(run.folder)
    said = verify(runs, one.name, run.run_id, SHORT)
    assert said.code == 2
    assert "the folder was renamed or replaced" in said.lines[one.name][0]
    assert "the folder was renamed or replaced" in said.lines[run.run_id][0]


def test_a_folder_that_is_no_run_is_named(runs: Path, verify: Verify) -> None:
    shutil.copytree(tiny.run_of(runs, "S01"), runs / "RUN_S01_copy")
    said = verify(runs, SHORT)
    assert said.lines["RUN_S01_copy"] == ["the folder's name is not a run id"]
    assert said.code == 2


def test_a_run_of_other_code_is_judged_by_its_own_record(runs: Path, monkeypatch: pytest.MonkeyPatch, verify: Verify) -> None:
    folder = tiny.run_of(runs, "S07")
    tiny.edited(folder, lambda record: record["artifacts"].update(paper_old="paper/00_PAPER_SNAPSHOT.md"))
    assert verify(runs, SHORT).lines[folder.name] == ["run_record.json: artifact paper_old at paper/00_PAPER_SNAPSHOT.md, expected None"]
    monkeypatch.setattr(chain, "code_version", lambda: "9.9.9+src.0123456789ab")
    assert verify(runs, SHORT).code == 0


# --- tables


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_edited_with_its_hash_is_caught_by_making_it_again(form: str, measured: Path, tmp_path: Path, verify: Verify) -> None:
    runs = tiny.copied(measured, tmp_path / "runs")
    folder = tiny.run_of(runs, "S05")
    relative = f"tables/table_T01_SUMMARY.{form}"
    if form == "csv":
        frame = pd.read_csv(folder / relative, dtype=str, keep_default_na=False)
        frame.at[2, "b_tot"] = "0.987"
        frame.to_csv(folder / relative, index=False)
    else:
        frame = pd.read_parquet(folder / relative)
        frame.loc[2, "b_tot"] = 0.987
        frame.to_parquet(folder / relative)
    tiny.rehashed(folder, relative)
    said = verify(runs)
    assert said.code == 2
    key = f"spike_def_id={frame.at[2, 'spike_def_id']}, target_rate={float(frame.at[2, 'target_rate'])}, g={float(frame.at[2, 'g'])}"
    original = pd.read_parquet(tiny.run_of(measured, "S05") / "tables/table_T01_SUMMARY.parquet").at[2, "b_tot"]
    assert said.lines[folder.name] == [f"{relative}: row 2 ({key}), column b_tot: 0.987 on record, {original} made again"]
    assert said.last == "6 intact, 1 changed, 0 incomplete"
    assert verify(runs, SHORT).code == 0


def test_a_table_with_other_columns_rows_or_bytes_says_which(measured: Path, tmp_path: Path, verify: Verify) -> None:
    (tmp_path / "kind=x").mkdir()  # no column of a table
    runs = tiny.copied(measured, tmp_path / "kind=x" / "runs")
    folder = tiny.run_of(runs, "S06B")
    path = folder / "tables" / "table_T02_GENERALIZATION.parquet"
    whole, frame = path.read_bytes(), pd.read_parquet(path)
    for changed, expected in (
        (frame.drop(columns="b_tot"), "columns "),
        (frame.iloc[1:], f"{len(frame) - 1} rows, expected {len(frame)}"),
        (frame, "the same values in other bytes"),
        (b"no parquet", "it cannot be read as a table: "),
    ):
        if isinstance(changed, bytes):
            path.write_bytes(changed)
        else:
            changed.to_parquet(path)
        tiny.rehashed(folder, "tables/table_T02_GENERALIZATION.parquet")
        said = verify(runs, folder.name)
        (line,) = said.lines[folder.name]
        assert line.startswith(f"tables/table_T02_GENERALIZATION.parquet: {expected}")
        assert said.code == 2
    path.write_bytes(whole)
    tiny.rehashed(folder, "tables/table_T02_GENERALIZATION.parquet")
    assert verify(runs, folder.name).code == 0


def test_an_upstream_artifact_edited_with_its_hash_shows_in_the_chain(measured: Path, tmp_path: Path, verify: Verify) -> None:
    runs = tiny.copied(measured, tmp_path / "runs")
    grid = tiny.run_of(runs, "S02")
    path = grid / "results" / "metrics.parquet"
    frame = pd.read_parquet(path)
    frame["b_tot"] += 0.1
    frame.to_parquet(path)
    tiny.rehashed(grid, "results/metrics.parquet")
    said = verify(runs)
    assert said.code == 2
    assert said.status[grid.name] == "intact"
    assert {line.split()[0] for line in said.problems("since it was read")} == {f"{grid.name}/run_record.json"}
    assert {run_id for run_id, status in said.status.items() if status == "changed"} == below(runs, grid.name)


def test_tables_that_cannot_be_made_again_say_why(measured: Path, tmp_path: Path, verify: Verify) -> None:
    runs = tiny.copied(measured, tmp_path / "runs")
    folder = tiny.run_of(runs, "S05")
    path = folder / "results" / "ablation_events.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(path)
    tiny.rehashed(folder, "results/ablation_events.parquet")
    said = verify(runs, folder.name)
    assert said.code == 2
    assert said.lines[folder.name][0].startswith("its tables cannot be made again: ")
    assert said.status[folder.name] == "changed"


def test_other_code_is_named_beside_what_it_made(measured: Path, monkeypatch: pytest.MonkeyPatch, verify: Verify) -> None:
    made_by = read_record(tiny.run_of(measured, "S06B"))["hashes"]["code_version"]
    monkeypatch.setattr(remake, "code_version", lambda: "9.9.9+src.0123456789ab")
    monkeypatch.setattr(remake, "library_versions", lambda: {"numpy": "0.1"})
    said = verify(measured, name_of(measured, "S06B"))
    (line,) = said.lines[name_of(measured, "S06B")]
    assert said.code == 0
    assert re.fullmatch(rf"made again, equal: T02_GENERALIZATION \(made by code {re.escape(made_by)}, here 9\.9\.9\S+; numpy \S+, here 0\.1\)", line)
    monkeypatch.setattr(remake, "import_module", lambda name: None)
    said = verify(measured, name_of(measured, "S06B"))
    assert (said.code, said.status[name_of(measured, "S06B")]) == (2, "incomplete")


def test_tables_are_made_from_the_very_runs_that_were_read(runs: Path, monkeypatch: pytest.MonkeyPatch, verify: Verify) -> None:
    job = replace(small_runs.job_on(runs), run_id_mode="timestamp_counter")
    small_runs.begun_run(job, small_runs.PAPER_AND_ABOVE[0]).complete()
    found = []

    def tables(job: Job, run: object) -> dict[str, pd.DataFrame]:
        found.append(job.upstream("PHASE1_CALIBRATE").run_id)
        return {}

    with pytest.raises(MissingArtifact, match="all fit as upstream"):
        job.upstream("PHASE1_CALIBRATE")
    monkeypatch.setattr(remake, "MODULES", {"PHASE7_PAPER_EXPORT": "any"})
    monkeypatch.setattr(remake, "import_module", lambda name: SimpleNamespace(tables=tables))
    assert verify(runs, name_of(runs, "S07")).code == 0
    assert found == [chain_of(RunStore(runs), [name_of(runs, "S07")])[0]]
    assert found[0].startswith("RUN_S01_")


def test_every_phase_that_exports_tables_has_them_made_again() -> None:
    with_tables = {stage.phase_id for stage in stages().values() if any(name.endswith("_csv") for name in stage.artifacts)}
    assert with_tables == set(remake.MODULES)


# --- every later phase


@pytest.mark.parametrize("tag", ["S01", "S02", "S02B", "S03", "S04"])
def test_a_flipped_byte_upstream_stops_every_later_phase_before_it_writes(
    tag: str, measured: Path, config: Path, tmp_path: Path, verify: Verify
) -> None:
    for relative in sorted(read_record(tiny.run_of(measured, tag))["artifacts"].values()):
        runs = tiny.copied(measured, tmp_path / relative.replace("/", "_"))
        changed = tiny.run_of(runs, tag)
        tiny.flip_a_byte(changed / relative)
        said = verify(runs, SHORT)
        assert said.code == 2
        assert [line.split()[0] for line in said.problems("sha256")] == [relative]
        for later in reversed(MEASURED):
            if tiny.run_of(runs, later).name not in below(measured, changed.name):
                continue
            shutil.rmtree(tiny.run_of(runs, later))
            before = tiny.file_hashes(runs)
            with pytest.raises(MissingArtifact, match=f"{changed.name} is changed: {relative} "):
                phase(later)(tiny.job_of(config, runs))
            assert tiny.file_hashes(runs) == before
            assert not list(runs.glob(f"RUN_{later}_*"))


def test_a_phase_begins_where_a_run_that_it_does_not_read_lies_elsewhere(runs: Path) -> None:
    shutil.rmtree(tiny.run_of(runs, "S06ARC"))
    shutil.rmtree(tiny.run_of(runs, "S01"))
    run = small_runs.job_on(runs).begin("PHASE6_ARC_MCQ_EVAL")
    run.release()
    shutil.rmtree(run.folder)
    tiny.flip_a_byte(tiny.run_of(runs, "S02") / "results" / "metrics.parquet")
    with pytest.raises(MissingArtifact, match=r"results/metrics\.parquet changed since it was recorded"):
        small_runs.job_on(runs).begin("PHASE6_ARC_MCQ_EVAL")
    assert not list(runs.glob("RUN_S06ARC_*"))


# --- releases


@pytest.fixture(scope="module")
def archive(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tiny.copied(small, tmp_path_factory.mktemp("archive") / "runs")
    return runs / release(small_runs.job_on(runs)) / "results" / "release.zip"


def test_a_release_is_verified_as_a_zip_and_as_a_folder(archive: Path, tmp_path: Path, verify: Verify) -> None:
    said = verify(tmp_path / "no_runs_here", archive, SHORT)
    assert said.code == 0
    assert next(iter(said.status)) == "release.zip"
    assert said.last == f"{1 + len(small_runs.PAPER_AND_ABOVE)} intact, 0 changed, 0 incomplete"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "release")
    assert verify(tmp_path / "no_runs_here", tmp_path / "release", SHORT).last == said.last
    assert not (tmp_path / "no_runs_here").exists()


def test_a_release_below_the_home_folder_is_found(archive: Path, monkeypatch: pytest.MonkeyPatch, verify: Verify) -> None:
    monkeypatch.setenv("HOME", str(archive.parent))
    assert verify(archive.parent, "~/release.zip", SHORT).code == 0


def test_a_listed_file_that_cannot_be_read_is_named(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "release")

    def hashed(path: Path) -> str:
        if path.name == "LICENSE":
            raise PermissionError(13, "Permission denied")
        return sha256_file(path)

    monkeypatch.setattr(chain, "sha256_file", hashed)
    said = verify(tmp_path, tmp_path / "release", SHORT)
    assert said.code == 2
    assert said.lines["release"][0].startswith("pack/LICENSE cannot be read (Permission denied, expected sha256 ")


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("pack", r"pack/LICENSE changed since it was listed \(sha256 \w{12}, expected \w{12}\)"),
        ("gone", r"pack/LICENSE is missing or a link \(expected sha256 \w{12}\)"),
        ("more", r"pack/more\.md is not in MANIFEST\.sha256"),
        ("no manifest", r"it has no MANIFEST\.sha256 at its top"),
        ("manifest", r"MANIFEST\.sha256, line 1: expected .*"),
        ("run", r"runs/RUN_S01_\w+/results/rate_targets\.json changed since it was listed \(.*\)"),
    ],
)
def test_a_changed_release_is_named(what: str, line: str, archive: Path, tmp_path: Path, verify: Verify) -> None:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "release")
    folder = tmp_path / "release"
    match what:
        case "pack":
            tiny.flip_a_byte(folder / "pack" / "LICENSE")
        case "gone":
            (folder / "pack" / "LICENSE").unlink()
        case "more":
            (folder / "pack" / "more.md").write_text("more")
        case "no manifest":
            (folder / "MANIFEST.sha256").unlink()
        case "manifest":
            (folder / "MANIFEST.sha256").write_text("nonsense\n")
        case "run":
            tiny.flip_a_byte(tiny.run_of(folder / "runs", "S01") / "results" / "rate_targets.json")
    said = verify(tmp_path, folder, SHORT)
    assert said.code == 2
    assert re.fullmatch(line, said.lines["release"][0])
    assert ("rate_targets" in " ".join(said.lines[name_of(folder / "runs", "S01")])) == (what == "run")


def test_a_release_that_is_not_there_is_exit_three_and_no_zip_is_exit_two(small: Path, tmp_path: Path, verify: Verify) -> None:
    assert verify(small, tmp_path / "none.zip").code == 3
    (tmp_path / "empty").mkdir()
    assert verify(small, tmp_path / "empty").status == {"empty": "incomplete"}
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    said = verify(small, tmp_path / "bad.zip")
    assert said.code == 2
    assert "is not a zip that can be read" in said.err
