"""The results of the studies as tables, their JSON, and the run that makes them, one task a process and study.

A Share becomes four columns: `coverage`, `coverage_low`, `coverage_high`, `coverage_n`. Numbers keep six significant digits,
so that the last bits of a library's sums do not show. NaN is null in the file.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import get_context
from typing import Any, Final

import numpy as np
import pandas as pd

from avalanche_llm.io.files import json_bytes
from avalanche_llm.progress import progress
from avalanche_llm.validity import exponent_study, memory_study, surrogate_study
from avalanche_llm.validity.branching_study import IntervalRow, NullRow, branching_study
from avalanche_llm.validity.exponent_study import GrowthRow, TailRow
from avalanche_llm.validity.memory_study import MemoryRow
from avalanche_llm.validity.scenarios import SCENARIOS
from avalanche_llm.validity.shares import Share
from avalanche_llm.validity.surrogate_study import SurrogateRow

Row = IntervalRow | NullRow | SurrogateRow | MemoryRow | GrowthRow | TailRow
Tables = Mapping[str, pd.DataFrame]

TABLES: Final[Mapping[str, type[Row]]] = {
    "intervals": IntervalRow,
    "nulls": NullRow,
    "surrogates": SurrogateRow,
    "memory": MemoryRow,
    "growth": GrowthRow,
    "tails": TailRow,
}
_DIGITS: Final = 6


@dataclass(frozen=True)
class Repetitions:
    """How often each process is simulated: branching is cheap, the other studies less so."""

    branching: int
    others: int


def run_studies(repetitions: Repetitions, *, workers: int) -> dict[str, pd.DataFrame]:
    """Every table by name. The numbers depend neither on the number of workers nor on their order."""
    tasks: list[Callable[[], list[Row]]] = [
        *(partial(_memory, index, repetitions.others) for index in range(len(memory_study.CASES))),
        *(partial(_surrogates, name, repetitions.others) for name in surrogate_study.CASES),
        *(partial(_exponents, index, repetitions.others) for index in range(len(exponent_study.CASES))),
        *(partial(_branching, one.name, repetitions.branching) for one in SCENARIOS),
    ]
    rows: list[Row] = []
    with progress("simulated processes", len(tasks), "tasks") as advance:
        for found in _run(tasks, workers):
            rows += found
            advance(1)
    return {
        name: pd.DataFrame([_flat(row) for row in rows if isinstance(row, kind)]) for name, kind in TABLES.items()
    }


def to_json(tables: Tables) -> bytes:
    """The tables as JSON, a list of rows each."""
    return json_bytes({name: [_plain(row) for row in table.to_dict("records")] for name, table in tables.items()})


def from_json(data: bytes) -> dict[str, pd.DataFrame]:
    """The tables of `to_json`; null is NaN."""
    return {
        name: pd.DataFrame(rows).map(lambda value: float("nan") if value is None else value)
        for name, rows in json.loads(data).items()
    }


def _run(tasks: Sequence[Callable[[], list[Row]]], workers: int) -> Iterator[list[Row]]:
    if workers == 1:
        yield from (task() for task in tasks)
        return
    # spawned, because a fork would copy threads of the numerical libraries in the middle of their work
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_call, tasks)


def _call(task: Callable[[], list[Row]]) -> list[Row]:
    return task()


def _branching(name: str, repetitions: int) -> list[Row]:
    intervals, nulls = branching_study(name, repetitions)
    return [*intervals, *nulls]


def _surrogates(name: str, repetitions: int) -> list[Row]:
    return [*surrogate_study.surrogate_study(name, repetitions)]


def _memory(index: int, repetitions: int) -> list[Row]:
    return [memory_study.memory_study(index, repetitions)]


def _exponents(index: int, repetitions: int) -> list[Row]:
    growth, tail = exponent_study.exponent_study(index, repetitions)
    return [*growth, tail]


def _flat(row: Row) -> dict[str, Any]:
    """The columns of a row; a missing Share is four times NaN."""
    flat: dict[str, Any] = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if field.type in (Share, Share | None):
            found = value or Share(*(float("nan"),) * 3, n=0)
            flat |= {field.name: found.value}
            flat |= {f"{field.name}_{part}": getattr(found, part) for part in ("low", "high", "n")}
        else:
            flat[field.name] = value
    return flat


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): _rounded(value) for name, value in row.items()}


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
    return list(value) if isinstance(value, tuple) else value
