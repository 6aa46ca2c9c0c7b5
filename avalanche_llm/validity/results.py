"""The results of all studies, their JSON, and the run that makes them: one task a process and study.

Numbers keep six significant digits in the file, so that the last bits of a library's sums do not show; NaN is null.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from multiprocessing import get_context
from typing import Any, Final, TypeVar, get_args

import numpy as np

from avalanche_llm.io.files import json_bytes
from avalanche_llm.progress import progress
from avalanche_llm.validity import exponent_study, memory_study, surrogate_study, verdict_study
from avalanche_llm.validity.branching_study import IntervalRow, NullRow, branching_study
from avalanche_llm.validity.exponent_study import ExponentCase, GrowthRow, TailRow
from avalanche_llm.validity.limits import Limits
from avalanche_llm.validity.memory_study import MemoryRow
from avalanche_llm.validity.scenarios import SCENARIOS
from avalanche_llm.validity.shares import Share
from avalanche_llm.validity.surrogate_study import SurrogateRow
from avalanche_llm.validity.verdict_study import VerdictRow

Row = IntervalRow | NullRow | SurrogateRow | VerdictRow | MemoryRow | GrowthRow | TailRow
_AnyRow = TypeVar("_AnyRow", bound=Row)
_DIGITS: Final = 6


@dataclass(frozen=True)
class Repetitions:
    """How often each process is simulated: branching and the claims' rules are cheap, the other studies less so."""

    branching: int
    others: int


@dataclass(frozen=True)
class Results:
    """The rows of every study, and the limits under which they were measured."""

    limits: Limits
    intervals: tuple[IntervalRow, ...]
    nulls: tuple[NullRow, ...]
    surrogates: tuple[SurrogateRow, ...]
    verdicts: tuple[VerdictRow, ...]
    memory: tuple[MemoryRow, ...]
    growth: tuple[GrowthRow, ...]
    tails: tuple[TailRow, ...]


def run_studies(repetitions: Repetitions, limits: Limits, *, workers: int) -> Results:
    """All studies. The numbers depend neither on the number of workers nor on their order."""
    tasks: list[Callable[[], list[Row]]] = [
        *(partial(_memory, index, repetitions.others) for index in range(len(memory_study.CASES))),
        *(partial(_surrogates, name, repetitions.others) for name in surrogate_study.CASES),
        *(partial(_swap_verdicts, name, repetitions.branching, limits) for name in verdict_study.SWAPPED),
        *(partial(_paired_verdicts, claim, repetitions.branching, limits) for claim in verdict_study.PAIRED),
        *(partial(_exponents, case, repetitions.others, limits) for case in exponent_study.cases(limits)),
        *(partial(_branching, one.name, repetitions.branching, limits) for one in SCENARIOS),
    ]
    rows: list[Row] = []
    with progress("simulated processes", len(tasks), "tasks") as advance:
        for found in _run(tasks, workers):
            rows += found
            advance(1)
    return Results(
        limits=limits,
        intervals=_of(IntervalRow, rows),
        nulls=_of(NullRow, rows),
        surrogates=_of(SurrogateRow, rows),
        verdicts=_of(VerdictRow, rows),
        memory=_of(MemoryRow, rows),
        growth=_of(GrowthRow, rows),
        tails=_of(TailRow, rows),
    )


def to_json(results: Results) -> bytes:
    """The results as JSON, a list of rows a study."""
    return json_bytes(_plain(asdict(results)))


def from_json(data: bytes) -> Results:
    """The results that `to_json` wrote, in its digits."""
    read = json.loads(data)
    rows = {
        field.name: tuple(_row(get_args(field.type)[0], row) for row in read[field.name])
        for field in fields(Results)
        if field.type is not Limits
    }
    return Results(limits=Limits(**read["limits"]), **rows)


def scenarios_of(rows: Iterable[Row]) -> list[str]:
    """The processes of a table, in order of appearance."""
    return list(dict.fromkeys(row.scenario for row in rows))


def _run(tasks: Sequence[Callable[[], list[Row]]], workers: int) -> Iterator[list[Row]]:
    if workers == 1:
        yield from (task() for task in tasks)
        return
    # spawned, because a fork would copy threads of the numerical libraries in the middle of their work
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(task) for task in tasks]:
            yield future.result()


def _branching(name: str, repetitions: int, limits: Limits) -> list[Row]:
    intervals, nulls = branching_study(name, repetitions, limits)
    return [*intervals, *nulls]


def _surrogates(name: str, repetitions: int) -> list[Row]:
    return [*surrogate_study.surrogate_study(name, repetitions)]


def _swap_verdicts(name: str, repetitions: int, limits: Limits) -> list[Row]:
    return [*verdict_study.swap_verdicts(name, repetitions, limits)]


def _paired_verdicts(claim: str, repetitions: int, limits: Limits) -> list[Row]:
    return [*verdict_study.paired_verdicts(claim, repetitions, limits)]


def _memory(index: int, repetitions: int) -> list[Row]:
    return [memory_study.memory_study(index, repetitions)]


def _exponents(case: ExponentCase, repetitions: int, limits: Limits) -> list[Row]:
    growth, tail = exponent_study.exponent_study(case, repetitions, limits)
    return [*growth, tail]


def _of(kind: type[_AnyRow], rows: Iterable[Row]) -> tuple[_AnyRow, ...]:
    return tuple(row for row in rows if isinstance(row, kind))


def _plain(value: Any) -> Any:
    """JSON's own types, numbers rounded."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
    return value


def _row(kind: type[_AnyRow], read: Mapping[str, Any]) -> _AnyRow:
    """A row from its JSON object: null is NaN for a number, None for a share."""
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = read[field.name]
        if field.type is float:
            value = float("nan") if value is None else float(value)
        elif isinstance(value, Mapping):
            value = Share(**value)
        elif isinstance(value, list):
            value = tuple(value)
        values[field.name] = value
    return kind(**values)
