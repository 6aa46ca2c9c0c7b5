"""Run directories: begun once, resumed by one, complete or not, found by content, never changed afterwards."""

import errno
import fcntl
import multiprocessing
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import small_runs
import tiny

from avalanche_llm.config import Overrides, ResolvedConfig
from avalanche_llm.errors import (
    AvalancheError,
    DeterminismError,
    EnvironmentProblem,
    MissingArtifact,
    RunExists,
    SchemaError,
    UsageError,
)
from avalanche_llm.io import artifacts, store
from avalanche_llm.io.artifacts import Run, read_record
from avalanche_llm.io.files import json_bytes, raw
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.phases.job import JobRequest
from avalanche_llm.run_id import RunIdMode
from avalanche_llm.stages import stages

STAGE = stages()["PHASE1_CALIBRATE"]
CHILD = """
import sys, time
from pathlib import Path
from avalanche_llm.phases.job import JobRequest
from avalanche_llm.stages import stages
job = JobRequest(Path(sys.argv[1]), runs_dir=Path(sys.argv[2])).job()
job.store.begin(stages()["PHASE1_CALIBRATE"], job.config, allow_resume=True)
print("held", flush=True)
time.sleep(3600)
"""
PATIENCE_S = 600
"""Processes import for seconds on an idle machine."""


@pytest.fixture(scope="module")
def resolved(config: Path) -> ResolvedConfig:
    return JobRequest(config).job().config


@pytest.fixture
def runs(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def finish(run: Run) -> Upstream:
    for name in run.stage.artifacts:
        run.save(name, raw(f"content of {name}\n".encode()))
    run.complete()
    return Upstream(run.folder, read_record(run.folder))


def finished(runs: RunStore, resolved: ResolvedConfig, mode: RunIdMode = "content_hash") -> Upstream:
    return finish(runs.begin(STAGE, resolved, mode=mode))


def other_config(config: Path, **overrides: str) -> ResolvedConfig:
    return JobRequest(config, Overrides(**overrides)).job().config


def begin_in_step(barrier: Barrier, config: Path, root: Path, allow_resume: bool, queue: "multiprocessing.Queue[str]") -> None:
    job = JobRequest(config, runs_dir=root).job()
    barrier.wait()
    try:
        job.store.begin(STAGE, job.config, allow_resume=allow_resume)
        queue.put("won")
    except AvalancheError as error:
        queue.put(f"{type(error).__name__} {error.exit_code}")
    barrier.wait()  # the winner keeps the lock until everybody has tried


def race(config: Path, root: Path, *, n: int, allow_resume: bool) -> list[str]:
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(n, timeout=PATIENCE_S), context.Queue()
    processes = [context.Process(target=begin_in_step, args=(barrier, config, root, allow_resume, queue), daemon=True) for _ in range(n)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=PATIENCE_S) for _ in processes]
    for process in processes:
        process.join()
    return sorted(answers)


def test_begin_makes_a_whole_directory_with_a_started_record(runs: RunStore, resolved: ResolvedConfig) -> None:
    run = runs.begin(STAGE, resolved)
    record = read_record(run.folder)
    assert record["stage_status"] == "started"
    assert record["completed_utc"] is None
    assert record["hashes"]["config_sha256"] == resolved.sha256
    assert (run.folder / "config_resolved.yaml").read_bytes() == resolved.canonical
    assert {path.name for path in run.folder.iterdir() if path.is_dir()} == {"results", "figs", "tables", "logs", "cache"}
    assert set(record["versions"]) >= {"python", "torch", "transformers"}
    assert [path.name for path in runs.root.iterdir()] == [run.run_id]


