"""Real command-line processes at once: eight for one run, eight for eight runs, four for one resume."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import tiny

from avalanche_llm.io.artifacts import read_record
from avalanche_llm.phases.job import Job

N = 8


def at_once(commands: Sequence[Sequence[object]], home: Path) -> list[tuple[int, str]]:
    """Exit code and stderr of each command line, all started together on one Dagster home."""
    environment = os.environ | {"DAGSTER_HOME": str(home), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "avalanche_llm", *map(str, command)],
            cwd=tiny.REPO,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    errors = [process.communicate(timeout=900)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def statuses(home: Path) -> list[str]:
    """The status of every run that Dagster recorded."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0
        return sorted(run.status.value for run in instance.get_runs())


def test_eight_processes_that_start_one_phase_one_runs_and_seven_exit_four(config: Path, pipeline: Path, tmp_path: Path) -> None:
    command = ["phase1_calibrate", "--config", config, "--runs_dir", tmp_path / "runs"]
    found = at_once([command] * N, tmp_path / "home")
    assert sorted(code for code, _ in found) == [0] + [4] * (N - 1), found
    for code, error in found:
        assert "Traceback" not in error
        assert code == 0 or error.splitlines()[-1].startswith("error: "), error
    assert tiny.result_hashes(tiny.run_of(tmp_path / "runs", "S01")) == tiny.result_hashes(tiny.run_of(pipeline, "S01"))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [tiny.run_of(pipeline, "S01").name]
    assert statuses(tmp_path / "home") == ["FAILURE"] * (N - 1) + ["SUCCESS"]


def test_eight_configs_at_once_all_complete_and_no_record_is_mixed_up(
    model_folder: Path, config: Path, pipeline: Path, tmp_path: Path
) -> None:
    """Seven seeds of the windows and, beside them, the grid over a calibration that is there."""
    runs, commands, jobs = tmp_path / "runs", list[list[object]](), list[Job]()
    source = tiny.run_of(pipeline, "S01")
    shutil.copytree(source, runs / source.name)
    for seed in range(1, N):
        own = tiny.write_config(tmp_path / f"{seed}.yaml", model_folder, determinism__seed=seed)
        commands.append(["phase1_calibrate", "--config", own, "--runs_dir", runs])
        jobs.append(tiny.job_of(own, runs))
    commands.append(["phase2_gain_grid", "--config", config, "--runs_dir", runs])
    found = at_once(commands, tmp_path / "home")
    assert [code for code, _ in found] == [0] * N, found
    for job in jobs:
        run = job.upstream("PHASE1_CALIBRATE")
        assert run.record["determinism"]["seed"] == job.settings.determinism.seed
        assert run.record["hashes"]["config_sha256"] == job.config.sha256
        assert {line["run_id"] for line in tiny.events_of(run.folder)} == {run.run_id}
        assert [line["event_type"] for line in tiny.events_of(run.folder)].count("start") == 1
    assert tiny.result_hashes(tiny.run_of(runs, "S02")) == tiny.result_hashes(tiny.run_of(pipeline, "S02"))
    assert len(list(runs.glob("RUN_*"))) == N + 1
    assert statuses(tmp_path / "home") == ["SUCCESS"] * N


def test_four_processes_that_resume_one_run_one_wins(config: Path, pipeline: Path, tmp_path: Path) -> None:
    runs, source = tmp_path / "runs", tiny.run_of(pipeline, "S01")
    tiny.job_of(config, runs).begin("PHASE1_CALIBRATE").release()
    assert read_record(runs / source.name)["stage_status"] == "started"
    found = at_once([["phase1_calibrate", "--config", config, "--runs_dir", runs, "--allow_resume"]] * 4, tmp_path / "home")
    assert sorted(code for code, _ in found) == [0, 4, 4, 4], found
    for code, error in found:
        clear = any(
            words in error
            for words in ("is being written by another process", "another process completed", "is complete and stays as it is")
        )
        assert code == 0 or clear, error
    assert tiny.result_hashes(runs / source.name) == tiny.result_hashes(source)
