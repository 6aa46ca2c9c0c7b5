"""Numbers that know where they were read: a value, its unit, and the run, artifact, row and column that hold it (spec 20).

Everything the paper says in digits is a `Fact`, and `written` is the one place that turns a value into text:
measured numbers to SIGNIFICANT_DIGITS, counts, gains, rates and settings in full, "n/a" where there is no value.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Bool

from avalanche_llm.io.artifacts import RECORD_NAME, RunArtifacts, index_by_path
from avalanche_llm.io.hashing import sha256_file
from avalanche_llm.io.store import Upstream
from avalanche_llm.plotting.columns import VOCABULARY

SIGNIFICANT_DIGITS: Final = 3
NOT_AVAILABLE: Final = "n/a"
CHOSEN: Final = frozenset(
    {"g", "target_rate", "tau0_baseline", "rate_match_tol_abs", "gstar", "gstar_base", "gstar_instruct", "chi_peak_g", "xmin"}
    | {"gstar_ci_low", "gstar_ci_high"}
)
"""Columns whose values were set or picked from a list, not measured: they are written in full."""
Value = str | bool | int | float | None


def written(value: Value, *, exact: bool = False) -> str:
    """A value as the paper prints it. Whole digits are never rounded away: 1532.3 is 1532."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOT_AVAILABLE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | str) or not math.isfinite(value):
        return str(value)
    if exact or value == 0:
        return f"{value:.12g}"
    if abs(value) >= 10**SIGNIFICANT_DIGITS - 0.5:
        return f"{value:.0f}"
    return f"{value:#.{SIGNIFICANT_DIGITS}g}".rstrip(".")


@dataclass(frozen=True)
class Origin:
    """The file that holds a value. A constant of the code has no run_id, and the sha256 of its module."""

    run_id: str
    phase_id: str
    artifact: str
    relative_path: str
    sha256: str

    @classmethod
    def of(cls, run: RunArtifacts, artifact: str) -> "Origin":
        """An artifact of a run, as its record has it."""
        path = run.record["artifacts"][artifact]
        return cls(run.run_id, run.record["phase_id"], artifact, path, index_by_path(run.record)[path]["sha256"])

    @classmethod
    def of_record(cls, run: Upstream) -> "Origin":
        """The record of a complete run itself."""
        return cls(run.run_id, run.phase_id, "run_record", RECORD_NAME, sha256_file(run.folder / RECORD_NAME))


@dataclass(frozen=True)
class Fact:
    """One value of the paper. `row` names the row of the table by its key, `column` the column or what was made of it."""

    value: Value
    unit: str
    origin: Origin
    row: str
    column: str
    exact: bool = False

    def __str__(self) -> str:
        return written(self.value, exact=self.exact)

    def described(self) -> dict[str, Value]:
        """As claims.json lists it. What is not finite is null there."""
        value = None if isinstance(self.value, float) and not math.isfinite(self.value) else self.value
        return {
            "text": str(self),
            "value": value,
            "unit": self.unit,
            "run_id": self.origin.run_id,
            "table": self.origin.artifact,
            "row": self.row,
            "column": self.column,
        }


@dataclass(frozen=True)
class Sheet:
    """A table with its origin. `key` names the columns that name a row."""

    origin: Origin
    key: tuple[str, ...]
    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    def where(self, chosen: Sequence[bool] | Bool[np.ndarray, " row"] | pd.Series) -> "Sheet":
        """The rows that a mask picks."""
        return replace(self, frame=self.frame[np.asarray(chosen, dtype=bool)])

    def equal(self, **values: object) -> "Sheet":
        """The rows with these values."""
        chosen = np.ones(len(self.frame), dtype=bool)
        for column, value in values.items():
            chosen &= (self.frame[column] == value).to_numpy()
        return self.where(chosen)

    def made(self, expression: str, values: Sequence[Any] | pd.Series | np.ndarray) -> "Sheet":
        """With one more column, called after the expression that gave it."""
        return replace(self, frame=self.frame.assign(**{expression: np.asarray(values)}))

    def fact(self, place: int, column: str) -> Fact:
        """One cell, by place of its row."""
        row = self.frame.iloc[place]
        value = row[column]
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, str) and pd.isna(value):
            value = None
        unit = VOCABULARY[column].unit if column in VOCABULARY else ""
        named = ", ".join(f"{name}={written(_plain(row[name]), exact=True)}" for name in self.key)
        return Fact(value, unit, self.origin, named, column, column in CHOSEN)

    def span(self, column: str) -> tuple[Fact, Fact]:
        """The smallest and the largest value of a column; without any value, two facts that say so."""
        found = self.frame[column].to_numpy(dtype=np.float64)
        if np.isnan(found).all():
            nothing = Fact(None, "", self.origin, self.rows, column)
            return nothing, nothing
        return self.fact(int(np.nanargmin(found)), column), self.fact(int(np.nanargmax(found)), column)

    def count(self, chosen: Sequence[bool] | np.ndarray | pd.Series, expression: str) -> Fact:
        """How many rows a mask picks."""
        return Fact(int(np.asarray(chosen, dtype=bool).sum()), "rows", self.origin, self.rows, f"count({expression})")

    @property
    def size(self) -> Fact:
        """How many rows there are."""
        return Fact(len(self), "rows", self.origin, self.rows, "count(rows)")

    @property
    def rows(self) -> str:
        """What stands for a row where a value was made of several."""
        return f"{len(self)} rows"


def constant(module: ModuleType, name: str, value: Value) -> Fact:
    """A fixed number of the code, with the sha256 of the module that holds it."""
    path = Path(str(module.__file__))
    relative = f"{module.__name__.replace('.', '/')}.py"
    origin = Origin("", "", "code", relative, hashlib.sha256(path.read_bytes()).hexdigest())
    return Fact(value, "", origin, "", name, exact=True)


def _plain(value: Any) -> Value:
    plain: Value = value.item() if isinstance(value, np.generic) else value
    return plain
