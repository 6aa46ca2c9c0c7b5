"""Forked children of a warm process that stop at a chosen moment by a real signal: at an operation on a file, or after a time.

The parent imports everything and starts no thread, so that a fork is a whole process; a child inherits the imports and the
model and pays for neither. Operations are counted by an audit hook: the interpreter itself tells of every rename, removal,
folder, mode and file opened for writing, whoever makes it, just before it happens. To stop before the next operation is to
stop right after the last one.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "os.symlink", "os.link"}
PATIENCE_S = 600.0

Operation = tuple[str, str]
"""Audit event and path; of a rename, where it leads."""


@dataclass(frozen=True)
class Stop:
    """When a child gets which signal: at the n-th operation, after some seconds, or at a `point` that it finds itself."""

    number: signal.Signals
    operation: int | None = None
    seconds: float | None = None
    point: Callable[[Operation], bool] | None = None

    def __str__(self) -> str:
        when = f"after {self.seconds:.3f} s" if self.seconds is not None else f"at operation {self.operation}"
        return f"{self.number.name} {'at ' + str(self.point) if self.point else when}"


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit code, or minus the number of the signal; what it printed."""

    code: int
    text: str


@dataclass
class Renamed:
    """A point: before the rename onto `target`, right after it, or right after the record that names it was renamed."""

    target: Path
    place: str
    _met: int = 0

    def __str__(self) -> str:
        return f"{self.place} {self.target.name}"

    def __call__(self, operation: Operation) -> bool:
        event, path = operation
        if self._met == 0:
            if event == "os.rename" and path == str(self.target):
                self._met = 1
                return self.place == "before"
            return False
        if self._met == 1 and self.place == "recorded":
            if event == "os.rename" and Path(path).name == "run_record.json":
                self._met = 2
            return False
        return True


@dataclass
class Completed:
    """A point: right after the record that says complete was renamed into place."""

    record: Path
    _renamed: bool = False

    def __str__(self) -> str:
        return "right after the record says complete"

    def __call__(self, operation: Operation) -> bool:
        if self._renamed and '"stage_status": "complete"' in self.record.read_text(encoding="utf-8"):
            return True
        self._renamed = operation == ("os.rename", str(self.record))
        return False


def forked(action: Callable[[], int], log: Path, stop: Stop | None = None, watched: Path | None = None) -> Ended:
    """Run `action` in a child; its return value is the exit code, its output goes to `log`."""
    threads = _threads()
    if threads:
        raise RuntimeError(f"a process with threads is not whole once it is forked: {threads}")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _be_the_child(action, log, stop, watched)
    if stop is not None and stop.seconds is not None:
        _signal_after(pid, stop)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return Ended(os.waitstatus_to_exitcode(status), log.read_text(encoding="utf-8", errors="replace"))
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Ended(-999, f"no end within {PATIENCE_S:.0f} s\n" + log.read_text(encoding="utf-8", errors="replace"))
        time.sleep(0.002)


def operations_of(action: Callable[[], int], log: Path, watched: Path) -> tuple[int, float, list[Operation]]:
    """The exit code of an undisturbed child, its duration in seconds, and every operation it made below `watched`."""
    listed = log.with_suffix(".operations")
    listed.unlink(missing_ok=True)

    def listing() -> int:
        with listed.open("w", encoding="utf-8") as file:
            _watch(watched, lambda operation: print(*operation, sep="\t", file=file, flush=True))
            return action()

    began = time.monotonic()
    ended = forked(listing, log)
    made = [line.split("\t") for line in listed.read_text(encoding="utf-8").splitlines()]
    return ended.code, time.monotonic() - began, [(event, path) for event, path in made]


def _threads() -> list[str]:
    """Names of the threads beside the main one; jemalloc (of arrow) sees to its own when it is forked."""
    tasks = [path for path in Path("/proc/self/task").iterdir() if int(path.name) != os.getpid()]
    return [name for path in tasks if (name := (path / "comm").read_text().strip()) != "jemalloc_bg_thd"]


def _be_the_child(action: Callable[[], int], log: Path, stop: Stop | None, watched: Path | None) -> None:
    code = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if stop is not None and watched is not None and stop.seconds is None:
            _watch(watched, _signaller(stop))
        code = action()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _signaller(stop: Stop) -> Callable[[Operation], None]:
    seen, sent = 0, False

    def look(operation: Operation) -> None:
        nonlocal seen, sent
        seen += 1
        if not sent and (stop.point(operation) if stop.point else seen == stop.operation):
            sent = True
            os.kill(os.getpid(), stop.number)

    return look


def _signal_after(pid: int, stop: Stop) -> None:
    assert stop.seconds is not None
    deadline = time.monotonic() + stop.seconds
    while time.monotonic() < deadline:
        time.sleep(min(0.002, max(0.0, deadline - time.monotonic())))
    os.kill(pid, stop.number)  # at worst a child that has ended and is not yet waited for


def _watch(watched: Path, look: Callable[[Operation], None]) -> None:
    below = f"{watched}{os.sep}"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & WRITING:
                return
        elif event == "os.rename":
            path = arguments[1]
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, (str, os.PathLike)) and (str(path).startswith(below) or os.sep not in str(path)):
            look((event, str(path)))  # a bare name belongs to a removal by folder descriptor, of `cache`

    sys.addaudithook(hook)
