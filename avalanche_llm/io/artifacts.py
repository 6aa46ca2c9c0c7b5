"""One run directory: its record, its artifacts, its log, and the lock of the process that writes it.

A run is `started` until every artifact of its stage is written and indexed; then its record says `complete` and the
directory becomes read-only. The record is replaced as a whole after each artifact (temporary file, fsync, rename), so
that a reader finds a valid record at every moment (spec 14, spec 15).
"""

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from avalanche_llm.errors import EnvironmentProblem, MissingArtifact, RunExists, SchemaError
from avalanche_llm.io.files import TEMPORARY_PREFIX, Writer, json_bytes, raw, write_atomically
from avalanche_llm.io.hashing import sha256_file
from avalanche_llm.io.jsonl import EventLog, utc_now
from avalanche_llm.io.schema_validate import validate_run_record
from avalanche_llm.io.strict_json import parse_json
from avalanche_llm.stages import Stage

RECORD_NAME: Final = "run_record.json"
CONFIG_NAME: Final = "config_resolved.yaml"
SUBFOLDERS: Final = ("results", "figs", "tables", "logs", "cache")
LOCK_NAME: Final = "cache/.lock"
HELD_LOCKS: Final[dict[Path, int]] = {}
"""Descriptors of the locks that this process holds, by run folder: the steps of one job share them."""
MAX_RECORD_BYTES: Final = 64 * 2**20


def read_record(folder: Path) -> dict[str, Any]:
    """The validated record of a run directory. Raises SchemaError if it is no record, or not this folder's."""
    path = folder / RECORD_NAME
    try:
        if not path.is_file():  # a pipe would never end
            raise SchemaError(f"{path} is no file; it cannot be read as a run record")
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise SchemaError(f"{path} is larger than {MAX_RECORD_BYTES} bytes; it is not a run record")
        record = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SchemaError(f"{path} cannot be read as a run record: {error}") from error
    validate_run_record(record, str(path))
    if record["run_id"] != folder.name:
        raise SchemaError(f"{path} belongs to {record['run_id']}; the folder was renamed or replaced")
    return dict(record)


