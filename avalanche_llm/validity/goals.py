"""What the project asks of its measures, and what the studies found.

Coverage: every case between 92 and 98 %. False positives: no case whose binomial interval lies wholly above 5 %.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, MARGIN_SWAP, PERMUTATION
from avalanche_llm.validity.branching_study import LEVEL, SEQUENCES
from avalanche_llm.validity.markup import NULL_NAMES, with_interval
from avalanche_llm.validity.results import Results
from avalanche_llm.validity.scenarios import scenario
from avalanche_llm.validity.shares import Share

COVERAGE: Final = (0.92, 0.98)
MANY: Final = 64
"""From this number of sequences on, a false positive of an interval counts."""


@dataclass(frozen=True)
class Goal:
    """What was asked, what was found, whether it is met."""

    goal: str
    found: str
    met: bool


def goals(results: Results) -> Iterator[Goal]:
    """Every goal against the results."""
    yield from _coverage_goals(results)
    for measure, null, flag in (
        ("delta_b_tot", "permutation", "permutation_holds"),
        ("delta_b_tot_shift", "shift", "shift_holds"),
        ("delta_b_depth_shift", "shift", "shift_holds"),
    ):
        yield _false_positives(
            f"interval of {measure} above 0, {null} null true",
            [
                (row.above_zero, f"{row.scenario}, {row.n_sequences} sequences")
                for row in results.intervals
                if row.measure == measure and row.n_sequences >= MANY and getattr(scenario(row.scenario), flag)
            ],
        )
    for null_id, statistic in ((PERMUTATION, "b_tot"), (CIRCULAR_SHIFT, "b_tot"), (CIRCULAR_SHIFT, "b_depth")):
        yield _false_positives(
            f"{NULL_NAMES[null_id]}: p of {statistic} at most 0.05, null true",
            [
                (row.rejected, row.scenario)
                for row in results.nulls
                if (row.null_id, row.statistic, row.holds) == (null_id, statistic, True)
            ],
        )
    swaps = [row for row in results.surrogates if row.null_id == MARGIN_SWAP and scenario(row.scenario).swap_holds]
    yield _false_positives("margin swap: b_tot above all its draws, null true", [(row.rejected, row.scenario) for row in swaps])
    no_memory = [row for row in results.memory if np.isnan(row.truth) and not row.propagates]
    yield _false_positives("m available where activity has no memory", [(row.available, row.scenario) for row in no_memory])
    for goal, sizes, verdict in (
        ("power law preferred to the log-normal, sizes of another law", "other", "over_lognormal"),
        ("power law preferred to the exponential, sizes of another law", "other", "over_exponential"),
        ("log-normal preferred to the power law, power-law sizes", "power law", "under_lognormal"),
    ):
        yield _false_positives(goal, [(getattr(row, verdict), row.scenario) for row in results.tails if row.sizes == sizes])


def _coverage_goals(results: Results) -> Iterator[Goal]:
    for n in SEQUENCES:
        rows = [row for row in results.intervals if row.n_sequences == n]
        for name, start in (("b", "b_"), ("delta_b", "delta_b"), ("chi", "chi")):
            cases = [(row.coverage, f"{row.scenario}, {row.measure}") for row in rows if row.measure.startswith(start)]
            yield _coverage(f"coverage of {name}, {n} sequences", cases)
    yield _coverage(
        "coverage of gamma", [(row.coverage, f"{row.scenario}, {row.n_sequences} sequences") for row in results.growth]
    )
    yield _coverage("coverage of alpha, power-law sizes", [(row.coverage, row.scenario) for row in results.tails])
    yield _coverage("coverage of m", [(row.coverage, f"{row.scenario}, {row.seen:g} seen") for row in results.memory])


def _coverage(goal: str, cases: Iterable[tuple[Share | None, str]]) -> Goal:
    known = [(share, place) for share, place in cases if share is not None]
    inside = [COVERAGE[0] <= share.value <= COVERAGE[1] for share, _ in known]
    share, place = max(known, key=lambda case: abs(case[0].value - (1.0 - LEVEL)))
    found = f"{sum(inside)} of {len(known)} cases; furthest off {with_interval(share)} % ({place})"
    return Goal(goal, found, all(inside))


def _false_positives(goal: str, cases: Sequence[tuple[Share, str]]) -> Goal:
    share, place = max(cases, key=lambda case: case[0].value)
    found = f"{len(cases)} cases; most {with_interval(share)} % ({place})"
    return Goal(goal, found, all(share.low <= LEVEL for share, _ in cases))
