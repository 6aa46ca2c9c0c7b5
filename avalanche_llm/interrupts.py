"""Ctrl-C and SIGTERM end the work the same way: what is open is closed, one line is printed, the run can be resumed.

Both raise KeyboardInterrupt. Which of the two it was is read from the wakeup descriptor: libraries that run our code put
handlers of their own in place for a while (Dagster gives both signals one handler), the descriptor hears all the same.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

HANDLED: Final = (signal.SIGINT, signal.SIGTERM)
SHELL_OFFSET: Final = 128
"""A shell's exit code of a process that a signal ended is this and the signal's number."""


class Heard:
    """The signals that have come since the work began."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._first: int | None = None

    def exit_code(self) -> int | None:
        """128 and the number of the first SIGINT or SIGTERM; None if none has come."""
        if self._first is None and self._descriptor is not None:
            try:
                came = os.read(self._descriptor, 4096)
            except BlockingIOError:
                came = b""
            self._first = next((number for number in came if number in HANDLED), None)
        return None if self._first is None else SHELL_OFFSET + self._first


_listening: list[Heard] = []


def raise_lost() -> None:
    """Deliver again a signal that came and stopped nothing: the importer drops what a handler raises in callbacks of its own."""
    if _listening and (code := _listening[-1].exit_code()) is not None:
        signal.raise_signal(code - SHELL_OFFSET)


def no_interrupt(record: logging.LogRecord) -> bool:
    """For a handler: drop the traceback of an interrupt, which a library logs on the way to the line that we print for it.

    SQLAlchemy does where a signal falls into the closing of a connection.
    """
    _, error, _ = record.exc_info or (None, None, None)
    return error is None or isinstance(error, Exception)


@contextmanager
def stoppable() -> Iterator[Heard]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt, and say which came. Earlier handlers come back on exit.

    Signals belong to the main thread; in another one nothing is changed and nothing is heard.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Heard()
        return
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, signal.default_int_handler) for number in HANDLED}
    earlier = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _listening.append(Heard(reader))
    try:
        yield _listening[-1]
    finally:
        _listening.pop()
        signal.set_wakeup_fd(earlier)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
