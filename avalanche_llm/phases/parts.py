"""Part files: what a forward pass brought, kept in the run's cache until the run completes, so that a resumed run skips it."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from avalanche_llm.errors import MissingArtifact
from avalanche_llm.events.tail_files import read_events
from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import parquet, write_atomically


def part_path(run: Run, name: str) -> Path:
    """Where a part waits for the others."""
    return run.cache / f"{name}.parquet"


def is_kept(run: Run, name: str) -> bool:
    """Whether a part is there and readable: parts appear whole or not at all."""
    try:
        read_events(part_path(run, name))
    except MissingArtifact:
        return False
    return True


def kept_or_made(run: Run, name: str, make: Callable[[], pa.Table]) -> pa.Table:
    """The events of a part, measured now unless an earlier attempt of this run left them."""
    if not is_kept(run, name):
        write_atomically(part_path(run, name), parquet(make()))
    return read_events(part_path(run, name))
