"""How long a command takes before it works: help, a plan, and a phase up to the moment its model and data are there.

    python -m bench.startup [REPEATS]

The demo's config. `to_data_s` runs from the start of the process to the phase's own log line `dataset_loaded`.
"""

import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from time import perf_counter, time
from typing import Any

import numpy as np

from bench.measure import machine

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"


def run(arguments: list[str], home: Path) -> float:
    """Seconds of one command in a process of its own."""
    began = perf_counter()
    command = [sys.executable, "-m", "avalanche_llm", *arguments]
    subprocess.run(command, check=True, capture_output=True, cwd=CONFIG.parents[1], env=os.environ | {"DAGSTER_HOME": str(home)})
    return perf_counter() - began


def to_data(folder: Path, home: Path) -> float:
    """Seconds from the start of phase 1 to its data."""
    began = time()
    run(["phase1_calibrate", "--config", str(CONFIG), "--runs_dir", str(folder)], home)
    (log,) = folder.glob("RUN_S01_*/logs/events.jsonl")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    (loaded,) = (line["ts_utc"] for line in lines if line["event_type"] == "dataset_loaded")
    return datetime.fromisoformat(loaded).timestamp() - began


def main(repeats: int) -> None:
    found: dict[str, list[float]] = {"help_s": [], "dry_run_s": [], "to_data_s": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for repeat in range(repeats):
            runs = folder / str(repeat)
            found["help_s"].append(run(["--help"], folder))
            found["dry_run_s"].append(
                run(["phase1_calibrate", "--config", str(CONFIG), "--runs_dir", str(runs), "--dry_run"], folder)
            )
            found["to_data_s"].append(to_data(runs, folder / "home"))
    report: dict[str, Any] = {name: round(float(np.median(values)), 2) for name, values in found.items()}
    print(json.dumps({"machine": machine(), "repeats": repeats, **report}, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
