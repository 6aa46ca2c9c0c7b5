"""The grid on a real Ray cluster of two nodes: the bytes of the in-process run, a killed worker, a resource that nobody has.

Skipped where dagster-ray is missing or no private network namespace can be made (on_ray.py says why one is needed).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

pytest.importorskip("dagster_ray")
HERE = Path(__file__).parent
ALONE = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
CASES = ("plain", "killed", "refused")
SETTINGS = """\
telemetry: {enabled: false}
concurrency: {pools: {granularity: op, default_limit: 2}}
"""


def can_be_alone() -> bool:
    tools = shutil.which("unshare") and shutil.which("ip")
    return bool(tools) and subprocess.run([*ALONE, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A short path: Ray's sockets lie below it, and their names may have 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="ray_"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def found(folder: Path, pipeline: Path, config: Path) -> dict[str, Any]:
    """What happened on the cluster in each case."""
    if not can_be_alone():
        pytest.skip("no private network namespace can be made here (unshare --net, ip)")
    source = tiny.run_of(pipeline, "S01")
    for name in CASES:
        shutil.copytree(source, folder / "runs" / name / source.name)
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(SETTINGS, encoding="utf-8")
    environment = os.environ | {
        "DAGSTER_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(tiny.REPO), str(tiny.REPO / "tests"), str(HERE)]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # a node's own PATH must hold `dagster`
    }
    command = [*ALONE, sys.executable, str(HERE / "on_ray.py"), str(folder), str(config)]
    ended = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    logs = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in sorted(folder.glob("*.log")))
    assert ended.returncode == 0, f"{ended.stderr[-3000:]}\n{logs}"
    return dict(json.loads((folder / "found.json").read_text(encoding="utf-8")))


def kinds_of(case: dict[str, Any], step: str) -> list[str]:
    return [event["type"] for event in case["steps"] if event["step"] == step]


def test_two_nodes_give_the_bytes_of_one_process(found: dict[str, Any], folder: Path, pipeline: Path) -> None:
    case = found["plain"]
    assert (case["code"], case["status"]) == (0, "SUCCESS")
    assert len(case["nodes"]) == len(tiny.GAINS)
    assert len(set(case["nodes"])) == 2
    assert tiny.result_hashes(tiny.run_of(folder / "runs" / "plain", "S02")) == tiny.result_hashes(tiny.run_of(pipeline, "S02"))


def test_a_step_whose_worker_is_killed_runs_again_and_nothing_is_lost(found: dict[str, Any], folder: Path, pipeline: Path) -> None:
    case = found["killed"]
    assert (case["code"], case["status"]) == (0, "SUCCESS")
    kinds = kinds_of(case, case["victim"])
    assert kinds.index("STEP_START") < kinds.index("STEP_UP_FOR_RETRY") < kinds.index("STEP_RESTARTED") < kinds.index("STEP_SUCCESS")
    assert [event["step"] for event in case["steps"] if event["type"] == "STEP_RESTARTED"] == [case["victim"]]
    assert tiny.result_hashes(tiny.run_of(folder / "runs" / "killed", "S02")) == tiny.result_hashes(tiny.run_of(pipeline, "S02"))
    assert found["slots"] == 0


def test_a_resource_that_no_node_has_is_refused_at_once(found: dict[str, Any], folder: Path) -> None:
    case = found["refused"]
    assert (case["code"], case["status"], case["steps"]) == (1, "NOT_STARTED", [])
    assert "1 quantum (most on a node: 0)" in (folder / "refused.log").read_text(encoding="utf-8")
    assert not list((folder / "runs" / "refused").glob("RUN_S02_*"))
