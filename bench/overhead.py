"""What the platform costs: each phase through the command line against the same function called directly, in fresh processes.

    PYTHONPATH=.:tests python bench/overhead.py [--repeats 3] [--only tiny|demo] [--into docs/platform.md]

First the tiny model of the tests, medians of the repeats, and how long the web server takes to its first page; then, once, the
demo as `make demo` runs it (models/SmolLM2-135M-Instruct must be there), for the platform's share. Seconds of wall clock, so on a
machine that does nothing else. With --into, the tables go between the markers of that file.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import tiny

from avalanche_dagster.assets.single_step import FUNCTIONS
from avalanche_llm.stages import stages

REPO = Path(__file__).resolve().parents[1]
DEMO, MODEL = REPO / "configs" / "demo.yaml", REPO / "models" / "SmolLM2-135M-Instruct" / "config.json"
PORT = 3987
BEGIN, END = "<!-- written by bench/overhead.py -->", "<!-- end -->"
DIRECT = """
import sys
from pathlib import Path
from avalanche_llm.phases.job import JobRequest
from avalanche_llm.phases.{module} import {function}
{function}(JobRequest(Path(sys.argv[1]), runs_dir=Path(sys.argv[2])).job())
"""
PLACES = {stage.command: FUNCTIONS.get(phase_id, "gain_grid:gain_grid") for phase_id, stage in stages().items()}


def seconds(command: list[str], folder: Path) -> float:
    environment = os.environ | {"DAGSTER_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    began = time.perf_counter()
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPO, env=environment)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command[:5])} ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
    return time.perf_counter() - began


def both_ways(config: Path, folder: Path, name: str) -> Iterator[tuple[str, float, float]]:
    """Every phase in order: its command, seconds through the command line, seconds of a direct call."""
    for phase, place in PLACES.items():
        module, function = place.split(":")
        cli = [sys.executable, "-m", "avalanche_llm", phase, "--config", str(config), "--runs_dir", str(folder / f"c{name}")]
        direct = [sys.executable, "-c", DIRECT.format(module=module, function=function), str(config), str(folder / f"d{name}")]
        yield phase, seconds(cli, folder), seconds(direct, folder)


def first_page(folder: Path) -> float:
    command = [sys.executable, "-m", "dagster_webserver", "--host", "127.0.0.1", "--port", str(PORT)]
    command += ["-m", "avalanche_dagster.definitions"]
    began = time.perf_counter()
    environment = os.environ | {"DAGSTER_HOME": str(folder / "home")}
    server = subprocess.Popen(command, cwd=REPO, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/assets", timeout=5) as found:
                    found.read()
                return time.perf_counter() - began
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        raise SystemExit("the web server ended before its first page")
    finally:
        server.terminate()
        server.wait()


def of_tiny(folder: Path, repeats: int) -> Iterator[str]:
    """The table of the tiny model."""
    config = tiny.write_config(folder / "tiny.yaml", tiny.save_model(tiny.llama(), folder / "model"))
    # the first round makes the instance and warms the disk cache: shown, not counted
    rounds = [list(both_ways(config, folder, str(number))) for number in range(repeats + 1)]
    yield f"Tiny model of the tests, {os.cpu_count()} cores, median of {repeats} runs, process start included:"
    yield ""
    yield "| phase | command line, s | direct call, s | platform, s | first time, s |"
    yield "|---|---|---|---|---|"
    for place, phase in enumerate(PLACES):
        through, direct = (statistics.median(found[place][way] for found in rounds[1:]) for way in (1, 2))
        yield f"| {phase} | {through:.1f} | {direct:.1f} | {through - direct:.1f} | {rounds[0][place][1]:.1f} |"
    pages = [first_page(folder) for _ in range(repeats)]
    yield ""
    yield f"First page of the web server: {statistics.median(pages):.1f} s (from {min(pages):.1f} to {max(pages):.1f})."


def of_demo(folder: Path) -> Iterator[str]:
    """The table of the demo's model, and the platform's share."""
    found = list(both_ways(DEMO, folder, "demo"))
    yield f"The demo (`configs/demo.yaml`), {os.cpu_count()} cores, each phase once:"
    yield ""
    yield "| phase | command line, s | direct call, s | platform, s |"
    yield "|---|---|---|---|"
    for phase, through, direct in found:
        yield f"| {phase} | {through:.1f} | {direct:.1f} | {through - direct:.1f} |"
    through, direct = (sum(row[way] for row in found) for way in (1, 2))
    yield f"| all | {through:.1f} | {direct:.1f} | {through - direct:.1f} |"
    yield ""
    yield f"Share of the platform in the demo: {(through - direct) / through:.1%}."


def written(document: str, lines: list[str]) -> str:
    """The document with the lines between its markers."""
    head, found, rest = document.partition(BEGIN)
    _, ended, tail = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"the file has no lines {BEGIN} and {END} to write between")
    return "\n".join([head + BEGIN, *lines, END + tail])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["tiny", "demo"])
    parser.add_argument("--into", type=Path)
    options = parser.parse_args()
    if options.only != "tiny" and not MODEL.is_file():
        raise SystemExit(f"{MODEL.parent} is not there: `make model` fetches it, or measure --only tiny")
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        if options.only != "demo":
            lines += of_tiny(Path(name), options.repeats)
        if options.only != "tiny":
            lines += [*([""] if lines else []), *of_demo(Path(name))]
    print("\n".join(lines))
    if options.into:
        options.into.write_text(written(options.into.read_text(encoding="utf-8"), lines), encoding="utf-8")


if __name__ == "__main__":
    main()
