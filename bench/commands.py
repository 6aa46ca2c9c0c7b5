"""What each command of the demo takes as a person runs it: seconds, processor time and peak memory of a process of its own.

    python -m bench.commands
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from avalanche_llm.stages import stages
from bench.measure import machine

REPO: Final = Path(__file__).resolve().parents[1]


def commands() -> list[str]:
    """What `make demo` runs, in its order."""
    return ["phase0_validate_env", *(stage.command for stage in stages().values())]


def run(command: str, folder: Path) -> dict[str, float]:
    """Run one command over the demo's config. SystemExit if it fails."""
    arguments = ["--config", "configs/demo.yaml", "--runs_dir", str(folder / "runs")]
    home = os.environ | {"DAGSTER_HOME": str(folder / "home")}
    began = perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "avalanche_llm", command, *arguments], cwd=REPO, env=home, stdout=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    cpu = used.ru_utime + used.ru_stime
    return {"wall_s": round(seconds, 1), "cpu_s": round(cpu, 1), "peak_gib": round(used.ru_maxrss / 2**20, 3)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = {command: run(command, Path(folder)) for command in commands()}
    report: dict[str, Any] = {"machine": machine(), "commands": found}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
