"""What the platform costs: a phase through the command line against the same function called directly, each in a fresh process.

    PYTHONPATH=.:tests python bench/overhead.py [REPEATS]

The tiny model of the tests. Seconds of wall clock, medians of the repeats; and how long the web server takes to its first page.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import tiny

PORT = 3987
DIRECT = """
import sys
from pathlib import Path
from avalanche_llm.phases.job import JobRequest
from avalanche_llm.phases.{module} import {function}
{function}(JobRequest(Path(sys.argv[1]), runs_dir=Path(sys.argv[2])).job())
"""
FUNCTIONS = {
    "phase1_calibrate": "calibrate:calibrate",
    "phase2_gain_grid": "gain_grid:gain_grid",
    "phase2_select_gstar": "select_gstar:select_gstar",
}


def seconds(command: list[str], folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"DAGSTER_HOME": str(folder / "home")})
    return time.perf_counter() - began


def first_page(folder: Path) -> float:
    command = [sys.executable, "-m", "dagster_webserver", "--host", "127.0.0.1", "--port", str(PORT)]
    command += ["-m", "avalanche_dagster.definitions"]
    began = time.perf_counter()
    environment = os.environ | {"DAGSTER_HOME": str(folder / "home")}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/assets", timeout=5) as found:
                    found.read()
                return time.perf_counter() - began
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        raise RuntimeError("the web server ended before its first page")
    finally:
        server.terminate()
        server.wait()


def main(repeats: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = tiny.write_config(folder / "tiny.yaml", tiny.save_model(tiny.llama(), folder / "model"))
        through: dict[str, list[float]] = {phase: [] for phase in FUNCTIONS}
        direct: dict[str, list[float]] = {phase: [] for phase in FUNCTIONS}
        for repeat in range(repeats + 1):  # the first makes the instance and warms the disk cache: shown, not counted
            for phase, place in FUNCTIONS.items():
                module, function = place.split(":")
                cli = [sys.executable, "-m", "avalanche_llm", phase, "--config", str(config)]
                cli += ["--runs_dir", str(folder / f"c{repeat}")]
                code = DIRECT.format(module=module, function=function)
                through[phase].append(seconds(cli, folder))
                direct[phase].append(seconds([sys.executable, "-c", code, str(config), str(folder / f"d{repeat}")], folder))
        print(f"{'phase':22}{'command line':>14}{'direct':>9}{'platform':>10}{'first time':>12}")
        for phase in FUNCTIONS:
            medians = [statistics.median(times[phase][1:]) for times in (through, direct)]
            print(f"{phase:22}{medians[0]:14.2f}{medians[1]:9.2f}{medians[0] - medians[1]:10.2f}{through[phase][0]:12.2f}")
        pages = [first_page(folder) for _ in range(repeats)]
        print(f"first page of the web server: {statistics.median(pages):.2f} s ({min(pages):.2f} to {max(pages):.2f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
