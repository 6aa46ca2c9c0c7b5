"""Crackling, and whether susceptibility and branching point to one gain (SCIENCE section 4; spec 09, S2 and S3).

    log <S>(D) = gamma log D + constant        S the size in events, D the duration in tokens

gamma is the ordinary least-squares slope with one point for each distinct duration in [d_min, d_max];
mean-field branching has gamma = 2 (Sethna, Dahmen and Myers 2001), but only for long avalanches: between 3
and 64 steps a critical branching process itself gives about 1.78. What is uncertain is the choice of
sequences. The interval leaves out one sequence at a time: a bootstrap resample lacks a third of the
sequences and with them many of the rare long durations, each a point of the fit, and so shows too small a
spread. Where a duration was found in one sequence alone, leaving that out removes the point and does not
move it, so that its spread and the bias of its logarithm are unknown: then there is no interval.

Neither is evidence of criticality by itself: a gamma exists for every cloud of components that grow with
their duration, and chi peaks wherever sequences differ most.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Float64, Int

from avalanche_llm.metrics.stats import leave_one_out, t_interval

GAIN_DECIMALS: Final = 9
"""Gains are written with few decimals; 0.9 - 0.7 must count as 0.2."""
_ROUNDING: Final = 1e-24
"""Sum of squares of log means that are equal but for rounding; integer sizes differ by more."""


@dataclass(frozen=True)
class CracklingFit:
    """gamma (no unit) with its 95 % interval over sequences; NaN where there is none, and the `reason`.

    `passed` says that the interval exists and is at most as wide as allowed. It says nothing about the cause.
    """

    gamma: float
    ci_low: float
    ci_high: float
    ci_width: float
    n_duration_points: int
    n_avalanches_used: int
    r2: float
    passed: bool
    reason: str = ""

    @classmethod
    def unavailable(cls, reason: str, *, n_points: int = 0, n_used: int = 0) -> "CracklingFit":
        nan = float("nan")
        return cls(nan, nan, nan, nan, n_points, n_used, nan, False, reason)


def crackling(
    size: Int[np.ndarray, " avalanche"],
    duration: Int[np.ndarray, " avalanche"],
    seq_id: Int[np.ndarray, " avalanche"],
    *,
    n_sequences: int,
    d_min: int,
    d_max: int,
    min_points: int,
    ci_width_max: float,
) -> CracklingFit:
    """Fit the crackling relation and its interval; never raises on data, the reason says what was missing.

    No gamma below `min_points` durations; gamma without an interval where one sequence alone holds a duration
    of the fit. Sequences without an avalanche in the range are left out in their turn as well.
    """
    if d_max < d_min:
        return CracklingFit.unavailable(f"empty range of durations [{d_min}, {d_max}]")
    used = (duration >= d_min) & (duration <= d_max)
    n_used = int(used.sum())
    grid = np.arange(d_min, d_max + 1)
    cell = seq_id[used].astype(np.int64) * len(grid) + (duration[used] - d_min)
    shape = (n_sequences, len(grid))
    number = np.bincount(cell, minlength=n_sequences * len(grid)).reshape(shape).astype(np.float64)
    events = np.bincount(cell, weights=size[used], minlength=n_sequences * len(grid)).reshape(shape)

    holders = np.count_nonzero(number, axis=0)  # sequences with an avalanche of that duration
    n_points = int(np.count_nonzero(holders))
    needed = max(min_points, 2)
    if n_points < needed:
        reason = f"{n_points} durations in [{d_min}, {d_max}], {needed} needed"
        return CracklingFit.unavailable(reason, n_points=n_points, n_used=n_used)

    log_d, events, number = np.log(grid[holders > 0]), events[:, holders > 0], number[:, holders > 0]
    (gamma,), (r2,) = _slopes(log_d, events.sum(axis=0, keepdims=True), number.sum(axis=0, keepdims=True))
    low = high = float("nan")
    if n_alone := int(np.count_nonzero(holders == 1)):
        reason = f"one sequence alone holds {n_alone} of {n_points} durations, no interval knows their spread"
    else:
        drawn = leave_one_out(n_sequences)
        interval = t_interval(float(gamma), _slopes(log_d, drawn @ events, drawn @ number)[0], drawn)
        low, high = float(interval.low), float(interval.high)
        reason = "" if high - low <= ci_width_max else f"interval {high - low:.3g} wide, {ci_width_max:g} allowed"
    return CracklingFit(
        gamma=float(gamma),
        ci_low=low,
        ci_high=high,
        ci_width=high - low,
        n_duration_points=n_points,
        n_avalanches_used=n_used,
        r2=float(r2),
        passed=not reason,
        reason=reason,
    )


def susceptibility_peak(gains: Float[np.ndarray, " gain"], chi: Float[np.ndarray, " gain"]) -> float:
    """The gain with the largest chi; ties go to the one nearest 1, then the smaller. NaN if every chi is."""
    if np.isnan(chi).all():
        return float("nan")
    from_one = np.round(np.abs(gains - 1.0), GAIN_DECIMALS)
    return float(gains[np.lexsort((gains, from_one, -chi))[0]])  # NaN sorts last


@dataclass(frozen=True)
class SignatureAlignment:
    """Whether chi peaks where b_tot is nearest one. `distance` in units of gain, NaN where there is no peak.

    `agrees` needs a distance of at most the maximum and a peak inside the grid: at an edge chi may still be
    rising.
    """

    g_star: float
    chi_peak_g: float
    distance: float
    agrees: bool
    peak_at_edge: bool
    sentence: str


def signature_alignment(
    g_star: float, chi_peak_g: float, *, gains: Float[np.ndarray, " gain"], max_difference: float
) -> SignatureAlignment:
    """Compare g* with the peak of chi over the same grid, in a sentence that claims no more than that."""
    if np.isnan(chi_peak_g):
        sentence = "chi has no peak: no gain of the grid left an event."
        return SignatureAlignment(g_star, chi_peak_g, float("nan"), False, False, sentence)
    distance = float(np.round(abs(g_star - chi_peak_g), GAIN_DECIMALS))
    at_edge = bool(chi_peak_g <= gains.min() or chi_peak_g >= gains.max())
    near = distance <= max_difference
    apart = f"{distance:g} from g* = {g_star:g}, limit {max_difference:g}"
    peak = f"chi is largest at g = {chi_peak_g:g}, {apart}"
    if at_edge:
        sentence = f"{peak}; that is an edge of the grid, so no peak was located and nothing is compared."
    elif near:
        sentence = f"{peak}; the two are near each other, which alone does not show a critical point."
    else:
        sentence = f"{peak}; the two are apart."
    return SignatureAlignment(g_star, chi_peak_g, distance, near and not at_edge, at_edge, sentence)


def _slopes(
    log_d: Float64[np.ndarray, " duration"],
    events: Float64[np.ndarray, "reps duration"],
    number: Float64[np.ndarray, "reps duration"],
) -> tuple[Float64[np.ndarray, " reps"], Float64[np.ndarray, " reps"]]:
    """OLS of log mean size on log duration, by row: slope, r2 (NaN if all means are equal)."""
    log_s = np.log(events / number)
    dx, dy = log_d - log_d.mean(), log_s - log_s.mean(axis=1, keepdims=True)
    sxx, sxy, syy = dx @ dx, dy @ dx, (dy * dy).sum(axis=1)
    return sxy / sxx, np.divide(sxy * sxy, sxx * syy, out=np.full(len(syy), np.nan), where=syy > _ROUNDING)
