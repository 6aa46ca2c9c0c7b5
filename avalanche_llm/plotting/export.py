"""Tables and figures as run artifacts: one frame becomes a CSV and a Parquet file, one figure a PDF and a PNG."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import raw
from avalanche_llm.plotting.schemas import SCHEMAS
from avalanche_llm.plotting.style import Provenance, save
from avalanche_llm.plotting.tables import Key, from_rows, to_csv_bytes, to_parquet_bytes, validate


def export_table(run: Run, table_id: str, rows: Iterable[Mapping[str, Any]], expected: Iterable[Key]) -> pd.DataFrame:
    """Check the rows against the table's schema, write both files, return the frame. SchemaError names a bad cell."""
    schema = SCHEMAS[table_id]
    frame = validate(from_rows(rows, schema), schema, expected)
    run.save(f"{table_id}_csv", raw(to_csv_bytes(frame)))
    run.save(f"{table_id}_parquet", raw(to_parquet_bytes(frame, schema)))
    return frame


def export_figure(run: Run, figure_id: str, figure: Figure, provenance: Provenance) -> None:
    """Write both files of a figure with its provenance inside."""
    files = save(figure, provenance)
    run.save(f"{figure_id}_pdf", raw(files.pdf))
    run.save(f"{figure_id}_png", raw(files.png))
