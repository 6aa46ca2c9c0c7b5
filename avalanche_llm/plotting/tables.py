"""The one writer of result tables: rows to a checked frame, the frame to CSV and Parquet bytes (spec 18).

    rows -> from_rows -> validate -> to_csv_bytes, to_parquet_bytes

Both files hold the same rows in the order of the expected keys, and the same frame gives the same bytes: LF line
ends, floats as their shortest exact decimal, no index, no timestamps. "No value" is NaN in a float column and null
in a string column; both are an empty CSV field, which is why an empty string is refused. Infinity is a value, but
not one that a column without gaps may hold. An empty field is the only missing mark, so read the CSV with
`pandas.read_csv(..., keep_default_na=False, na_values=[""], float_precision="round_trip")`.
"""

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from avalanche_llm.errors import SchemaError
from avalanche_llm.plotting.schemas import Column, DType, TableSchema

Key = tuple[str | float, ...]

_PYTHON_TYPES: Final[Mapping[DType, tuple[type, ...]]] = MappingProxyType(
    {
        "string": (str,),
        "float64": (float, int, np.floating, np.integer),
        "int64": (int, np.integer),
        "bool": (bool, np.bool_),
    }
)
_PANDAS_TYPES: Final[Mapping[DType, str]] = MappingProxyType(
    {"string": "str", "float64": "float64", "int64": "int64", "bool": "bool"}
)
_ARROW_TYPES: Final[Mapping[DType, pa.DataType]] = MappingProxyType(
    {"string": pa.string(), "float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_()}
)


def from_rows(rows: Iterable[Mapping[str, object]], schema: TableSchema) -> pd.DataFrame:
    """A frame with the columns and dtypes of `schema` from one mapping a row, in the order given.

    None stands for no value in string and float columns. Raises SchemaError, naming table, row and column, where
    a row lacks a column, has one too many, or holds a value of another type: nothing is cast silently.
    """
    listed = list(rows)
    for row in listed:
        for name in (*schema.names, *row):
            if name not in row or name not in schema.names:
                found = "is missing" if name not in row else "is not in the schema"
                raise SchemaError(f"{schema.table_id}, row {_describe(row, schema)}: column {name} {found}")
        for column in schema.columns:
            _check_type(row, column, schema)
    return pd.DataFrame(
        {
            column.name: pd.Series([row[column.name] for row in listed], dtype=_PANDAS_TYPES[column.dtype])
            for column in schema.columns
        }
    )


def validate(frame: pd.DataFrame, schema: TableSchema, expected_keys: Iterable[Key]) -> pd.DataFrame:
    """The same rows in the order of `expected_keys`, with a fresh index; `frame` is left as it is.

    Checked: exact column names and order, exact dtypes, no NaN, null or infinity where a column is not nullable,
    no empty or multi-line string, and every expected key (a tuple in the order of `schema.key`, floats compared
    exactly) present once and no other. Raises SchemaError naming table, row key and column.
    """
    _check_columns(frame, schema)
    for column in schema.columns:
        _check_values(frame, column, schema)
    found = _keys(frame, schema)
    expected = list(expected_keys)
    for problem, keys in (
        ("is expected more than once: mend the list of keys", _repeated(expected)),
        ("appears more than once", _repeated(found)),
        ("is missing", [key for key in expected if key not in set(found)]),
        ("is not expected", [key for key in found if key not in set(expected)]),
    ):
        if keys:
            raise SchemaError(
                f"{schema.table_id}, row {_describe(dict(zip(schema.key, keys[0], strict=False)), schema)}: key "
                f"{problem} ({len(keys)} such; {len(expected)} rows expected, {len(found)} found)"
            )
    position = {key: index for index, key in enumerate(found)}
    return frame.iloc[[position[key] for key in expected]].reset_index(drop=True)


def to_csv_bytes(frame: pd.DataFrame) -> bytes:
    """UTF-8 CSV of a validated frame: a header line, LF ends, floats that read back exactly."""
    return frame.to_csv(index=False, lineterminator="\n").encode("utf-8")


def to_parquet_bytes(frame: pd.DataFrame, schema: TableSchema) -> bytes:
    """Parquet (zstd) of a validated frame; every field carries `unit` and `meaning`, the schema `table_id` and `key`.

    No pandas block is written, since it records library versions. Raises SchemaError for other columns.
    """
    _check_columns(frame, schema)
    fields = [
        pa.field(
            column.name,
            _ARROW_TYPES[column.dtype],
            nullable=column.nullable,
            metadata={"unit": column.unit, "meaning": column.meaning},
        )
        for column in schema.columns
    ]
    arrays = [pa.array(frame[field.name], type=field.type, from_pandas=True) for field in fields]
    described = pa.schema(fields, metadata={"table_id": schema.table_id, "key": ",".join(schema.key)})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=described), sink, compression="zstd")
    return sink.getvalue()


