"""A short form of the campaign of `make test-faults`: kills and signals in a process of its own, which forks a child a trial."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny

from avalanche_llm.interrupts import raise_lost, stoppable
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.progress import progress

SHORT = ["phase1_calibrate", "phase2_gain_grid", "phase2_select_gstar"]
MESSAGE = "interrupted; nothing complete was touched. Continue with --allow_resume"


def test_kills_and_signals_break_no_promise(tmp_path: Path) -> None:
    arguments = ["--trials", "3", "--signals", "4", "--boundaries", "--seed", "1", "--phases", *SHORT]
    command = [sys.executable, "-m", "faults.campaign", *arguments, "--base", str(tmp_path / "base")]
    done = subprocess.run(command, cwd=tiny.REPO / "tests", capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"^31 trials, 0 broken, ", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_whole_process_with_one_line_and_a_run_to_resume(
    number: signal.Signals, code: int, config: Path, tmp_path: Path
) -> None:
    """The command line as a person runs it, stopped in its first passes. A terminal signals the whole group of processes."""
    command = [sys.executable, "-m", "avalanche_llm", "phase1_calibrate", "--config", str(config), "--runs_dir", str(tmp_path)]
    piped: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tiny.REPO, start_new_session=True, **piped) as process:
        deadline = time.monotonic() + 600
        while not list(tmp_path.glob("RUN_S01_*/logs/events.jsonl")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    assert out == ""
    assert [line for line in err.splitlines() if "windows" not in line] == [MESSAGE]
    folder = tiny.run_of(tmp_path, "S01")
    assert read_record(folder)["stage_status"] == "started"
    assert tiny.events_of(folder)[-1]["payload"]["status"] == "interrupted"


INTERRUPTED_CLOSE = """
import sqlite3, sys
import sqlalchemy
from avalanche_llm import cli

class Connection(sqlite3.Connection):
    def close(self):
        raise {error}

def work(_):
    make = lambda: sqlite3.connect(":memory:", factory=Connection)
    pool = sqlalchemy.pool.NullPool
    with sqlalchemy.create_engine("sqlite://", creator=make, poolclass=pool).connect() as held:
        held.execute(sqlalchemy.text("select 1"))

cli.OWN = {{cli.RUNS: work}}
sys.exit(cli.main(["runs"]))
"""


@pytest.mark.parametrize(("error", "code", "said"), [("KeyboardInterrupt", 130, False), ("sqlite3.Error", 0, True)])
def test_a_signal_while_a_database_is_closed_is_said_once_and_an_error_there_is_told(error: str, code: int, said: bool) -> None:
    command = [sys.executable, "-c", INTERRUPTED_CLOSE.format(error=error)]
    done = subprocess.run(command, cwd=tiny.REPO, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, done.stderr
    assert ("Exception closing connection" in done.stderr and "Traceback" in done.stderr) is said
    assert said or done.stderr.splitlines() == [MESSAGE]


def test_stoppable_tells_which_signal_came_and_puts_the_handlers_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGTERM, signal.SIGINT):
        with stoppable() as heard:
            assert heard.exit_code() is None
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            assert heard.exit_code() == heard.exit_code() == 128 + number
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


class Dropped:
    """What a handler raises while this goes is dropped, as in the importer's callbacks."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_stopped_nothing_stops_the_next_step_of_long_work() -> None:
    raise_lost()
    with stoppable() as heard, progress("passes", 2) as advance:
        Dropped()
        with pytest.raises(KeyboardInterrupt):
            advance(1)
        assert heard.exit_code() == 143
    raise_lost()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_stopped_nothing_stops_long_work_that_begins() -> None:
    with stoppable():
        Dropped()
        with pytest.raises(KeyboardInterrupt), progress("passes", 2):
            pass
