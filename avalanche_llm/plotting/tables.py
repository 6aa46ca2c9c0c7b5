"""The one writer of result tables: rows to a checked frame, the frame to CSV and Parquet bytes (spec 18).

    rows -> from_rows -> validate -> to_csv_bytes, to_parquet_bytes

Both files hold the same rows in the order of the expected keys, and the same frame gives the same bytes: LF
line ends, floats as their shortest exact decimal, no index, no timestamps. "No value" is NaN in a float
column and null in a string column; both are an empty CSV field, which is why an empty string is refused.
Infinity is a value, but a column that is not nullable may not hold it. An empty field is the only missing
mark, so read the CSV with `pandas.read_csv(..., keep_default_na=False, na_values=[""])`.
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
from jaxtyping import Bool

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

    None stands for no value in string and float columns. Raises SchemaError, naming table, row and column,
    where a row lacks a column, has one too many, or holds a value of another type: nothing is cast
    silently.
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

    Checked: exact column names and order, exact dtypes, no NaN, null or infinity where a column is not
    nullable, no empty or multi-line string, and every expected key (a tuple in the order of `schema.key`,
    floats compared exactly) present once and no other. Raises SchemaError naming table, row key and column.
    """
    _check_columns(frame, schema)
    for column in schema.columns:
        _check_values(frame, column, schema)
    found = _keys(frame, schema)
    expected = list(expected_keys)
    there, wanted = set(found), set(expected)
    for problem, keys in (
        ("is expected more than once: mend the list of keys", _repeated(expected)),
        ("appears more than once", _repeated(found)),
        ("is missing", [key for key in expected if key not in there]),
        ("is not expected", [key for key in found if key not in wanted]),
    ):
        if keys:
            row = _describe(dict(zip(schema.key, keys[0], strict=False)), schema)
            raise SchemaError(
                f"{schema.table_id}, row {row}: key {problem} "
                f"({len(keys)} such; {len(expected)} rows expected, {len(found)} found)"
            )
    position = {key: index for index, key in enumerate(found)}
    return frame.iloc[[position[key] for key in expected]].reset_index(drop=True)


def to_csv_bytes(frame: pd.DataFrame) -> bytes:
    """UTF-8 CSV of a validated frame: a header line, LF ends, floats that read back exactly."""
    return frame.to_csv(index=False, lineterminator="\n").encode("utf-8")


def to_parquet_bytes(frame: pd.DataFrame, schema: TableSchema) -> bytes:
    """Parquet (zstd) of a validated frame; metadata: `unit` and `meaning` per field, `table_id` and `key`.

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
    if isinstance(value, np.ndarray):
        return ", ".join(map(_cell, value))
    if pd.isna(value):  # type: ignore[call-overload]  # the stub knows no plain object; a cell is a scalar
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _check_type(row: Mapping[str, object], column: Column, schema: TableSchema) -> None:
    value = row[column.name]
    accepted = isinstance(value, _PYTHON_TYPES[column.dtype]) and (
        column.dtype == "bool" or not isinstance(value, bool | np.bool_)  # to Python a bool is an int
    )
    if not (accepted or (value is None and column.dtype in ("string", "float64"))):
        raise SchemaError(
            f"{schema.table_id}, row {_describe(row, schema)}: column {column.name} must be {column.dtype}, found {value!r}"
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
            raise SchemaError(f"{schema.table_id}, every row: column {place} is {name}, expected {expected}")
    if len(found) != len(schema.names):
        raise SchemaError(f"{schema.table_id}, every row: column {found[-1]} appears more than once")
    for column in schema.columns:
        dtype = frame[column.name].dtype
        text = column.dtype == "string"
        if not (isinstance(dtype, pd.StringDtype) if text else dtype == np.dtype(column.dtype)):
            raise SchemaError(f"{schema.table_id}, every row: column {column.name} must be {column.dtype}, found {dtype}")


def _check_values(frame: pd.DataFrame, column: Column, schema: TableSchema) -> None:
    values = frame[column.name]
    present = values.notna().to_numpy(dtype=bool)
    if not column.nullable:
        good = np.isfinite(values.to_numpy()) if column.dtype == "float64" else present
        _demand(good, frame, column, schema, "hold a value")
    if column.dtype == "string":
        one_line = np.array([bool(text) and text.isprintable() for text in values[present]], dtype=bool)
        good = ~present
        good[present] = one_line
        _demand(good, frame, column, schema, "hold one line of text or null")


def _demand(good: Bool[np.ndarray, " row"], frame: pd.DataFrame, column: Column, schema: TableSchema, what: str) -> None:
    if not good.all():
        place = int(np.argmin(good))
        row = frame.iloc[place].to_dict()
        raise SchemaError(
            f"{schema.table_id}, row {_describe(row, schema)}: column {column.name} must {what}, found "
            f"{row[column.name]!r} ({int((~good).sum())} such of {len(frame)} rows)"
        )


def _keys(frame: pd.DataFrame, schema: TableSchema) -> list[Key]:
    return list(zip(*(frame[name].tolist() for name in schema.key), strict=True))


def _repeated(keys: list[Key]) -> list[Key]:
    return [key for key, times in Counter(keys).items() if times > 1]


def _describe(row: Mapping[Any, object], schema: TableSchema) -> str:
    return "(" + ", ".join(f"{name}={row.get(name, '?')}" for name in schema.key) + ")"
