"""Run inside a private network namespace by test_ray.py: a Ray cluster of two nodes, and the grid on it in three ways.

    unshare --net python on_ray.py FOLDER CONFIG     FOLDER has runs/plain, runs/killed, runs/refused with phase 1 in each

Ray listens on the machine's outer address, without a password, whatever it is told: hence the namespace, with loopback only.
What was seen goes to FOLDER/found.json; the test judges it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import yaml
from started import started, wait_until

REPO = Path(__file__).resolve().parents[2]
ADDRESS = "http://127.0.0.1:8265"
JOB = "phase2_gain_grid_on_ray"
RAY = str(Path(sys.executable).with_name("ray"))
COMMON = ["--num-cpus", "2", "--num-gpus", "1", "--object-store-memory", "100000000", "--disable-usage-stats", "--block"]
PATIENCE_S = 240.0


@contextmanager
def cluster(folder: Path) -> Iterator[list[int]]:
    """Two nodes of two declared CPUs and one declared GPU each; the ids of the two processes that hold them."""
    head = [RAY, "start", "--head", "--port", "6379", "--dashboard-host", "127.0.0.1", "--node-ip-address", "127.0.0.1"]
    head += ["--temp-dir", str(folder / "ray"), *COMMON]
    second = [RAY, "start", "--address", "127.0.0.1:6379", "--node-ip-address", "127.0.0.1", *COMMON]
    second += ["--dashboard-agent-listen-port", "52399"]
    with (
        started(head, folder / "head.log", cwd=folder, stop=signal.SIGTERM) as first,
        started_once(lambda: len(nodes()) == 1, second, folder) as other,
    ):
        wait_until(lambda: len(nodes()) == 2, "a cluster of two nodes", PATIENCE_S, other)
        held = [process for holder in (first, other) for process in psutil.Process(holder.pid).children(recursive=True)]
        yield [first.pid, other.pid]
    for process in held:  # what a holder left behind
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def started_once(holds: Any, command: list[str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    wait_until(holds, "the first node", PATIENCE_S)
    with started(command, folder / "second.log", cwd=folder, stop=signal.SIGTERM) as process:
        yield process


def nodes() -> list[dict[str, float]]:
    from avalanche_dagster.executors import nodes_of
    from avalanche_llm.errors import EnvironmentProblem

    try:
        return nodes_of(ADDRESS)
    except EnvironmentProblem:
        return []


@contextmanager
def grid(folder: Path, config: Path, name: str, **ray: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """The grid as a person starts it from the terminal, for the runs folder of a name."""
    threads = f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
    instrument = {"config": str(config), "runs_dir": str(folder / "runs" / name), "allow_resume": True}
    values = {
        "execution": {"config": {"ray": {"address": ADDRESS, "env_vars": ["DAGSTER_HOME", "PYTHONPATH", "HF_HUB_OFFLINE", threads], **ray}}},
        "resources": {"instrument": {"config": instrument}},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "avalanche_dagster.definitions", "-j", JOB]
    command += ["-c", str(folder / f"{name}.yaml"), "--tags", json.dumps({"dagster/partition": "INSTRUCT", "case": name})]
    with started(command, folder / f"{name}.log", cwd=REPO) as process:
        yield process


def run_of_case(instance: dg.DagsterInstance, name: str) -> dg.DagsterRun | None:
    return next(iter(instance.get_runs(dg.RunsFilter(tags={"case": name}))), None)


def kill_a_gain(instance: dg.DagsterInstance, holders: list[int]) -> str:
    """SIGKILL for the process of the first gain whose step has begun, below the cluster's own processes; its step key."""
    run = run_of_case(instance, "killed")
    begun = [] if run is None else instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
    keys = {str(entry.step_key) for entry in begun if "measure_gain" in str(entry.step_key)}
    for process in (child for holder in holders for child in psutil.Process(holder).children(recursive=True)):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            key = process.environ().get("DAGSTER_RUN_STEP_KEY", "")
            if key in keys and "execute_step" in process.cmdline():
                process.kill()
                return key
    return ""


def seen(instance: dg.DagsterInstance, name: str, code: int, seconds: float) -> dict[str, Any]:
    """What the instance has on record of a case."""
    run = run_of_case(instance, name)
    assert run is not None, f"{name} left no run"
    entries = instance.all_logs(run.run_id)
    steps = [
        {"step": entry.step_key, "type": str(entry.dagster_event.event_type_value)}
        for entry in entries
        if entry.dagster_event is not None and entry.step_key and "STEP" in entry.dagster_event.event_type_value
    ]
    return {"code": code, "seconds": round(seconds, 1), "status": run.status.value, "run_id": run.run_id, "steps": steps}


def nodes_of_gains(run_id: str) -> list[str]:
    """The node on which each gain of a run was measured, from the cluster's own list of jobs."""
    from ray.job_submission import JobSubmissionClient

    jobs = JobSubmissionClient(ADDRESS).list_jobs()
    mine = [job for job in jobs if (job.metadata or {}).get("dagster/run-id") == run_id]
    return [str(job.driver_node_id) for job in mine if "measure_gain" in (job.metadata or {}).get("dagster/op", "")]


def main(folder: Path, config: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    found: dict[str, Any] = {}
    with cluster(folder) as holders, dg.DagsterInstance.get() as instance:
        for name, ray in {"plain": {}, "killed": {}, "refused": {"resources": {"quantum": 1.0}}}.items():
            began, victim = time.monotonic(), ""
            with grid(folder, config, name, **ray) as process:
                while name == "killed" and not victim and process.poll() is None:
                    victim = kill_a_gain(instance, holders)
                    time.sleep(0.05)
                process.wait(PATIENCE_S)
            found[name] = seen(instance, name, process.returncode, time.monotonic() - began) | {"victim": victim}
        found["plain"]["nodes"] = nodes_of_gains(found["plain"]["run_id"])
        found["slots"] = instance.event_log_storage.get_concurrency_info("gpu").active_slot_count
    (folder / "found.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