def index_by_path(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The artifact index as relative path to entry."""
    return {entry["relative_path"]: entry for entry in record["artifact_index"]}


def verified_artifact(folder: Path, record: Mapping[str, Any], name: str) -> Path:
    """Path of the artifact `name` after its sha256 was checked against the record.

    Raises MissingArtifact when it is absent, unindexed, a link, or changed since it was recorded.
    """
    relative = record["artifacts"].get(name)
    entry = index_by_path(record).get(relative or "")
    if relative is None or entry is None:
        raise MissingArtifact(f"{folder.name} has no artifact {name!r} in its record; rebuild that run")
    path = folder / relative
    if path.is_symlink() or not path.is_file():
        raise MissingArtifact(f"{path} is missing or a link; rebuild {folder.name}")
    found = sha256_file(path)
    if found != entry["sha256"]:
        raise MissingArtifact(
            f"{path} changed since it was recorded (sha256 {found[:12]}, expected {entry['sha256'][:12]}); rebuild {folder.name}"
        )
    return path


@runtime_checkable  # annotations are checked in tests
class RunArtifacts(Protocol):
    """What tables are made from: a run that is being written, or a complete one whose tables are made again."""

    @property
    def run_id(self) -> str: ...

    @property
    def record(self) -> Mapping[str, Any]: ...

    def artifact(self, name: str) -> Path: ...


class Run:
    """A run directory that this process is writing. Make one through `RunStore.begin`."""

    def __init__(self, folder: Path, stage: Stage, record: dict[str, Any]) -> None:
        self.folder = folder
        self.stage = stage
        self.record = record
        self._log = EventLog(folder / "logs" / "events.jsonl", folder.name)

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def cache(self) -> Path:
        """Folder for part files; it goes when the run completes."""
        return self.folder / "cache"

    @property
    def resumed(self) -> bool:
        """Whether somebody has worked on this run before."""
        return self._log.path.exists()

    def acquire(self) -> None:
        """Take the run's lock; the kernel frees a dead process's.

        Raises RunExists when a live process holds it, or has completed the run by now (its cache folder is gone then);
        EnvironmentProblem when nothing can be written, or locked, there.
        """
        try:
            descriptor = os.open(self.folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError as error:
            raise RunExists(
                f"{self.cache} is gone: another process completed the run, or the folder was removed; make it again to resume"
            ) from error
        except OSError as error:
            raise EnvironmentProblem(f"{self.folder} cannot be written: {error.strerror or error}; rights are needed") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise RunExists(f"{self.run_id} is being written by another process; wait for it to end") from error
        except OSError as error:  # a file system without locks
            os.close(descriptor)
            raise EnvironmentProblem(
                f"{self.folder / LOCK_NAME} cannot be locked: {error.strerror or error}; "
                "the runs folder must lie on a file system with locks"
            ) from error
        HELD_LOCKS[self.folder.resolve()] = descriptor
        self._log.mend()

    def release(self) -> None:
        """Give the lock back, whether the run completed or not."""
        descriptor = HELD_LOCKS.pop(self.folder.resolve(), None)
        if descriptor is not None:
            os.close(descriptor)

    def log(self, event_type: str, **payload: Any) -> None:
        """One line in logs/events.jsonl."""
        self._log.write(event_type, payload)

    def describe(self, **sections: Any) -> None:
        """Set or extend sections of the record (model, dataset, conditions, dependencies, versions, determinism, ...)."""
        for name, value in sections.items():
            old = self.record.get(name)
            self.record[name] = {**old, **value} if isinstance(old, dict) else value
        self._write_record()

    def holds(self, name: str) -> bool:
        """Whether the artifact is there already with the hash on record (a resumed run keeps it)."""
        if name not in self.record["artifacts"]:
            return False
        try:
            verified_artifact(self.folder, self.record, name)
        except MissingArtifact:
            return False
        return True

    def artifact(self, name: str) -> Path:
        """Path of an artifact that this run has written, its hash checked at this moment (MissingArtifact otherwise)."""
        return verified_artifact(self.folder, self.record, name)

    def save(self, name: str, writer: Writer) -> Path:
        """Write the artifact `name` of the stage, index it, and rewrite the record. A held artifact is kept as it is."""
        relative = self.stage.artifacts[name]
        path = self.folder / relative
        if self.holds(name):
            return path
        write_atomically(path, writer)
        entry = {
            "relative_path": relative,
            "sha256": sha256_file(path),
            "bytes": path.stat().st_size,
            "created_utc": utc_now(),
        }
        index = index_by_path(self.record) | {relative: entry}
        self.record["artifact_index"] = list(index.values())
        self.record["artifacts"][name] = relative
        self._write_record()
        self.log("artifacts_written", artifact=name, **entry)
        return path

    def time(self, name: str, seconds: float) -> None:
        """Add to a named duration of the record, in seconds."""
        self.record["timings"][name] = round(self.record["timings"].get(name, 0.0) + seconds, 3)

    def complete(self) -> None:
        """Check that every artifact of the stage is there, mark the run complete, drop its cache, make it read-only."""
        try:
            missing = [name for name in self.stage.artifacts if name not in self.stage.optional and not self.holds(name)]
            if missing:
                raise SchemaError(f"{self.run_id} cannot be completed: {', '.join(missing)} not written")
            for leftover in self.folder.rglob(f"{TEMPORARY_PREFIX}*"):  # before the record vouches for the whole folder
                leftover.unlink()
            self.log("stage_complete", artifacts=sorted(self.record["artifacts"]))
            self.log("end", status="complete")
            self.record |= {"stage_status": "complete", "completed_utc": utc_now()}
            self._write_record()
        except BaseException as error:
            self.interrupted(error)
            raise
        self.release()
        shutil.rmtree(self.cache, ignore_errors=True)
        make_read_only(self.folder)

    def interrupted(self, error: BaseException) -> None:
        """Say in the log, if it can still be written, why the run ended early, and give the lock back."""
        # The disk may be full or the folder gone; the record says in any case that the run is incomplete.
        with contextlib.suppress(EnvironmentProblem):
            self.log("end", status="interrupted", error=f"{type(error).__name__}: {error}")
        self.release()

    def _write_record(self) -> None:
        validate_run_record(self.record, f"record of {self.run_id}")
        write_atomically(self.folder / RECORD_NAME, raw(json_bytes(self.record)))


def make_read_only(folder: Path) -> None:
    """Take the write permission from every file and folder of a complete run; what a link in it points to stays as it is."""
    for path in (*folder.rglob("*"), folder):
        if path.is_symlink():
            continue
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
