"""Rows of a sheet as a table of the paper: the cell first, a value with its interval in one column (spec 20)."""

from collections.abc import Sequence
from dataclasses import dataclass

from avalanche_llm.paper.facts import Sheet
from avalanche_llm.paper.prose import Filling, Prose, interval, prose, table
from avalanche_llm.plotting.columns import SPIKE_NAMES


@dataclass(frozen=True)
class Column:
    """A column under a heading of its own; `ends` is what its interval's columns begin with, "_low" and "_high" left out."""

    title: str
    name: str
    ends: str = ""


def rows_of(sheet: Sheet, columns: Sequence[str | Column]) -> Prose:
    """Every row of a sheet. KeyError for a column that the sheet lacks: a table does not lose one in silence."""
    shown = [column if isinstance(column, Column) else Column(column, column) for column in columns]
    rows: list[list[Filling]] = [
        [
            SPIKE_NAMES[str(sheet.fact(place, "spike_def_id"))],
            sheet.fact(place, "target_rate"),
            *(_filled(sheet, place, column) for column in shown),
        ]
        for place in range(len(sheet))
    ]
    return table(["spikes", "rate", *(column.title for column in shown)], rows)


def _filled(sheet: Sheet, place: int, column: Column) -> Filling:
    value = sheet.fact(place, column.name)
    if not column.ends or value.value is None:
        return value
    ends = interval(sheet.fact(place, f"{column.ends}_low"), sheet.fact(place, f"{column.ends}_high"))
    return prose("{value} {ends}", value=value, ends=ends)
