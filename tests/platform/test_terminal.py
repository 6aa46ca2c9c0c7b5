"""Dagster's own commands in the terminal: `dg launch`, and a run of theirs that is killed in the middle of a step."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import tiny
from started import started, wait_until

from avalanche_dagster.instance import PID_TAG

DG = Path(sys.executable).with_name("dg")
SETTINGS = tiny.REPO / "avalanche_dagster" / "dagster.yaml"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    shutil.copy(SETTINGS, tmp_path / "home")
    return tmp_path / "home"


def environment(home: Path) -> dict[str, str]:
    """That of a shell in the activated virtual environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"DAGSTER_HOME": str(home), "PYTHONPATH": str(tiny.REPO), "PATH": path, "VIRTUAL_ENV": sys.prefix}


def values(config: Path, runs: Path, **more: Any) -> list[str]:
    instrument = {"config": str(config), "runs_dir": str(runs), **more}
    return ["--partition", "INSTRUCT", "--config-json", json.dumps({"resources": {"instrument": {"config": instrument}}})]


def test_dg_launch_gives_the_artifacts_of_the_command_line(config: Path, pipeline: Path, home: Path, tmp_path: Path) -> None:
    command = [str(DG), "launch", "--assets", "group:phase1", *values(config, tmp_path / "runs")]
    found = subprocess.run(command, cwd=tiny.REPO, env=environment(home), capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    assert tiny.result_hashes(tiny.run_of(tmp_path / "runs", "S01")) == tiny.result_hashes(tiny.run_of(pipeline, "S01"))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        assert (run.status, run.tags["dagster/partition"]) == (dg.DagsterRunStatus.SUCCESS, "INSTRUCT")


def test_a_materialization_that_is_killed_leaves_no_slot_held(config: Path, pipeline: Path, home: Path, tmp_path: Path) -> None:
    """The pool has one slot. SIGKILL while it is held; the next command, of another kind, does not wait for it."""
    runs, log = tmp_path / "runs", tmp_path / "log"
    shutil.copytree(tiny.run_of(pipeline, "S01"), runs / tiny.run_of(pipeline, "S01").name)
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "--select", "group:phase2"]
    command += ["-m", "avalanche_dagster.definitions", *values(config, runs)]
    with started(command, log, cwd=tiny.REPO, env=environment(home)) as process:
        wait_until(lambda: bool(list(runs.glob("RUN_S02_*/cache/gain_*.parquet"))), "a measured gain", 300, process)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (killed,) = instance.get_runs()
        assert killed.status == dg.DagsterRunStatus.STARTED
        assert killed.tags[PID_TAG].startswith(f"{process.pid}@")
    again = [sys.executable, "-m", "avalanche_llm", "phase2_gain_grid", "--config", str(config), "--runs_dir", str(runs), "--allow_resume"]
    found = subprocess.run(again, cwd=tiny.REPO, env=environment(home), capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        after = instance.get_run_by_id(killed.run_id)
        assert after is not None and after.status == dg.DagsterRunStatus.FAILURE
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0
    assert tiny.result_hashes(tiny.run_of(runs, "S02")) == tiny.result_hashes(tiny.run_of(pipeline, "S02"))
