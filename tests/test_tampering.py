"""Whatever is changed in an upstream run is met before the next phase writes anything; the message names it (spec 15, 21).

Small runs of every stage, made by the run store, so that each stage meets each artifact of each run below it.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_runs
import tiny

from avalanche_llm.cli import main
from avalanche_llm.errors import MissingArtifact, RunExists
from avalanche_llm.io.artifacts import CONFIG_NAME, RECORD_NAME, read_record
from avalanche_llm.io.store import RunStore
from avalanche_llm.phases.gain_grid import measure_gain, plan_grid
from avalanche_llm.phases.release import release
from avalanche_llm.phases.report import report
from avalanche_llm.release.chain import verdicts
from avalanche_llm.resources import packaged
from avalanche_llm.stages import Stage, stages

STAGES = {stage.tag: stage for stage in stages().values()}
MADE = [stage.tag for stage in small_runs.PAPER_AND_ABOVE]
KINDS = [(tag, name) for tag in MADE for name in (*STAGES[tag].artifacts, CONFIG_NAME, RECORD_NAME) if name not in STAGES[tag].optional]
UNSEEN = {"created_utc", "completed_utc", "timings", "versions", "conditions", "model", "dataset", "determinism", "pack_version", "dependencies"}
"""Fields that say something of a run and do not choose it: an edit shows in the hash that the first reader took of the record."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every stage up to the paper. Changed and put back by each test."""
    runs = tmp_path_factory.mktemp("small")
    return tiny.copied(small_runs.every_run(runs / "made"), runs / "runs")


@pytest.fixture
def runs(small: Path, tmp_path: Path) -> Path:
    return tiny.copied(small, tmp_path / "runs")


def directly_above(tag: str) -> list[Stage]:
    """The stages that read a run of this one."""
    return [stage for stage in stages().values() if STAGES[tag].phase_id in stage.needs]


def start(stage: Stage, runs: Path) -> None:
    """What a phase does before it writes: the two that check more than `begin` does are run as they are."""
    job = small_runs.job_on(runs)
    special: dict[str, Callable[[Any], str]] = {"PHASE8_RELEASE": release, "REPORT": report}
    if stage.phase_id in special:
        special[stage.phase_id](job)
    else:
        job.begin(stage.phase_id).release()


def refused(stage: Stage, runs: Path, tmp_path: Path) -> str:
    """The phase does not start where its own run is away; nothing at all changed. What it said."""
    own = list(runs.glob(f"RUN_{stage.tag}_*"))
    for folder in own:
        folder.rename(tmp_path / folder.name)
    before = tiny.file_hashes(runs)
    try:
        with pytest.raises(MissingArtifact) as caught:
            start(stage, runs)
        assert caught.value.exit_code == 3
        assert tiny.file_hashes(runs) == before
        assert not list(runs.glob(f"RUN_{stage.tag}_*"))
    finally:
        for folder in own:
            (tmp_path / folder.name).rename(folder)
    return str(caught.value)


def verified(folder: Path) -> list[str]:
    """What `verify` finds of this run itself; nothing where all is well."""
    (verdict,) = verdicts(RunStore(folder.parent), [folder.name])
    return [problem for problem in verdict.problems if "rests on" not in problem]


def test_every_stage_is_read_by_another_but_the_last_two() -> None:
    assert {tag for tag in STAGES if not directly_above(tag)} == {"S08", "S09"}
    assert {tag for tag, _ in KINDS} == set(STAGES) - {"S08", "S09"}


