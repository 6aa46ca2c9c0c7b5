"""Susceptibility, the variance over the mean of the events of a sequence (SCIENCE section 4; spec 09, S2).

    chi = Var(Y) / (Mean(Y) + eps)        Y[seq] the events of a sequence; unit: events

Independent Poisson counts have chi = 1. Like every metric it is resampled over sequences (`metrics.stats`).

chi is a variance, and its error depends on the fourth moment of Y, which few sequences show too small: where they differ much in
rate, an interval of plus and minus t standard errors covers 80 to 90 % in place of 95. Its interval is therefore that of the
studentised bootstrap (Efron 1981; Hall 1988) on log chi, around the centre and with the kurtosis that Bonett (2006) gives for a
variance: Y about its trimmed mean, shares of 1 / (2 sqrt(n - 4)) cut off at both ends. By the delta method, with skewness s,
kurtosis k and cv = sd / mean of Y,

    n se^2(log chi) = k - 1 - 2 s cv + cv^2

so that every replicate has a standard error of its own, from weighted moments, without a second level of resampling.
"""

from typing import Final

import numpy as np
from jaxtyping import Float64, Int64, UInt
from scipy import stats

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.stats import MIN_VALID_SHARE, Interval

MIN_SEQUENCES: Final = 8
"""Sequences that an interval needs: with fewer its ends lie orders of magnitude apart and say nothing."""
_LEAST: Final = 1e-12
"""Variance of a replicate, of Y or of log chi, in units of those of all sequences, below which it is rounding."""


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


def susceptibility_interval(
    totals: Int64[np.ndarray, "*cond seq"], weights: Int64[np.ndarray, "reps seq"], *, eps: float, level: float = 0.95
) -> Interval:
    """The interval of chi (module docstring), in events; bounds of shape [*cond].

    NaN bounds with fewer than MIN_SEQUENCES sequences, where all have equally many events, and where less than MIN_VALID_SHARE
    of the replicates have a standard error. Raises SchemaError if level is not in (0, 1) or there is no replicate.
    """
    if not 0.0 < level < 1.0:
        raise SchemaError(f"the level of an interval lies between 0 and 1, got {level}")
    if len(weights) == 0:
        raise SchemaError("an interval needs at least 1 replicate, got 0")
    n, tails = totals.shape[-1], ((1.0 - level) / 2.0, (1.0 + level) / 2.0)
    value, _ = (moment[..., 0] for moment in _log_chi(totals, np.ones((1, n), dtype=np.int64), eps))
    replicates, spread = _log_chi(totals, weights, eps)
    studentised = (replicates - value[..., None]) / spread
    n_valid = np.asarray(np.count_nonzero(~np.isnan(studentised), axis=-1), dtype=np.int64)
    lower, upper = np.full((2, *value.shape), np.nan)
    if n >= MIN_SEQUENCES:
        given = n_valid >= MIN_VALID_SHARE * len(weights)
        low, high = np.nanquantile(np.where(given[..., None], studentised, 0.0), tails, axis=-1)
        centre, se = _centre(value, n, tails[1]), _standard_error(totals, eps)
        lower, upper = (np.where(given, np.exp(centre - quantile * se), np.nan) for quantile in (high, low))
    if totals.ndim > 1:
        return Interval(lower, upper, n_valid)
    return Interval(float(lower), float(upper), int(n_valid))


def _log_chi(
    totals: Int64[np.ndarray, "*cond seq"], weights: Int64[np.ndarray, "reps seq"], eps: float
) -> tuple[Float64[np.ndarray, "*cond reps"], Float64[np.ndarray, "*cond reps"]]:
    """log chi of every replicate and its standard error; both NaN where its sequences do not differ or se is 0."""
    mean, sd = totals.mean(axis=-1, keepdims=True), totals.std(axis=-1, keepdims=True)
    z = np.divide(totals - mean, sd, out=np.full(totals.shape, np.nan), where=sd > 0.0)
    share = weights.T / weights.sum(axis=1)
    m1, m2, m3, m4 = (z**power @ share for power in (1, 2, 3, 4))
    variance = m2 - m1**2
    variance = np.where(variance > _LEAST, variance, np.nan)
    skewness = (m3 - 3.0 * m1 * m2 + 2.0 * m1**3) / variance**1.5
    kurtosis = (m4 - 4.0 * m1 * m3 + 6.0 * m1**2 * m2 - 3.0 * m1**4) / variance**2
    level = mean + sd * m1 + eps
    cv = sd * np.sqrt(variance) / level
    spread = kurtosis - 1.0 - 2.0 * skewness * cv + cv**2
    spread = np.where(spread > _LEAST, spread, np.nan)
    return np.log(sd**2 * variance / level, where=sd > 0.0, out=np.full(spread.shape, np.nan)), np.sqrt(spread / totals.shape[-1])


def _centre(log_chi: Float64[np.ndarray, "*cond"], n: int, tail: float) -> Float64[np.ndarray, "*cond"]:
    """log chi times Bonett's c, with the sample variance in place of the population's."""
    return np.asarray(log_chi + np.log(n / (n - 1.0)) + np.log(n / (n - stats.norm.ppf(tail))))


def _standard_error(totals: Int64[np.ndarray, "*cond seq"], eps: float) -> Float64[np.ndarray, "*cond"]:
    """That of log chi with Bonett's kurtosis, which is about the trimmed mean; NaN where sequences do not differ."""
    n = totals.shape[-1]
    mean, sd = totals.mean(axis=-1, keepdims=True), totals.std(axis=-1, keepdims=True)
    trimmed = np.asarray(stats.trim_mean(totals, 0.5 / np.sqrt(n - 4.0), axis=-1))[..., None]
    z, offset = (np.divide(part, sd, out=np.full(part.shape, np.nan), where=sd > 0.0) for part in (totals - mean, trimmed - mean))
    cv = sd[..., 0] / (mean[..., 0] + eps)
    kurtosis, skewness = ((z - offset) ** 4).mean(axis=-1), (z**3).mean(axis=-1)
    variance = (kurtosis - (n - 3.0) / n) / (n - 1.0) + (cv**2 - 2.0 * skewness * cv) / n
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)))
