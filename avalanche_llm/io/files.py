"""Files that are either whole or not there, and serialisers that give the same bytes for the same content."""

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import write_array

from avalanche_llm.errors import EnvironmentProblem, MissingArtifact
from avalanche_llm.io.arrays import DAMAGE, read_arrays
from avalanche_llm.io.strict_json import parse_json

Writer = Callable[[BinaryIO], None]
TEMPORARY_PREFIX: Final = ".part-"
ROW_GROUP: Final = 2**20
"""Rows that a parquet file keeps together: pyarrow's own choice."""
NPZ_LEVEL: Final = 4
"""Of rasters: four times faster than zlib's own choice of 6, and a twelfth larger."""
MAX_ROWS_PER_BYTE: Final = 64
"""More rows than any table of ours packs into a byte of its file; a footer that claims more is not believed."""


def write_atomically(path: Path, writer: Writer) -> None:
    """Let `writer` fill a temporary file beside `path`, fsync it and rename it into place.

    Whatever happens before the rename, `path` keeps what it had and nothing partial carries its name. Afterwards memory that
    arrow keeps of tables that are gone is given back: of a whole phase that is a tenth of what the process holds.
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
        pa.default_memory_pool().release_unused()
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
    """Writer of what np.savez_compressed writes, at `NPZ_LEVEL`; members have zipfile's fixed date: equal arrays, equal bytes."""

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=NPZ_LEVEL) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    write_array(member, np.asanyarray(array), allow_pickle=False)

    return write


def parquet(table: pa.Table) -> Writer:
    """Writer of a zstd parquet file without pandas' own metadata (which names library versions)."""
    plain = _plain(table)

    def write(file: BinaryIO) -> None:
        pq.write_table(plain, file, **_encoding(plain.schema))

    return write


def parquet_of(schema: pa.Schema, tables: Iterable[pa.Table]) -> Writer:
    """Writer of the file that `parquet` writes for all tables together, of which two at most are held at a time."""

    def write(file: BinaryIO) -> None:
        waiting = schema.empty_table()
        with pq.ParquetWriter(file, schema, **_encoding(schema)) as writer:
            for table in tables:
                waiting = pa.concat_tables([waiting, table])
                while waiting.num_rows > ROW_GROUP:
                    writer.write_table(waiting.slice(0, ROW_GROUP))
                    waiting = waiting.slice(ROW_GROUP)
            writer.write_table(waiting)

    return write


def parquet_bytes(table: pa.Table) -> bytes:
    """What `parquet` writes, where its hash is wanted before the file."""
    sink = pa.BufferOutputStream()
    pq.write_table(_plain(table), sink, **_encoding(table.schema))
    return bytes(sink.getvalue())


def _encoding(schema: pa.Schema) -> dict[str, Any]:
    """zstd, and no dictionary of float32 columns: measured values hardly repeat, and are larger and slower to write with one."""
    repeating = [field.name for field in schema if field.type != pa.float32()]
    return {"compression": "zstd", "use_dictionary": repeating if len(repeating) < len(schema) else True}


def _plain(table: pa.Table) -> pa.Table:
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"pandas"}
    return table.replace_schema_metadata(metadata or None)


def read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    """The table in `path`. Raises MissingArtifact if it cannot be read or has not these columns and types, in this order."""
    with _opened(path, schema=schema) as file:
        return _whole(file.read(), file.metadata.num_rows)


def read_row_groups(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of `read_parquet`, one row group of the file at a time."""
    with _opened(path, schema=schema) as file:
        for place in range(file.num_row_groups):
            yield _whole(file.read_row_group(place), file.metadata.row_group(place).num_rows)


def read_frame(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table in `path`, or some of its columns. Raises MissingArtifact if it cannot be read or lacks one of them."""
    with _opened(path, columns=columns or ()) as file:
        wanted = None if columns is None else list(columns)
        return _whole(file.read(columns=wanted), file.metadata.num_rows).to_pandas()


@contextmanager
def _opened(path: Path, *, schema: pa.Schema | None = None, columns: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """One file as it stands (a dataset reader would add columns for folders named a=b), checked before its pages are read."""
    try:
        with pq.ParquetFile(path) as file:
            rows = file.metadata.num_rows
            if rows > MAX_ROWS_PER_BYTE * path.stat().st_size:
                raise pa.ArrowInvalid(f"it claims {rows} rows in {path.stat().st_size} bytes")
            found = file.schema_arrow
            absent = [name for name in columns if name not in found.names]
            if absent:
                raise pa.ArrowInvalid(f"it has no column {absent[0]!r}, only {', '.join(found.names)}")
            if schema is not None and not found.equals(schema):
                expected, there = (", ".join(f"{field.name} {field.type}" for field in fields) for fields in (schema, found))
                raise pa.ArrowInvalid(f"expected the columns {expected}; found {there}")
            yield file
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise MissingArtifact(f"{path} is not the parquet table that was expected ({error}); rebuild its run") from error


def _whole(table: pa.Table, n_rows: int) -> pa.Table:
    """`table`, once its buffers and its length are looked at."""
    table.validate(full=True)
    if table.num_rows != n_rows:
        raise pa.ArrowInvalid(f"it claims {n_rows} rows and holds {table.num_rows}")
    return table


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """The mapping in `path`. Raises MissingArtifact if it is none, or lacks one of `keys`."""
    try:
        value = parse_json(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError(f"a mapping was expected, found {type(value).__name__}")
        absent = [key for key in keys if key not in value]
        if absent:
            raise ValueError(f"it has no {absent[0]!r}")
    except (OSError, ValueError) as error:
        raise MissingArtifact(f"{path} is not the json that was expected ({error}); rebuild its run") from error
    return value


def read_rows(path: Path, key: str, *columns: str) -> list[dict[str, Any]]:
    """The list of rows under `key` of a json file. Raises MissingArtifact if it is none, or a row lacks one of `columns`."""
    rows = read_json(path, key)[key]
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= {*columns} for row in rows):
        raise MissingArtifact(f"{path}: {key} must be a list of rows with {', '.join(columns) or 'columns'}; rebuild its run")
    return rows


def read_npz(path: Path, shapes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The arrays named in `shapes` (name to number of axes). Raises MissingArtifact if one is absent or not as declared."""
    try:
        arrays = read_arrays(path, shapes)
    except DAMAGE as error:
        raise MissingArtifact(f"{path} is not the npz that was expected ({error}); rebuild its run") from error
    for name, axes in shapes.items():
        if arrays[name].ndim != axes:
            raise MissingArtifact(f"{path}: array {name} must have {axes} axes, found {arrays[name].ndim}")
    return arrays
