"""How a claim is decided: what each unit of the data says, what all of them say, and the numbers behind it (spec 20).

A unit (a condition, a cell, a gain) holds, fails, or stays open: its value is not available, or its interval does not decide.

    supported       every unit holds
    not supported   at least one unit fails
    undetermined    none fails and at least one is open, or there is no unit

Units share events and windows, so they are counted and never pooled into one p.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pandas as pd

from avalanche_llm.paper.facts import Fact, Origin, Sheet, constant
from avalanche_llm.paper.prose import Prose

Outcome = Literal["holds", "fails", "open"]
Verdict = Literal["supported", "not supported", "undetermined"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("holds", "fails", "open")
ALPHA: Final = 0.05
"""Level of the single tests that a rule names."""
CELL: Final = ("spike_def_id", "target_rate")


@dataclass(frozen=True)
class Judged:
    """The rows of a sheet with what each of them says."""

    sheet: Sheet
    outcomes: tuple[Outcome, ...]

    def count(self, outcome: Outcome) -> Fact:
        """How many rows say so."""
        return self.sheet.count([found == outcome for found in self.outcomes], outcome)

    def by_cell(self) -> Mapping[tuple[Any, ...], Outcome]:
        """What a cell says; only for sheets of one row a cell."""
        cells = self.sheet.frame[list(CELL)].itertuples(index=False, name=None)
        return dict(zip(cells, self.outcomes, strict=True))


@dataclass(frozen=True)
class Claim:
    """A sentence, the rule that decides it, and what decided it. `judged` may cover several sheets, such as g = 1 and g*."""

    claim_id: str
    sentence: str
    rule: Prose
    judged: tuple[Judged, ...]
    finding: Prose

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(outcome for judged in self.judged for outcome in judged.outcomes)

    @property
    def verdict(self) -> Verdict:
        return verdict(self.outcomes)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What the finding and the rule say in numbers, each once."""
        return tuple(dict.fromkeys((*self.finding.facts, *self.rule.facts)))

    @property
    def origins(self) -> tuple[Origin, ...]:
        """The artifacts that decided it, each once."""
        decided = (judged.sheet.origin for judged in self.judged)
        return tuple(dict.fromkeys((*decided, *(fact.origin for fact in self.facts if fact.origin.run_id))))

    def counts(self) -> Mapping[Outcome, int]:
        """How many units say what."""
        return {outcome: self.outcomes.count(outcome) for outcome in OUTCOMES}


def verdict(outcomes: Sequence[Outcome]) -> Verdict:
    """What all units together say."""
    if "fails" in outcomes:
        return "not supported"
    return "supported" if outcomes and "open" not in outcomes else "undetermined"


def alpha() -> Fact:
    """ALPHA as a number of the paper."""
    return constant(sys.modules[__name__], "ALPHA", ALPHA)


def judge(sheet: Sheet, rule: Callable[[pd.Series], Outcome]) -> Judged:
    """A rule on every row."""
    return Judged(sheet, tuple(rule(row) for _, row in sheet.frame.iterrows()))


def above_zero(low: str, high: str) -> Callable[[pd.Series], Outcome]:
    """Holds where the interval lies above zero, fails where it does not reach above it."""
    return lambda row: _side(row[low], row[high])


def below_zero(low: str, high: str) -> Callable[[pd.Series], Outcome]:
    """Holds where the interval lies below zero, fails where it does not reach below it."""
    return lambda row: _side(-row[high], -row[low])


def all_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Holds where all hold, fails where one fails."""
    if "fails" in outcomes:
        return "fails"
    return "open" if "open" in outcomes else "holds"


def _side(low: float, high: float) -> Outcome:
    if math.isnan(low) or math.isnan(high):
        return "open"
    if low > 0:
        return "holds"
    return "fails" if high <= 0 else "open"
