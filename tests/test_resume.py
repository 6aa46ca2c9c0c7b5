"""Interrupted runs: killed, out of disk space, raced; what was measured is kept, and the end is the same, byte for byte."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import tiny
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from avalanche_llm.cli import main
from avalanche_llm.errors import AvalancheError, EnvironmentProblem
from avalanche_llm.io.artifacts import Run, read_record
from avalanche_llm.phases.calibrate import calibrate
from avalanche_llm.phases.gain_grid import gain_grid, measure_gain, plan_grid, publish_grid
from avalanche_llm.phases.job import Job

FIRST_GAIN = """
import sys, time
from avalanche_llm.phases import gain_grid
real = gain_grid.keep
def keep(*arguments):
    real(*arguments)
    time.sleep(3600)
gain_grid.keep = keep
from avalanche_llm.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""The command line, which stays where its first gain is kept: so that it cannot end before it is killed, however loaded the machine."""
PER_PASS = tiny.N_WINDOWS // tiny.BATCH
DEADLINE_S = 600.0


@pytest.fixture
def calibrated(pipeline: Path, tmp_path: Path) -> Path:
    """A runs folder with phase 1 complete and nothing else."""
    return tiny.copied(pipeline, tmp_path / "runs", "S01")


@contextmanager
def decoder_calls() -> Iterator[list[int]]:
    """Windows in each pass over whole windows; a model just loaded is also probed with a few tokens, one that is kept is not."""
    calls: list[int] = []

    def count(module: torch.nn.Module, arguments: Any) -> None:
        if isinstance(module, torch.nn.Embedding) and arguments[0].shape[1] == tiny.SEQ_LEN:
            calls.append(arguments[0].shape[0])

    handle = register_module_forward_pre_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


@contextmanager
def disk_full_at(call: int) -> Iterator[None]:
    """The n-th fsync finds the disk full, and so does every later one."""
    real, seen = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal seen
        seen += 1
        if seen >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


def grid_command(config: Path, runs: Path, *more: str) -> list[str]:
    return ["phase2_gain_grid", "--config", str(config), "--runs_dir", str(runs), *more]


def wait_for_a_part(runs: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not list(runs.glob("RUN_S02_*/cache/gain_*.parquet")):
        assert process.poll() is None, "the grid ended before it was killed"
        assert time.monotonic() < deadline, "the grid never measured a gain"
        time.sleep(0.002)


def test_a_grid_killed_in_the_middle_resumes_to_the_same_bytes_and_measures_only_what_is_missing(
    calibrated: Path, pipeline: Path, config: Path
) -> None:
    command = [sys.executable, "-c", FIRST_GAIN, *grid_command(config, calibrated)]
    with subprocess.Popen(command, cwd=tiny.REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_a_part(calibrated, process)
        finally:
            process.kill()
    folder = tiny.run_of(calibrated, "S02")
    parts = {path.name for path in (folder / "cache").glob("gain_*.parquet")}
    missing = [gain for gain in tiny.GAINS if f"gain_{gain!r}.parquet" not in parts]
    assert len(missing) == len(tiny.GAINS) - 1
    assert read_record(folder)["stage_status"] == "started"
    assert main(grid_command(config, calibrated)) == 4
    with decoder_calls() as calls:
        assert main(grid_command(config, calibrated, "--allow_resume")) == 0
    assert calls == [tiny.BATCH] * PER_PASS * len(missing)
    assert tiny.result_hashes(folder) == tiny.result_hashes(tiny.run_of(pipeline, "S02"))
    lines = tiny.events_of(folder)
    starts = [index for index, line in enumerate(lines) if line["event_type"] == "start"]
    assert [lines[index]["payload"]["resumed"] for index in starts] == [False, True]
    measured_again = [line["payload"]["g"] for line in lines[starts[1] :] if line["event_type"] == "gain_measured"]
    assert measured_again == missing
    with dg.DagsterInstance.get() as instance:  # the killed process left no run behind that seems to go on, nor a held slot
        assert not instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0


@pytest.mark.parametrize(("phase", "tag", "step"), [(calibrate, "S01", 1), (gain_grid, "S02", 6)])
def test_a_disk_that_is_full_at_any_write_leaves_an_honest_record_and_the_run_can_be_finished(
    phase: Callable[[Job], str], tag: str, step: int, calibrated: Path, pipeline: Path, config: Path
) -> None:
    """Each attempt gets a little further than the one before. None may leave a record that is invalid or claims too much."""
    if tag == "S01":
        shutil.rmtree(calibrated)
    job = tiny.job_of(config, calibrated, allow_resume=True)
    for call in range(1, 1000, step):
        try:
            with disk_full_at(call):
                phase(job)
            break
        except EnvironmentProblem as error:
            assert "No space left on device; free space or rights are needed" in str(error)
        for folder in calibrated.glob(f"RUN_{tag}_*"):
            record = read_record(folder)
            if record["stage_status"] == "complete":  # only the fsync of its folder failed: everything is there
                assert set(record["artifacts"]) == set(read_record(tiny.run_of(pipeline, tag))["artifacts"])
            for entry in record["artifact_index"]:
                assert tiny.file_hashes(folder)[entry["relative_path"]] == entry["sha256"]
            assert not list(folder.rglob(".part-*"))
        if any(read_record(folder)["stage_status"] == "complete" for folder in calibrated.glob(f"RUN_{tag}_*")):
            break
    assert call > 5 * step
    assert tiny.result_hashes(tiny.run_of(calibrated, tag)) == tiny.result_hashes(tiny.run_of(pipeline, tag))
    assert not list(calibrated.glob(".new-*"))


def test_a_reader_finds_a_valid_record_at_every_moment(config: Path, tmp_path: Path) -> None:
    job = tiny.job_of(config, tmp_path / "runs")
    statuses: list[tuple[str, str, int]] = []
    problems: list[AvalancheError] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for folder in sorted((tmp_path / "runs").glob("RUN_*")):
                try:
                    record = read_record(folder)
                except AvalancheError as error:
                    problems.append(error)
                    return
                statuses.append((folder.name, record["stage_status"], len(record["artifacts"])))
            time.sleep(0.001)  # a reader that never pauses leaves the writer no time

    reader = threading.Thread(target=read)
    reader.start()
    try:
        run_ids = [calibrate(job), gain_grid(job)]
    finally:
        done.set()
        reader.join()
    assert not problems
    for run_id in run_ids:
        seen = [(status, n) for name, status, n in statuses if name == run_id]
        assert len(seen) > 10
        assert [status for status, _ in seen] == sorted((status for status, _ in seen), reverse=True)  # started, then complete
        assert {"started", "complete"} >= {status for status, _ in seen} >= {"started"}
        assert [n for _, n in seen] == sorted(n for _, n in seen)


def test_a_damaged_part_is_measured_again(calibrated: Path, pipeline: Path, config: Path) -> None:
    job = tiny.job_of(config, calibrated, allow_resume=True)
    plan = plan_grid(job)
    for gain in plan.missing:
        measure_gain(job, plan.run_id, gain)
    cache = calibrated / plan.run_id / "cache"
    kept, cut = cache / "gain_0.8.parquet", cache / "gain_1.3.parquet"
    cut.write_bytes(cut.read_bytes()[:100])
    job.store.open_run(plan.run_id).release()
    inode = kept.stat().st_ino
    assert plan_grid(job).missing == (1.3,)
    measure_gain(job, plan.run_id, 1.3)
    assert kept.stat().st_ino == inode
    publish_grid(job, plan.run_id)
    assert tiny.result_hashes(calibrated / plan.run_id) == tiny.result_hashes(tiny.run_of(pipeline, "S02"))


def test_a_grid_stopped_after_its_last_gain_is_published_without_a_pass(calibrated: Path, pipeline: Path, config: Path) -> None:
    job = tiny.job_of(config, calibrated)
    plan = plan_grid(job)
    for gain in plan.missing:
        measure_gain(job, plan.run_id, gain)
    job.store.open_run(plan.run_id).release()
    with decoder_calls() as calls:
        assert main(grid_command(config, calibrated, "--allow_resume")) == 0
    assert not calls
    assert tiny.result_hashes(calibrated / plan.run_id) == tiny.result_hashes(tiny.run_of(pipeline, "S02"))


def test_a_resumed_publication_keeps_every_artifact_whose_hash_still_holds(calibrated: Path, pipeline: Path, config: Path) -> None:
    job = tiny.job_of(config, calibrated, allow_resume=True)
    with tiny.stopped_before("metrics"):
        gain_grid(job)
    folder = tiny.run_of(calibrated, "S02")
    assert tiny.events_of(folder)[-1]["payload"] == {"status": "interrupted", "error": "KeyboardInterrupt: "}
    events, taus = (folder / "results" / f"{name}.parquet" for name in ("activation_events", "tau_rate_matched"))
    kept = (events.stat().st_ino, events.stat().st_mtime_ns)
    taus.write_bytes(b"changed")
    with decoder_calls() as calls:
        gain_grid(job)
    assert not calls
    assert (events.stat().st_ino, events.stat().st_mtime_ns) == kept
    assert tiny.result_hashes(folder) == tiny.result_hashes(tiny.run_of(pipeline, "S02"))


def test_a_complete_run_is_not_touched_by_a_resume(pipeline: Path, config: Path) -> None:
    before = {tag: tiny.file_hashes(tiny.run_of(pipeline, tag)) for tag in ("S01", "S02", "S02B")}
    for phase in tiny.PHASES:
        assert main([phase, "--config", str(config), "--runs_dir", str(pipeline), "--allow_resume"]) == 4
    assert {tag: tiny.file_hashes(tiny.run_of(pipeline, tag)) for tag in before} == before


def test_a_run_that_cannot_be_completed_gives_its_lock_back(
    calibrated: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny.job_of(config, calibrated, allow_resume=True)
    with monkeypatch.context() as patch, pytest.raises(AvalancheError, match="cannot be completed: metrics not written"):
        patch.setattr(Run, "holds", lambda run, name: name != "metrics" and name in run.record["artifacts"])
        gain_grid(job)
    gain_grid(job)
    assert job.store.state(tiny.run_of(calibrated, "S02").name) == "complete"
