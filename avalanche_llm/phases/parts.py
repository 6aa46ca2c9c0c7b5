"""Part files: what a forward pass brought, kept in the run's cache until the run completes, so that a resumed run skips it."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from avalanche_llm.errors import MissingArtifact
from avalanche_llm.events.tail_files import read_events
from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import parquet_bytes, raw, write_atomically
from avalanche_llm.io.hashing import sha256_bytes, sha256_file


def part_path(run: Run, name: str) -> Path:
    """Where a part waits for the others."""
    return run.cache / f"{name}.parquet"


def is_kept(run: Run, name: str, read: Callable[[Path], pa.Table] = read_events) -> bool:
    """Whether a part is there as it was written: parts appear whole or not at all, and a byte may have changed since."""
    path = part_path(run, name)
    try:
        return _digest(path).read_text(encoding="ascii") == sha256_file(path) and read(path) is not None
    except (MissingArtifact, OSError, UnicodeDecodeError):
        return False


def keep(run: Run, name: str, table: pa.Table) -> Path:
    """Write a part, and before it its hash beside it: no record holds it."""
    path, data = part_path(run, name), parquet_bytes(table)
    write_atomically(_digest(path), raw(sha256_bytes(data).encode("ascii")))
    write_atomically(path, raw(data))
    return path


def _digest(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def make_unless_kept(run: Run, name: str, make: Callable[[], pa.Table]) -> Path:
    """The path of a part, measured now unless an earlier attempt of this run left it."""
    return part_path(run, name) if is_kept(run, name) else keep(run, name, make())


def kept_or_made(run: Run, name: str, make: Callable[[], pa.Table]) -> pa.Table:
    """The events of a part, measured now unless an earlier attempt of this run left them."""
    return read_events(make_unless_kept(run, name, make))
