"""Branching and chi: intervals against the truth, and the laws of z and p against permutations and shifts.

One simulation serves all numbers of sequences: the first n of every repetition. An interval covers where it encloses the
truth of the process (`metrics.stats`; the same weights in every repetition, as in the pipeline); one that is not given
neither covers nor misses and is counted apart. Null tests use the first NULL_SEQUENCES sequences and NULL_DRAWS draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

from avalanche_llm.metrics.branching import BranchingSums, branching, branching_interval, branching_sums
from avalanche_llm.metrics.null_ensemble import permutation_ensemble, shift_ensemble
from avalanche_llm.metrics.stats import Interval, bootstrap_weights, exceedance_p, z_score
from avalanche_llm.metrics.susceptibility import sequence_totals, susceptibility, susceptibility_interval
from avalanche_llm.paper.rules import above
from avalanche_llm.raster.build import occupancy
from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, PERMUTATION
from avalanche_llm.simulate.truth import RasterTruth, Shape
from avalanche_llm.validity.limits import Limits
from avalanche_llm.validity.scenarios import LAYERS, TOKENS, Scenario, draw_raster, scenario
from avalanche_llm.validity.shares import Share, share

SEQUENCES: Final = (16, 64, 128)
NULL_SEQUENCES: Final = 64
NULL_DRAWS: Final = 199
LEVEL: Final = 0.05
RATIOS: Final = (
    "b_time",
    "b_depth",
    "b_tot",
    "delta_b_time",
    "delta_b_depth",
    "delta_b_tot",
    "delta_b_depth_shift",
    "delta_b_tot_shift",
)
P_BINS: Final = 20
_PART: Final = 100
"""Repetitions simulated at once."""


@dataclass(frozen=True)
class IntervalRow:
    """One measure of one process at one number of sequences. coverage: of the intervals given, None if none was.

    `above_zero`: repetitions whose interval lies wholly above 0, the rule of the claims.
    """

    scenario: str
    measure: str
    n_sequences: int
    truth: float
    mean: float
    sd: float
    given: Share
    coverage: Share | None
    above_zero: Share


@dataclass(frozen=True)
class NullRow:
    """z and p of one statistic against one null. `holds`: the null is true of the process; `p_counts` by 1/20 of p.

    ks_p tests p against the uniform law, ks_small_p only for too many small values, which ties cannot cause.
    """

    scenario: str
    null_id: str
    statistic: str
    holds: bool
    z_mean: float
    z_sd: float
    rejected: Share
    ks_p: float
    ks_small_p: float
    p_counts: tuple[int, ...]


@dataclass(frozen=True)
class _Repetitions:
    sums: BranchingSums
    totals: Int64[np.ndarray, "repetition seq"]
    z: dict[tuple[str, str], Float64[np.ndarray, " repetition"]]
    p: dict[tuple[str, str], Float64[np.ndarray, " repetition"]]


_ENSEMBLES: Final = ((PERMUTATION, permutation_ensemble), (CIRCULAR_SHIFT, shift_ensemble))
_STATISTICS: Final = ("b_depth", "b_tot")


def branching_study(name: str, repetitions: int, limits: Limits) -> tuple[list[IntervalRow], list[NullRow]]:
    """Both tables for one scenario."""
    one = scenario(name)
    parts = [
        _part(one, index, min(_PART, repetitions - first)) for index, first in enumerate(range(0, repetitions, _PART))
    ]
    truth = one.draw(Shape(1, LAYERS, TOKENS), seed=0).truth
    return list(_interval_rows(one, truth, parts, limits)), list(_null_rows(one, parts))


def _part(one: Scenario, index: int, repetitions: int) -> _Repetitions:
    most = max(SEQUENCES)
    counts = draw_raster("branching", one, Shape(repetitions * most, LAYERS, TOKENS), index).counts
    counts = counts.reshape(repetitions, most, LAYERS, TOKENS)
    x = occupancy(counts)
    sums = branching_sums(x)
    observed = branching(sums[:, :NULL_SEQUENCES])
    z, p = {}, {}
    for null_id, ensemble in _ENSEMBLES:
        seeds = range(index * _PART, index * _PART + repetitions)
        found = ensemble(x[:, :NULL_SEQUENCES], draws=NULL_DRAWS, seeds=seeds)
        for statistic in _STATISTICS:
            value = getattr(observed, statistic)
            mean, sd = (getattr(found, f"exact_{moment}_{statistic}") for moment in ("mean", "sd"))
            z[null_id, statistic] = np.asarray(z_score(value, mean, sd))
            p[null_id, statistic] = np.asarray(exceedance_p(value, getattr(found, statistic)))
    return _Repetitions(sums, sequence_totals(counts), z, p)


def _interval_rows(
    one: Scenario, truth: RasterTruth, parts: list[_Repetitions], limits: Limits
) -> Iterator[IntervalRow]:
    for n_sequences in SEQUENCES:
        weights = bootstrap_weights(n_sequences, reps=limits.bootstrap_reps, seed=limits.bootstrap_seed)
        chosen = [part.sums[:, :n_sequences] for part in parts]
        points, replicates = [branching(sums) for sums in chosen], [branching(sums, weights) for sums in chosen]
        for measure in RATIOS:
            value = np.concatenate([getattr(point, measure) for point in points])
            found = _joined(
                [
                    branching_interval(measure, sums, point, drawn, weights)
                    for sums, point, drawn in zip(chosen, points, replicates, strict=True)
                ]
            )
            yield interval_row(one.name, measure, n_sequences, getattr(truth, measure), value, found)
        totals = np.concatenate([part.totals[:, :n_sequences] for part in parts])
        chi = susceptibility(totals, eps=limits.chi_eps)
        found = susceptibility_interval(totals, weights, eps=limits.chi_eps)
        yield interval_row(one.name, "chi", n_sequences, truth.chi, chi, found)


def interval_row(
    name: str, measure: str, n_sequences: int, truth: float, value: Float64[np.ndarray, " repetition"], interval: Interval
) -> IntervalRow:
    """Estimates and intervals of all repetitions against the truth."""
    low, high = np.asarray(interval.low), np.asarray(interval.high)
    given = np.isfinite(low)
    covers = ((low <= truth) & (truth <= high))[given]
    return IntervalRow(
        scenario=name,
        measure=measure,
        n_sequences=n_sequences,
        truth=truth,
        mean=float(value.mean()),
        sd=float(value.std(ddof=1)),
        given=share(given),
        coverage=share(covers) if given.any() else None,
        above_zero=share(above(low)),
    )


def _joined(parts: list[Interval]) -> Interval:
    low, high, n_valid = (np.concatenate([getattr(part, name) for part in parts]) for name in ("low", "high", "n_valid"))
    return Interval(low, high, n_valid)


def _null_rows(one: Scenario, parts: list[_Repetitions]) -> Iterator[NullRow]:
    for null_id, holds in ((PERMUTATION, one.permutation_holds), (CIRCULAR_SHIFT, one.shift_holds)):
        for statistic in _STATISTICS:
            z, p = (np.concatenate([getattr(part, name)[null_id, statistic] for part in parts]) for name in ("z", "p"))
            yield NullRow(
                scenario=one.name,
                null_id=null_id,
                statistic=statistic,
                holds=holds,
                z_mean=float(z.mean()),
                z_sd=float(z.std(ddof=1)),
                rejected=share(p <= LEVEL),
                ks_p=float(stats.kstest(p, "uniform").pvalue),
                ks_small_p=float(stats.kstest(p, "uniform", alternative="greater").pvalue),
                p_counts=tuple(np.histogram(p, bins=P_BINS, range=(0.0, 1.0))[0].tolist()),
            )