def markdown_head(frame: pd.DataFrame, n: int = 5) -> str:
    """The first `n` rows as a Markdown table for previews, floats to six digits, and how many rows follow."""
    lines = [list(map(str, frame.columns)), ["---"] * frame.shape[1]]
    lines += [[_cell(value) for value in row] for row in frame.head(n).itertuples(index=False, name=None)]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return text if len(frame) <= n else f"{text}\n\n{len(frame) - n} more rows"


def _cell(value: object) -> str:
    if pd.isna(value):  # type: ignore[call-overload]  # the stub knows no plain object; a cell is a scalar
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _check_type(row: Mapping[str, object], column: Column, schema: TableSchema) -> None:
    value = row[column.name]
    accepted = isinstance(value, _PYTHON_TYPES[column.dtype]) and (
        column.dtype == "bool" or not isinstance(value, bool | np.bool_)  # bool is an int to Python, not to a table
    )
    if not (accepted or (value is None and column.dtype in ("string", "float64"))):
        raise SchemaError(
            f"{schema.table_id}, row {_describe(row, schema)}: column {column.name} must be {column.dtype}, "
            f"found {value!r}"
        )


def _check_columns(frame: pd.DataFrame, schema: TableSchema) -> None:
    found = list(frame.columns)
    for name in schema.names:
        if name not in found:
            raise SchemaError(f"{schema.table_id}, every row: column {name} is missing")
    for name in found:
        if name not in schema.names:
            raise SchemaError(f"{schema.table_id}, every row: column {name} is not in the schema")
    for place, (name, expected) in enumerate(zip(found, schema.names, strict=False)):
        if name != expected:
            raise SchemaError(f"{schema.table_id}, every row: column {place} is {name}, expected {expected} there")
    if len(found) != len(schema.names):
        raise SchemaError(f"{schema.table_id}, every row: column {found[-1]} appears more than once")
    for column in schema.columns:
        dtype = frame[column.name].dtype
        right = isinstance(dtype, pd.StringDtype) if column.dtype == "string" else dtype == np.dtype(column.dtype)
        if not right:
            raise SchemaError(
                f"{schema.table_id}, every row: column {column.name} must be {column.dtype}, found {dtype}"
            )


def _check_values(frame: pd.DataFrame, column: Column, schema: TableSchema) -> None:
    values = frame[column.name]
    empty = values.isna().to_numpy(dtype=bool)
    if not column.nullable:
        bad = ~np.isfinite(values.to_numpy()) if column.dtype == "float64" else empty
        if bad.any():
            place = int(np.argmax(bad))
            raise SchemaError(
                f"{schema.table_id}, row {_describe(frame.iloc[place].to_dict(), schema)}: column {column.name} must "
                f"hold a value, found {values.iloc[place]} ({int(bad.sum())} such of {len(frame)} rows)"
            )
    if column.dtype == "string":
        for place, text in enumerate(values):
            if not empty[place] and (not text or not text.isprintable()):
                raise SchemaError(
                    f"{schema.table_id}, row {_describe(frame.iloc[place].to_dict(), schema)}: column {column.name} "
                    f"must be one line of text or null, found {text!r}"
                )


def _keys(frame: pd.DataFrame, schema: TableSchema) -> list[Key]:
    return list(zip(*(frame[name].tolist() for name in schema.key), strict=True))


def _repeated(keys: list[Key]) -> list[Key]:
    return [key for key, times in Counter(keys).items() if times > 1]


def _describe(row: Mapping[Any, object], schema: TableSchema) -> str:
    return "(" + ", ".join(f"{name}={row.get(name, '?')}" for name in schema.key) + ")"