@pytest.mark.parametrize(("tag", "name"), KINDS, ids=["-".join(kind) for kind in KINDS])
def test_a_flipped_byte_is_named_by_the_next_phase_and_by_verify(tag: str, name: str, small: Path, tmp_path: Path) -> None:
    folder = tiny.run_of(small, tag)
    relative = name if name in (CONFIG_NAME, RECORD_NAME) else STAGES[tag].artifacts[name]
    path, whole = folder / relative, (folder / relative).read_bytes()
    if name == RECORD_NAME:  # a digit of a recorded hash: flips elsewhere in a record are the edits below
        place = whole.index(b'"sha256": "') + 20
        path.write_bytes(whole[:place] + (b"1" if whole[place : place + 1] == b"0" else b"0") + whole[place + 1 :])
    else:
        tiny.flip_a_byte(path)
    try:
        above = directly_above(tag)
        said = refused(above[KINDS.index((tag, name)) % len(above)], small, tmp_path)
        assert folder.name in said
        named = relative if name != RECORD_NAME else next(iter(STAGES[tag].artifacts.values()))
        assert named in said
        (problem,) = verified(folder)
        assert re.fullmatch(rf"{re.escape(named)} changed since it was recorded \(sha256 \w{{12}}, expected \w{{12}}\)", problem)
    finally:
        path.write_bytes(whole)
    assert verified(folder) == []


@pytest.mark.parametrize("field", sorted(json.loads(packaged("spec/run_record.schema.json").read_bytes())["properties"]))
def test_an_edited_field_of_a_record_is_met_at_the_latest_by_the_second_reader(field: str, runs: Path, tmp_path: Path) -> None:
    """The grid read the calibration and took its record's hash; phase 3 reads both. The schema's fields, so none is forgotten."""
    folder = tiny.run_of(runs, "S01")

    def change(record: dict[str, Any]) -> None:
        value = record[field]
        record[field] = {
            "project_id": "another",
            "run_id": "RUN_S01_000000000000",
            "phase_id": "PHASE2_GAIN_GRID",
            "stage_status": "started",
            "pack_version": "0.0",
            "created_utc": "2001-01-01T00:00:00.000000+00:00",
            "completed_utc": "2001-01-01T00:00:00.000000+00:00",
            "dependencies": [{"run_id": "RUN_S01_000000000000", "phase_id": "PHASE1_CALIBRATE", "config_sha256": "0" * 64, "record_sha256": "0" * 64}],
            "timings": {"active_s": 1e6},
            "conditions": [{"g": 7.0}],
            "artifacts": dict(list(value.items())[:1]) if field == "artifacts" else None,
            "artifact_index": value[:1] if field == "artifact_index" else None,
            "dataset": {"A_CALIBRATION": {"role": "A_CALIBRATION", "id": "another", "sha256": "0" * 64}},
            "model": {**value, "id": "another"} if field == "model" else None,
            "hashes": {**value, "scope_sha256": "0" * 64} if field == "hashes" else None,
            "versions": {**value, "torch": "0"} if field == "versions" else None,
            "determinism": {**value, "seed": 0} if field == "determinism" else None,
        }[field]

    tiny.edited(folder, change)
    assert folder.name in refused(STAGES["S03"], runs, tmp_path)
    (tmp_path / "own").mkdir()
    if field not in UNSEEN:
        assert folder.name in refused(STAGES["S02"], runs, tmp_path / "own")


def test_an_index_entry_deleted_from_a_record_is_named(runs: Path, tmp_path: Path) -> None:
    folder = tiny.run_of(runs, "S02")
    tiny.edited(folder, lambda record: record["artifact_index"].pop())
    assert "artifact metrics has no hash on record" in refused(STAGES["S02B"], runs, tmp_path)
    tiny.edited(folder, lambda record: record["artifacts"].pop("metrics"))
    assert "results/metrics.parquet is not in the artifact index" in refused(STAGES["S02B"], runs, tmp_path)


def test_files_of_two_runs_swapped_are_named(runs: Path, tmp_path: Path) -> None:
    one, other = (tiny.run_of(runs, tag) / "results" / "metrics.parquet" for tag in ("S02", "S03"))
    one.rename(tmp_path / "kept")
    other.rename(one)
    (tmp_path / "kept").rename(other)
    for stage in ("S02B", "S04", "S06B"):
        assert "results/metrics.parquet changed since it was recorded" in refused(STAGES[stage], runs, tmp_path)


