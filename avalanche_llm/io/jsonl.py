"""Append-only event logs: one JSON object a line with ts_utc, run_id, event_type and payload."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from avalanche_llm.errors import EnvironmentProblem


def utc_now() -> str:
    """The present time, UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class EventLog:
    """The log of one run. A line is written in one call, so that a crash can lose the last line but not mix two.

    A full disk or a kill can cut a line short: `mend` removes what was cut before the next one is written.
    """

    path: Path
    run_id: str

    def write(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """Append one line. Raises EnvironmentProblem when the disk is full or the folder cannot be written."""
        line = {"ts_utc": utc_now(), "run_id": self.run_id, "event_type": event_type, "payload": dict(payload)}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot write {self.path}: {error.strerror or error}; free space or rights are needed"
            ) from error

    def mend(self) -> None:
        """Drop a last line that has no end. Call it while nobody else writes."""
        if not self.path.is_file():
            return
        with self.path.open("r+b") as file:
            whole = file.read()
            if not whole.endswith(b"\n"):
                file.truncate(whole.rfind(b"\n") + 1)
