"""Tables and figures as run artifacts: one frame becomes a CSV and a Parquet file, one figure a PDF and a PNG."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from avalanche_llm.garbage import look_at_the_young
from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import raw
from avalanche_llm.plotting.schemas import SCHEMAS
from avalanche_llm.plotting.style import Provenance, save
from avalanche_llm.plotting.tables import Key, from_rows, to_csv_bytes, to_parquet_bytes, validate


def checked_table(table_id: str, rows: Iterable[Mapping[str, Any]], expected: Iterable[Key]) -> pd.DataFrame:
    """The rows as a frame in the order of `expected`, checked against the table's schema. SchemaError names a bad cell."""
    schema = SCHEMAS[table_id]
    return validate(from_rows(rows, schema), schema, expected)


def table_files(table_id: str, frame: pd.DataFrame) -> dict[str, bytes]:
    """Both files of a checked table by artifact name: the bytes that are written, and that `verify` compares."""
    return {
        f"{table_id}_csv": to_csv_bytes(frame),
        f"{table_id}_parquet": to_parquet_bytes(frame, SCHEMAS[table_id]),
    }


def export_tables(run: Run, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write every table of a run, by table id."""
    for table_id, frame in tables.items():
        for name, data in table_files(table_id, frame).items():
            run.save(name, raw(data))


def export_figure(run: Run, figure_id: str, draw: Callable[[], Figure], provenance: Provenance) -> None:
    """Write both files of a figure with its provenance inside; a resumed run that holds both draws neither again."""
    if all(run.holds(f"{figure_id}_{form}") for form in ("pdf", "png")):
        return
    files = save(draw(), provenance)
    look_at_the_young()  # a figure refers to itself
    run.save(f"{figure_id}_pdf", raw(files.pdf))
    run.save(f"{figure_id}_png", raw(files.png))