def test_folders_of_two_runs_swapped_are_named(runs: Path, tmp_path: Path) -> None:
    other = small_runs.begun_run(small_runs.job_on(runs, data_a=tiny.SHIPPED["B"]), STAGES["S01"])
    other.complete()
    own = next(folder for folder in runs.glob("RUN_S01_*") if folder != other.folder)
    own.rename(tmp_path / "kept")
    other.folder.rename(own)
    (tmp_path / "kept").rename(other.folder)
    assert f"{own.name}/run_record.json belongs to {other.folder.name}" in refused(STAGES["S02"], runs, tmp_path)


@pytest.mark.parametrize("tag", MADE)
def test_a_run_folder_that_is_a_link_is_named(tag: str, small: Path, tmp_path: Path) -> None:
    folder = tiny.run_of(small, tag)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own").mkdir()
    try:
        for stage in directly_above(tag):
            assert f"{folder} is a link" in refused(stage, small, tmp_path / "own")
        assert any("the folder is a link" in problem for problem in verified(folder))
    finally:
        folder.unlink()
        (tmp_path / "elsewhere").rename(folder)


@pytest.mark.parametrize("what", ["artifact", "folder of artifacts", RECORD_NAME, CONFIG_NAME])
def test_a_file_replaced_by_a_link_out_of_the_runs_folder_is_named(what: str, runs: Path, tmp_path: Path) -> None:
    folder = tiny.run_of(runs, "S02B")
    path = {"artifact": folder / "results" / "gstar.json", "folder of artifacts": folder / "results"}.get(what, folder / what)
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    relative = path.relative_to(folder).as_posix()
    for tag in ("S03", "S06ARC"):
        assert f"{folder.name} is changed: {relative} is a link" in refused(STAGES[tag], runs, tmp_path)
    assert any(f"{relative} is a link" in problem for problem in verified(folder))


@pytest.mark.parametrize("whole", [True, False], ids=["the folder is there", "it leads nowhere"])
def test_no_run_is_begun_or_resumed_through_a_link(whole: bool, tmp_path: Path) -> None:
    job = small_runs.job_on(tmp_path / "runs", allow_resume=True)
    run = job.begin("PHASE1_CALIBRATE")
    run.release()
    run.folder.rename(tmp_path / "elsewhere")
    if not whole:
        shutil.rmtree(tmp_path / "elsewhere")
    run.folder.symlink_to(tmp_path / "elsewhere")
    before = tiny.file_hashes(tmp_path)
    with pytest.raises(RunExists, match="is a link, and no run is written through one") as caught:
        job.begin("PHASE1_CALIBRATE")
    assert caught.value.exit_code == 4
    assert tiny.file_hashes(tmp_path) == before


def test_the_command_line_names_a_changed_file_with_exit_three(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.flip_a_byte(tiny.run_of(runs, "S06ARC") / "figs" / "fig_F07_ARC_MCQ.pdf")
    config = tiny.REPO / "configs" / "demo.yaml"
    assert main(["report", "--config", str(config), "--runs_dir", str(runs)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: RUN_S06ARC_")
    assert "is changed: figs/fig_F07_ARC_MCQ.pdf changed since it was recorded" in line


def test_a_file_that_vanishes_while_a_phase_runs_is_exit_three_and_named(
    pipeline: Path, config: Path, tmp_path: Path
) -> None:
    """It was there, and whole, when the phase began."""
    runs = tiny.copied(pipeline, tmp_path / "runs", "S01")
    source = tiny.run_of(runs, "S01")
    job = tiny.job_of(config, runs)
    plan = plan_grid(job)
    gone = source / "results" / "calibration_stats.npz"
    gone.unlink()
    with pytest.raises(MissingArtifact, match=rf"{gone} is missing or a link; rebuild {source.name}") as caught:
        measure_gain(job, plan.run_id, plan.missing[0])
    assert caught.value.exit_code == 3
    assert read_record(runs / plan.run_id)["stage_status"] == "started"
