"""What the project asks of its measures, and what the studies found.

Coverage: no case whose binomial interval lies wholly outside 92 to 98 %. False positives: none whose lies wholly above 5 %. A
case in which MOSTLY all repetitions have no interval is named and not judged: those few that have one were picked by their data.
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
MOSTLY: Final = 0.5
"""Share of the repetitions that must have an interval for its coverage to be judged."""


@dataclass(frozen=True)
class Goal:
    """What was asked, what was found, whether it is met (None: no case to judge). `used`: whether a claim rests on it."""

    goal: str
    found: str
    met: bool | None
    used: bool


def goals(results: Results) -> Iterator[Goal]:
    """Every goal against the results: coverage, claims under their nulls, other tests, and what no claim uses."""
    yield from _coverage_goals(results)
    yield from _claim_goals(results)
    yield from _other_goals(results)


def _claim_goals(results: Results) -> Iterator[Goal]:
    for claim, measure, flag in (
        ("excess over permutation (excess_g1, _gstar, _on_b)", "delta_b_tot", "permutation_holds"),
        ("depth over shift (excess_shift)", "delta_b_depth_shift", "shift_holds"),
    ):
        yield _false_positives(f"claim: {claim}, null true", _above_zero(results, measure, flag), used=True)
    for claim in dict.fromkeys(row.claim for row in results.verdicts):
        cases = [(row.supported, f"{row.scenario}, n = {row.n}") for row in results.verdicts if row.claim == claim]
        yield _false_positives(f"claim: {claim}, null true", cases, used=True)
    yield _false_positives("claim: power_law, sizes of another law", _preferences(results, "other", "over_lognormal"), used=True)


def _other_goals(results: Results) -> Iterator[Goal]:
    for null_id, statistic in ((PERMUTATION, "b_tot"), (CIRCULAR_SHIFT, "b_depth")):
        yield _false_positives(
            f"{NULL_NAMES[null_id]}: p of {statistic} at most 0.05, null true", _rejected(results, null_id, statistic), used=False
        )
    swaps = [row for row in results.surrogates if row.null_id == MARGIN_SWAP and scenario(row.scenario).swap_holds]
    yield _false_positives(
        "margin swap: b_tot above all its draws, null true", [(row.rejected, row.scenario) for row in swaps], used=False
    )
    no_memory = [row for row in results.memory if np.isnan(row.truth) and not row.propagates]
    yield _false_positives(
        "m available where activity has no memory", [(row.available, row.scenario) for row in no_memory], used=False
    )
    for goal, sizes, verdict in (
        ("log-normal preferred to the power law, power-law sizes", "power law", "under_lognormal"),
        ("power law preferred to the exponential, sizes of another law", "other", "over_exponential"),
    ):
        yield _false_positives(goal, _preferences(results, sizes, verdict), used=False)
    yield _false_positives(
        "interval of delta_b_tot_shift above 0, shift null true",
        _above_zero(results, "delta_b_tot_shift", "shift_holds"),
        used=False,
    )
    yield _false_positives(
        "circular shift: p of b_tot at most 0.05, null true", _rejected(results, CIRCULAR_SHIFT, "b_tot"), used=False
    )


def _above_zero(results: Results, measure: str, flag: str) -> list[tuple[Share, str]]:
    return [
        (row.above_zero, f"{row.scenario}, {row.n_sequences} sequences")
        for row in results.intervals
        if row.measure == measure and getattr(scenario(row.scenario), flag)
    ]


def _rejected(results: Results, null_id: str, statistic: str) -> list[tuple[Share, str]]:
    wanted = (null_id, statistic, True)
    return [(row.rejected, row.scenario) for row in results.nulls if (row.null_id, row.statistic, row.holds) == wanted]


def _preferences(results: Results, sizes: str, verdict: str) -> list[tuple[Share, str]]:
    return [(getattr(row, verdict), row.scenario) for row in results.tails if row.sizes == sizes]


def _coverage_goals(results: Results) -> Iterator[Goal]:
    for n in SEQUENCES:
        rows = [row for row in results.intervals if row.n_sequences == n]
        for name, start in (("b", "b_"), ("delta_b", "delta_b"), ("chi", "chi")):
            of_name = [row for row in rows if row.measure.startswith(start)]
            cases = [(row.coverage, f"{row.scenario}, {row.measure}") for row in of_name if row.given.value >= MOSTLY]
            used = name == "delta_b"  # the claims' excess; b and chi are shown with their intervals and decide nothing
            yield _coverage(f"coverage of {name}, {n} sequences", cases, len(of_name) - len(cases), used=used)
    for n in sorted({row.n_sequences for row in results.growth}):
        of_gamma = [row for row in results.growth if row.n_sequences == n and np.isfinite(row.truth)]
        cases = [(row.coverage, f"{row.scenario}, {n} sequences") for row in of_gamma if row.given.value >= MOSTLY]
        # its width is the gate of the claim
        yield _coverage(f"coverage of gamma, {n} sequences", cases, len(of_gamma) - len(cases), used=True)
    yield _coverage("coverage of alpha, power-law sizes", [(row.coverage, row.scenario) for row in results.tails], 0, used=False)
    of_m = [(row.coverage, f"{row.scenario}, {row.seen:g} seen") for row in results.memory]
    yield _coverage("coverage of m", of_m, 0, used=False)


def _coverage(goal: str, cases: Iterable[tuple[Share | None, str]], not_given: int, *, used: bool) -> Goal:
    known = [(share, place) for share, place in cases if share is not None]
    if not known:
        return Goal(goal, f"mostly not given in all {not_given} cases", None, used)
    inside = sum(COVERAGE[0] <= share.value <= COVERAGE[1] for share, _ in known)
    share, place = max(known, key=lambda case: abs(case[0].value - (1.0 - LEVEL)))
    found = f"inside in {inside} of {len(known)} cases; furthest off {with_interval(share)} % ({place})"
    if not_given:
        found += f"; mostly not given in {not_given} more"
    narrow, wide = any(share.high < COVERAGE[0] for share, _ in known), any(share.low > COVERAGE[1] for share, _ in known)
    if wide and not narrow:
        found += "; too wide, none too narrow"
    return Goal(goal, found, not (narrow or wide), used)


def _false_positives(goal: str, cases: Sequence[tuple[Share, str]], *, used: bool) -> Goal:
    share, place = max(cases, key=lambda case: case[0].value)
    found = f"{len(cases)} cases; most {with_interval(share)} % ({place})"
    return Goal(goal, found, all(share.low <= LEVEL for share, _ in cases), used)
