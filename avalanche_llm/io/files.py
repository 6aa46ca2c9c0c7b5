"""Files that are either whole or not there, and serialisers that give the same bytes for the same content."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avalanche_llm.errors import EnvironmentProblem, MissingArtifact

Writer = Callable[[BinaryIO], None]
TEMPORARY_PREFIX: Final = ".part-"


def write_atomically(path: Path, writer: Writer) -> None:
    """Let `writer` fill a temporary file beside `path`, fsync it and rename it into place.

    Whatever happens before the rename, `path` keeps what it had and nothing partial carries its name.
    Raises EnvironmentProblem when the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                writer(file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {path}: {error.strerror or error}; free space or rights are needed") from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def raw(data: bytes) -> Writer:
    """Writer of these bytes."""

    def write(file: BinaryIO) -> None:
        file.write(data)

    return write


def json_bytes(value: Any) -> bytes:
    """UTF-8 JSON with two spaces of indent and a final newline. NaN is an error: write null and say why beside it."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def npz(arrays: Mapping[str, np.ndarray]) -> Writer:
    """Writer of a compressed npz; numpy stamps its members with a fixed date, so equal arrays give equal bytes."""

    def write(file: BinaryIO) -> None:
        np.savez_compressed(file, allow_pickle=False, **arrays)

    return write


def parquet(table: pa.Table) -> Writer:
    """Writer of a zstd parquet file without pandas' own metadata (which names library versions)."""
    plain = _plain(table)

    def write(file: BinaryIO) -> None:
        pq.write_table(plain, file, compression="zstd")

    return write


def parquet_bytes(table: pa.Table) -> bytes:
    """What `parquet` writes, where its hash is wanted before the file."""
    sink = pa.BufferOutputStream()
    pq.write_table(_plain(table), sink, compression="zstd")
    return bytes(sink.getvalue())


def _plain(table: pa.Table) -> pa.Table:
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"pandas"}
    return table.replace_schema_metadata(metadata or None)


def read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    """The table in `path`. Raises MissingArtifact if it cannot be read or has not these columns and types, in this order."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise MissingArtifact(f"{path} is not the parquet table that was expected ({error}); rebuild its run") from error
    if not table.schema.equals(schema):
        expected, found = (", ".join(f"{field.name} {field.type}" for field in columns) for columns in (schema, table.schema))
        raise MissingArtifact(f"{path}: expected the columns {expected}; found {found}")
    return table


def read_npz(path: Path, shapes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The arrays named in `shapes` (name to number of axes). Raises MissingArtifact if one is absent or not as declared."""
    try:
        # opened here: np.load leaves a file of its own open when the zip is damaged
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in shapes}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise MissingArtifact(f"{path} is not the npz that was expected ({error}); rebuild its run") from error
    for name, axes in shapes.items():
        if arrays[name].ndim != axes:
            raise MissingArtifact(f"{path}: array {name} must have {axes} axes, found {arrays[name].ndim}")
    return arrays
