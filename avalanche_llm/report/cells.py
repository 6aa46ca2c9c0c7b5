"""Result tables as the page shows them: short numbers, full precision on demand, repeated columns named once (spec 24)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from avalanche_llm.paper.facts import CHOSEN, written
from avalanche_llm.plotting.columns import SPIKE_NAMES
from avalanche_llm.plotting.schemas import SCHEMAS
from avalanche_llm.report.captions import TABLES

SHORT: Final = {**SPIKE_NAMES, "g1": "g = 1", "gstar": "g*"}
GIVEN: Final = frozenset(
    {"run_id", "stage_id", "model_id", "model_role", "dataset_role", "config_hash", "code_version"}
    | {"tau0_baseline", "rate_match_tol_abs", "n_sequences", "n_questions"}
)
"""What was not measured: named above the table where every row has the same value."""
SAID_BY_NAME: Final = frozenset({"g"})


@dataclass(frozen=True)
class Cell:
    """`exact` is the value in full where `text` is not; the page sorts by it. `words`: text, not a number."""

    text: str
    exact: str = ""
    words: bool = False


@dataclass(frozen=True)
class Heading:
    """One column. `optional` columns are those beyond the binding ones."""

    name: str
    unit: str
    meaning: str
    numeric: bool
    optional: bool


@dataclass(frozen=True)
class Row:
    """`label` is the row's key in words."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class TableView:
    """One table of the page. `same`: columns with one value in every row. `files`: where the rows were read."""

    table_id: str
    title: str
    same: tuple[tuple[str, str], ...]
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]
    files: tuple[tuple[str, str], ...] = ()

    @property
    def n_optional(self) -> int:
        return sum(heading.optional for heading in self.headings)


def table_view(table_id: str, frame: pd.DataFrame, files: Sequence[tuple[str, str]] = ()) -> TableView:
    """The rows of one result table. `files`: path and sha256 of each file that holds them."""
    schema = SCHEMAS[table_id]
    same = [name for name in schema.names if name in GIVEN and frame[name].nunique(dropna=False) == 1]
    shown = [column for column in schema.columns if column.name not in same]
    columns = [[_cell(value, column.name) for value in frame[column.name].tolist()] for column in shown]
    rows = zip(*columns, strict=True)
    keys = frame[list(schema.key)].to_dict("records")
    return TableView(
        table_id,
        TABLES[table_id],
        tuple((name, _cell(frame[name].iloc[0], name).text) for name in same),
        tuple(
            Heading(
                column.name,
                column.unit,
                column.meaning,
                column.dtype in ("float64", "int64"),
                column.name.startswith("opt_"),
            )
            for column in shown
        ),
        tuple(Row(_label(key), cells) for key, cells in zip(keys, rows, strict=True)),
        tuple(files),
    )


def _cell(value: Any, column: str) -> Cell:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, str) and pd.isna(value):
        value = None
    text = written(value, exact=column in CHOSEN)
    exact = repr(value) if isinstance(value, float) else text
    return Cell(text, "" if exact == text or value is None else exact, isinstance(value, str | bool))


def _label(key: dict[Any, Any]) -> str:
    parts = []
    for name, value in key.items():
        if isinstance(value, str):
            parts.append(SHORT.get(value, value))
        else:
            number = written(value, exact=True)
            parts.append(f"{name} {number}" if name in SAID_BY_NAME else number)
    return ", ".join(parts)