def test_begin_again_is_run_exists_and_leaves_the_first_untouched(runs: RunStore, resolved: ResolvedConfig) -> None:
    done = finished(runs, resolved)
    before = tiny.file_hashes(done.folder)
    times = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")}
    for allow_resume in (False, True):
        with pytest.raises(RunExists, match="is complete and stays as it is") as caught:
            runs.begin(STAGE, resolved, allow_resume=allow_resume)
        assert caught.value.exit_code == 4
    assert tiny.file_hashes(done.folder) == before
    assert {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")} == times
    assert [path.name for path in runs.root.iterdir()] == [done.run_id]


def test_begin_continues_an_incomplete_run_only_when_allowed(runs: RunStore, resolved: ResolvedConfig) -> None:
    run = runs.begin(STAGE, resolved)
    run.save("rate_targets", raw(b"{}"))
    run.release()
    with pytest.raises(RunExists, match="is incomplete; continue it with --allow_resume"):
        runs.begin(STAGE, resolved)
    again = runs.begin(STAGE, resolved, allow_resume=True)
    assert again.run_id == run.run_id
    assert again.holds("rate_targets")
    assert not again.holds("calibration_stats")


def test_begin_refuses_parts_made_by_other_code(
    runs: RunStore, resolved: ResolvedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.begin(STAGE, resolved).release()
    monkeypatch.setattr(store, "code_version", lambda: "9.9.9+src.000000000000")
    with pytest.raises(DeterminismError, match=r"was begun by code 0\.1\.0\+src\..*, this is 9\.9\.9") as caught:
        runs.begin(STAGE, resolved, allow_resume=True)
    assert caught.value.exit_code == 2


def test_begin_where_no_folder_can_be_made_is_an_environment_problem(tmp_path: Path, resolved: ResolvedConfig) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentProblem, match=r"the runs folder .*file/runs cannot be written: Not a directory") as caught:
        RunStore(tmp_path / "file" / "runs").begin(STAGE, resolved)
    assert caught.value.exit_code == 1


def test_begin_by_four_processes_at_once_is_won_by_one(runs: RunStore, config: Path) -> None:
    assert race(config, runs.root, n=4, allow_resume=False) == ["RunExists 4"] * 3 + ["won"]
    assert len(list(runs.root.iterdir())) == 1


def test_resume_by_three_processes_at_once_is_won_by_one(runs: RunStore, resolved: ResolvedConfig, config: Path) -> None:
    runs.begin(STAGE, resolved).release()
    assert race(config, runs.root, n=3, allow_resume=True) == ["RunExists 4"] * 2 + ["won"]


def test_resume_is_refused_while_the_first_process_lives_and_possible_once_it_was_killed(
    runs: RunStore, resolved: ResolvedConfig, config: Path
) -> None:
    command = [sys.executable, "-c", CHILD, str(config), str(runs.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tiny.REPO) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            with pytest.raises(RunExists, match="is being written by another process; wait for it to end"):
                runs.begin(STAGE, resolved, allow_resume=True)
        finally:
            child.send_signal(signal.SIGKILL)
    finish(runs.begin(STAGE, resolved, allow_resume=True))


def test_acquire_after_another_process_completed_the_run_touches_nothing(runs: RunStore, resolved: ResolvedConfig) -> None:
    late = Run(runs.root / "x", STAGE, {})
    done = finished(runs, resolved)
    late.folder = done.folder
    before = tiny.file_hashes(done.folder)
    with pytest.raises(RunExists, match="another process completed the run"):
        late.acquire()
    assert tiny.file_hashes(done.folder) == before
    assert not (done.folder / "cache").exists()


def test_complete_makes_everything_read_only_and_drops_the_cache(runs: RunStore, resolved: ResolvedConfig) -> None:
    run = runs.begin(STAGE, resolved)
    (run.cache / "gain_1.0.parquet").write_bytes(b"part")
    (run.folder / "results" / ".part-left").write_bytes(b"by a killed process")
    done = finish(run)
    assert done.record["stage_status"] == "complete"
    names = {path.relative_to(done.folder).as_posix() for path in done.folder.rglob("*") if path.is_file()}
    assert names == {"run_record.json", "config_resolved.yaml", "logs/events.jsonl", *STAGE.artifacts.values()}
    assert not (done.folder / "cache").exists()
    for path in (done.folder, *done.folder.rglob("*")):
        assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def test_complete_leaves_what_a_link_in_the_folder_points_to(runs: RunStore, resolved: ResolvedConfig, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"not ours")
    run = runs.begin(STAGE, resolved)
    (run.folder / "logs" / "link").symlink_to(tmp_path / "elsewhere")
    (run.folder / "logs" / "dangling").symlink_to(tmp_path / "nothing")
    assert finish(run).record["stage_status"] == "complete"
    assert (tmp_path / "elsewhere").stat().st_mode & stat.S_IWUSR


def test_a_file_system_without_locks_is_an_environment_problem(
    runs: RunStore, resolved: ResolvedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refused)
        with pytest.raises(EnvironmentProblem, match=r"cache/\.lock cannot be locked: No locks available; the runs folder must lie"):
            runs.begin(STAGE, resolved)
    finish(runs.begin(STAGE, resolved, allow_resume=True))


def test_a_run_is_not_resumed_over_other_upstream_runs(tmp_path: Path) -> None:
    first, second, *_ = small_runs.PAPER_AND_ABOVE
    folder = tmp_path / "runs"
    job = small_runs.job_on(folder, allow_resume=True)
    one = small_runs.begun_run(job, first)
    one.complete()
    for _ in range(2):  # over the same run it goes on
        job.begin(second.phase_id).release()
    other = small_runs.begun_run(small_runs.job_on(folder, run_id_mode="timestamp_counter"), first)
    other.complete()
    chosen = {run.run_id: small_runs.job_on(folder, allow_resume=True, pinned=(run.run_id,)) for run in (one, other)}
    both = ", ".join(sorted(chosen))
    with pytest.raises(DeterminismError, match=rf"RUN_S02_\w+ was begun over other runs .* \({both}\); name those with --dep"):
        chosen[other.run_id].begin(second.phase_id)
    with pytest.raises(DeterminismError, match=rf"was begun over other runs .* \({other.run_id}\)"):
        chosen[one.run_id].begin(second.phase_id, [job.store.get(other.run_id)])
    chosen[one.run_id].begin(second.phase_id).release()


def test_complete_refuses_a_run_with_an_artifact_missing(runs: RunStore, resolved: ResolvedConfig) -> None:
    run = runs.begin(STAGE, resolved)
    run.save("rate_targets", raw(b"{}"))
    with pytest.raises(SchemaError, match="cannot be completed: calibration_stats not written"):
        run.complete()
    assert runs.state(run.run_id) == "incomplete"


def test_save_indexes_the_artifact_and_the_record_follows_at_once(runs: RunStore, resolved: ResolvedConfig) -> None:
    run = runs.begin(STAGE, resolved)
    run.save("rate_targets", raw(b"{}\n"))
    record = read_record(run.folder)
    (entry,) = record["artifact_index"]
    assert record["artifacts"] == {"rate_targets": "results/rate_targets.json"}
    assert entry["relative_path"] == "results/rate_targets.json"
    assert entry["bytes"] == 3
    assert entry["sha256"] == tiny.file_hashes(run.folder)["results/rate_targets.json"]
    line = tiny.events_of(run.folder)[-1]
    assert set(line) == {"ts_utc", "run_id", "event_type", "payload"}
    assert (line["event_type"], line["payload"]["sha256"]) == ("artifacts_written", entry["sha256"])


def test_save_keeps_a_held_artifact_and_replaces_a_changed_one(runs: RunStore, resolved: ResolvedConfig) -> None:
    run = runs.begin(STAGE, resolved)
    path = run.save("rate_targets", raw(b"first"))
    run.save("rate_targets", raw(b"second"))
    assert path.read_bytes() == b"first"
    path.write_bytes(b"changed by hand")
    run.save("rate_targets", raw(b"second"))
    assert path.read_bytes() == b"second"
    assert len(run.record["artifact_index"]) == 1


def test_find_without_a_run_says_which_phase_to_run(runs: RunStore, resolved: ResolvedConfig) -> None:
    runs.begin(STAGE, resolved).release()  # an incomplete one does not count
    with pytest.raises(
        MissingArtifact, match="no complete phase1_calibrate run for this config under .*; run phase1_calibrate first"
    ) as caught:
        runs.find(STAGE, resolved)
    assert caught.value.exit_code == 3


def test_find_with_two_runs_names_both_and_the_option_that_chooses(runs: RunStore, resolved: ResolvedConfig) -> None:
    first, second = (finished(runs, resolved, "timestamp_counter") for _ in range(2))
    with pytest.raises(MissingArtifact, match=f"{first.run_id} and {second.run_id} all fit .*choose one with --dep RUN_ID"):
        runs.find(STAGE, resolved)
    assert runs.find(STAGE, resolved, pinned=[second.run_id]).run_id == second.run_id


def test_find_prefers_the_same_whole_config_and_shares_a_run_of_the_same_scope(
    runs: RunStore, resolved: ResolvedConfig, config: Path
) -> None:
    done = finished(runs, resolved)
    sibling = other_config(config, data_b="another/text")
    assert sibling.sha256 != resolved.sha256
    assert runs.find(STAGE, sibling).run_id == done.run_id
    own = finished(runs, sibling)
    assert runs.find(STAGE, sibling).run_id == own.run_id
    assert runs.find(STAGE, resolved).run_id == done.run_id


@pytest.mark.parametrize(
    "override", [{"dtype": "bf16"}, {"data_a": "other"}, {"model_id": "other"}, {"model_role": "BASE", "model_id": "m"}]
)
def test_find_shares_no_run_across_what_changes_its_numbers(
    override: dict[str, str], runs: RunStore, resolved: ResolvedConfig, config: Path
) -> None:
    done = finished(runs, resolved)
    stranger = other_config(config, **override)
    with pytest.raises(MissingArtifact, match="no complete phase1_calibrate run"):
        runs.find(STAGE, stranger)
    with pytest.raises(MissingArtifact, match=f"--dep {done.run_id} was made with another config"):
        runs.find(STAGE, stranger, pinned=[done.run_id])


def test_find_refuses_a_pinned_id_that_is_none_or_not_there(runs: RunStore, resolved: ResolvedConfig) -> None:
    with pytest.raises(UsageError, match="is not a run id"):
        runs.find(STAGE, resolved, pinned=["../elsewhere"])
    with pytest.raises(MissingArtifact, match="no run RUN_S01_0123456789ab under"):
        runs.find(STAGE, resolved, pinned=["RUN_S01_0123456789ab"])


def test_find_passes_over_what_is_no_honest_run(runs: RunStore, resolved: ResolvedConfig) -> None:
    done = finished(runs, resolved)
    honest = done.folder
    honest.chmod(0o755)
    shutil.copytree(honest, runs.root / "RUN_S01_00000000000a")  # renamed: the record names another run
    (runs.root / "RUN_S01_00000000000b").symlink_to(honest)
    (runs.root / "RUN_S01_00000000000c").mkdir()
    (runs.root / "RUN_S01_00000000000c" / "run_record.json").write_bytes(b'{"run_id": "RUN_S01_00000000000c"}')
    (runs.root / "RUN_S01_notes.txt").write_bytes(b"")
    assert runs.find(STAGE, resolved).run_id == done.run_id
    assert runs.state("RUN_S01_00000000000c") == "damaged"


def test_get_refuses_a_run_whose_config_is_not_the_one_on_record(runs: RunStore, resolved: ResolvedConfig) -> None:
    done = finished(runs, resolved)
    config_file = done.folder / "config_resolved.yaml"
    config_file.chmod(0o644)
    config_file.write_bytes(resolved.canonical.replace(b"seed: 1337", b"seed: 1338"))
    with pytest.raises(MissingArtifact, match="config_resolved.yaml is missing or is not the config on record"):
        runs.get(done.run_id)


@pytest.mark.parametrize("harm", ["changed", "removed", "linked"])
def test_artifact_that_is_not_the_recorded_one_is_missing_and_named(harm: str, runs: RunStore, resolved: ResolvedConfig) -> None:
    done = finished(runs, resolved)
    path = done.artifact("rate_targets")
    content = path.read_bytes()
    path.parent.chmod(0o755)
    path.unlink()
    if harm == "changed":
        path.write_bytes(content[:-2] + b"!\n")
    if harm == "linked":
        (path.parent / "same.json").write_bytes(content)
        path.symlink_to(path.parent / "same.json")
    with pytest.raises(MissingArtifact, match="results/rate_targets.json .*rebuild " + done.run_id) as caught:
        done.artifact("rate_targets")
    assert caught.value.exit_code == 3


def test_artifact_that_the_record_does_not_index_is_missing(runs: RunStore, resolved: ResolvedConfig) -> None:
    done = finished(runs, resolved)
    with pytest.raises(MissingArtifact, match="has no artifact 'gstar' in its record"):
        done.artifact("gstar")
    with pytest.raises(MissingArtifact, match="has no artifact 'rate_targets'"):
        replace(done, record={**done.record, "artifact_index": []}).artifact("rate_targets")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"{}"])
def test_read_record_refuses_what_is_no_record(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run_record.json").write_bytes(content)
    with pytest.raises(SchemaError, match="run_record.json"):
        read_record(tmp_path)


def test_read_record_refuses_a_huge_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "MAX_RECORD_BYTES", 10)
    (tmp_path / "run_record.json").write_bytes(json_bytes({"padding": "x" * 20}))
    with pytest.raises(SchemaError, match="is larger than 10 bytes"):
        read_record(tmp_path)


def test_interrupted_gives_the_lock_back_on_a_full_disk_too(runs: RunStore, resolved: ResolvedConfig) -> None:
    run = runs.begin(STAGE, resolved)
    (run.folder / "logs" / "events.jsonl").symlink_to("/dev/full")
    run.interrupted(EnvironmentProblem("the disk is full"))
    (run.folder / "logs" / "events.jsonl").unlink()
    finish(runs.begin(STAGE, resolved, allow_resume=True))
