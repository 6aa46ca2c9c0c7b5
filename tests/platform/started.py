"""Processes that a test starts and ends: each in a group of its own, ended by its recorded id and by nothing else."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

END_S = 40.0


@contextmanager
def started(
    command: Sequence[str], log: Path, *, cwd: Path, env: Mapping[str, str] = os.environ, stop: int = signal.SIGINT
) -> Iterator["subprocess.Popen[bytes]"]:
    """The process of a command, its output in a file. At the end `stop` goes to it, and SIGKILL to its group if it stays."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(stop)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                assert process.pid > 1
                os.killpg(process.pid, signal.SIGKILL)  # the group is the process's own: start_new_session
                process.wait(END_S)


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], bool], what: str, seconds: float, process: "subprocess.Popen[bytes] | None" = None) -> None:
    """Return when `holds` does; fail when the process ends first or the time is over."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert process is None or process.poll() is None, f"the process ended before {what}"
        assert time.monotonic() < deadline, f"no {what} within {seconds:g} s"
        time.sleep(0.1)
