"""Susceptibility and crackling, the signatures beside branching (SCIENCE section 4; spec 09, S2 and S3).

    S2   chi = Var(Y) / (Mean(Y) + eps)        Y[seq] the events of a sequence; unit: events
    S3   log <S>(D) = gamma log D + constant   S the size in events, D the duration in tokens

Independent Poisson counts have chi = 1. gamma is the ordinary least-squares slope with one point for each
distinct duration in [d_min, d_max]; mean-field branching has gamma = 2 (Sethna, Dahmen and Myers 2001), but
only for long avalanches: between 3 and 64 steps a critical branching process itself gives about 1.78. What
is uncertain is the choice of sequences, so sequences are resampled: a replicate is a row of weights times
per-sequence sums. The interval of chi is symmetric in log chi (`metrics.stats`). gamma leaves out one
sequence at a time: a bootstrap resample lacks a third of the sequences and with them many of the rare long
durations, each a point of the fit, and so shows too small a spread.

Neither is evidence of criticality by itself: a gamma exists for every cloud of components that grow with
their duration, and chi peaks wherever sequences differ most.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64, UInt

from avalanche_llm.metrics.stats import leave_one_out, t_interval

GAIN_DECIMALS: Final = 9
"""Gains are written with few decimals; 0.9 - 0.7 must count as 0.2."""
_ROUNDING: Final = 1e-24
"""Sum of squares of log means that are equal but for rounding; integer sizes differ by more."""


def sequence_totals(counts: UInt[np.ndarray, "*cond seq layer token"]) -> Int64[np.ndarray, "*cond seq"]:
    """Y: the events of each sequence."""
    return np.asarray(counts.sum(axis=(-2, -1), dtype=np.int64))


def susceptibility(totals: Int64[np.ndarray, "*cond seq"], *, eps: float, ddof: int = 0) -> Float64[np.ndarray, "*cond"]:
    """chi of each condition, in events; ddof = 0 is the published population variance, 1 the sample variance.

    NaN where no sequence has an event, or where there are not more than `ddof` sequences.
    """
    once = np.ones((1, totals.shape[-1]), dtype=np.int64)
    return np.asarray(susceptibility_bootstrap(totals, once, eps=eps, ddof=ddof)[..., 0])


def susceptibility_bootstrap(
    totals: Int64[np.ndarray, "*cond seq"],
    weights: Int64[np.ndarray, "reps seq"],
    *,
    eps: float,
    ddof: int = 0,
) -> Float64[np.ndarray, "*cond reps"]:
    """chi of every replicate, by weighted moments; NaN for a replicate without an event."""
    drawn = weights.T.astype(np.float64)
    n = drawn.sum(axis=0)  # (reps,)
    # about the condition's own mean, so that the difference of moments does not cancel
    centre = totals.mean(axis=-1, keepdims=True)
    shifted = totals - centre
    offset = shifted @ drawn / n
    variance = np.maximum(np.square(shifted) @ drawn / n - np.square(offset), 0.0)
    mean = totals @ drawn / n
    chi = np.full(variance.shape, np.nan)
    np.divide(variance * n, (n - ddof) * (mean + eps), out=chi, where=(mean > 0.0) & (n > ddof))
    return chi


@dataclass(frozen=True)
class CracklingFit:
    """gamma (no unit) with its 95 % interval over sequences. NaN, a `reason` and not passed where not available.

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

    A replicate counts when it has at least `min_points` durations, and nearly all must (`metrics.stats`).
    Sequences without an avalanche in the range take part in the resampling; if only one has any, resampling
    would show no spread.
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

    n_points = int(number.any(axis=0).sum())
    n_sources = int(number.any(axis=1).sum())
    needed = max(min_points, 2)
    if n_points < needed:
        reason = f"{n_points} durations in [{d_min}, {d_max}], {needed} needed"
        return CracklingFit.unavailable(reason, n_points=n_points, n_used=n_used)
    if n_sources < 2:
        reason = f"all {n_used} avalanches are of one sequence, an interval over sequences needs 2"
        return CracklingFit.unavailable(reason, n_points=n_points, n_used=n_used)

    log_d = np.log(grid)
    gamma, r2, _ = _slopes(log_d, events.sum(axis=0, keepdims=True), number.sum(axis=0, keepdims=True))
    drawn = leave_one_out(n_sequences)
    replicates, _, points = _slopes(log_d, drawn @ events, drawn @ number)
    replicates[points < needed] = np.nan
    interval = t_interval(float(gamma[0]), replicates, drawn)
    if not np.isfinite(interval.low):
        reason = f"{interval.n_valid} of {n_sequences} fits without one sequence had {needed} durations, nearly all must"
        return CracklingFit.unavailable(reason, n_points=n_points, n_used=n_used)
    low, high = float(interval.low), float(interval.high)
    narrow = bool(high - low <= ci_width_max)
    return CracklingFit(
        gamma=float(gamma[0]),
        ci_low=low,
        ci_high=high,
        ci_width=high - low,
        n_duration_points=n_points,
        n_avalanches_used=n_used,
        r2=float(r2[0]),
        passed=narrow,
        reason="" if narrow else f"interval {high - low:.3g} wide, {ci_width_max:g} allowed",
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
) -> tuple[Float64[np.ndarray, " reps"], Float64[np.ndarray, " reps"], Int64[np.ndarray, " reps"]]:
    """OLS of log mean size on log duration, by row: slope, r2 (NaN if all means are equal), points."""
    present: Bool[np.ndarray, "reps duration"] = number > 0
    points = np.count_nonzero(present, axis=1)
    log_s = np.log(np.divide(events, number, out=np.ones_like(events), where=present))  # 0 where absent
    n = np.maximum(points, 1)
    dx = np.where(present, log_d - (present @ log_d / n)[:, None], 0.0)
    dy = np.where(present, log_s - (log_s.sum(axis=1) / n)[:, None], 0.0)
    sxx, sxy, syy = (dx * dx).sum(axis=1), (dx * dy).sum(axis=1), (dy * dy).sum(axis=1)
    slope = np.divide(sxy, sxx, out=np.full(len(sxx), np.nan), where=points > 1)
    varies = (points > 1) & (syy > _ROUNDING)
    r2 = np.divide(sxy * sxy, sxx * syy, out=np.full(len(sxx), np.nan), where=varies)
    return slope, r2, points
