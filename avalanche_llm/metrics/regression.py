"""The branching parameter m by multistep regression, robust to subsampling (SCIENCE section 4; spec 09).

A[trial, time] is activity. The slope of A[t + k] on A[t], with the mean over trials removed at every time, is

    r[k] = sum_n,t (A[n, t] - mu[t]) (A[n, t + k] - mu[t + k]) / sum_n,t (A[n, t] - mu[t])^2

If only some of the units are seen, r[1] alone is biased towards 0, but every r[k] by the same factor b, so
that m is the decay of r[k] = b m^k (Wilting and Priesemann 2018, Nature Communications 9, 2325). Trials are
sequences; time is the token (A summed over layers) or the layer (A summed over tokens). The mean is removed
time by time, because activity has a profile that all sequences share, above all at the first token and from
layer to layer; left in, it would look like memory.

What m cannot tell apart: sequences that differ in their overall rate raise all r[k] alike, so that m along
tokens approaches 1 without any branching. m says how fast correlations decay, in steps of time, and no
more.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64
from scipy import stats

from avalanche_llm.metrics.stats import FloatLike, Interval, leave_one_out, t_interval

M_BOUNDS: Final = (1e-3, 1.5)
"""Bounds of the fitted m. Correlations that grow with the lag end at the upper one: not available."""
SIGNIFICANCE: Final = 0.01
"""Slopes at least as large as these in more than this share of independent activity identify no m."""
_GRID_POINTS: Final = 256
_BISECTIONS: Final = 50
BoolLike = bool | Bool[np.ndarray, "*reps"]


@dataclass(frozen=True)
class MultistepFit:
    """m (per step of time), b and the slopes r[1..k_max], no units. NaN and a `reason` if not available."""

    m: float
    b: float
    slopes: Float64[np.ndarray, " lag"]
    k_max: int
    reason: str = ""

    @classmethod
    def unavailable(cls, reason: str, k_max: int, slopes: Float64[np.ndarray, " lag"] | None = None) -> "MultistepFit":
        nan = float("nan")
        return cls(nan, nan, np.full(max(k_max, 0), nan) if slopes is None else slopes, k_max, reason)


def multistep_regression(
    activity: Float[np.ndarray, "trial time"] | Int[np.ndarray, "trial time"], *, k_max: int
) -> MultistepFit:
    """Fit r[k] = b m^k over lags 1..k_max by least squares, as published without weights or offset.

    Never raises on data. Not available: fewer than 2 trials or lags, fewer than k_max + 2 times, activity
    that does not vary between trials (a silent raster), slopes that independent activity gives too (m is
    then 0 or hidden by the subsampling), or slopes that do not decay.
    """
    n_trials, n_times = activity.shape
    if n_trials < 2:
        return MultistepFit.unavailable(f"{n_trials} trials, 2 needed to remove their mean", k_max)
    if k_max < 2 or n_times < k_max + 2:
        reason = f"{n_times} times for lags up to {k_max}; 2 lags and k_max + 2 times needed"
        return MultistepFit.unavailable(reason, k_max)
    deviation = activity.astype(np.float64)
    deviation -= deviation.mean(axis=0)
    lags = np.arange(1, k_max + 1)
    # one lag a step: k_max array products, no loop over times or trials
    products = np.array([np.vdot(deviation[:, :-k], deviation[:, k:]) for k in lags])
    squares = np.array([np.vdot(deviation[:, :-k], deviation[:, :-k]) for k in lags])
    if squares.min() <= 0.0:
        return MultistepFit.unavailable("activity does not vary between trials", k_max)
    slopes = products / squares

    if _p_independent(slopes, n_trials, n_times) > SIGNIFICANCE:
        return MultistepFit.unavailable("no lag correlates more than in independent activity", k_max, slopes)
    m, b = (float(found) for found in _exponential_decay(slopes))
    if not _decays(m, b):
        reason = f"slopes do not decay from a positive value (b = {b:.3g}, m = {m:.3g})"
        return MultistepFit.unavailable(reason, k_max, slopes)
    return MultistepFit(m, b, slopes, k_max)


def multistep_replicates(
    activity: Float[np.ndarray, "trial time"] | Int[np.ndarray, "trial time"],
    weights: Int64[np.ndarray, "reps trial"],
    *,
    k_max: int,
) -> Float64[np.ndarray, " reps"]:
    """m of resampled trials, each replicate with its own mean at every time; NaN where that replicate has no m.

    Every row of the weights has the same sum: bootstrap weights, or those that leave one trial out. What the products of a
    replicate sum to follows from the products of each trial and the replicate's mean, so that there is no loop over replicates.
    With every weight 1 it is m of `multistep_regression`.
    """
    n_trials, n_times = int(weights[0].sum()), activity.shape[1]
    if n_trials < 2 or k_max < 2 or n_times < k_max + 2:
        return np.full(len(weights), np.nan)
    centred = activity - activity.mean(axis=0)  # less is cancelled below
    drawn = weights.astype(np.float64)
    mean = drawn @ centred / n_trials  # (reps, time)

    def over_times(k: int, lag: int) -> Float64[np.ndarray, " reps"]:
        """sum over t < n_times - k of the weighted products at t and t + lag, the replicate's mean removed."""
        of_trial = (centred[:, : n_times - k] * centred[:, lag : n_times - k + lag]).sum(axis=1)
        of_mean = (mean[:, : n_times - k] * mean[:, lag : n_times - k + lag]).sum(axis=1)
        return drawn @ of_trial - n_trials * of_mean

    lags = range(1, k_max + 1)
    squares = np.stack([over_times(k, 0) for k in lags], axis=-1)
    varies: Bool[np.ndarray, " reps"] = np.all(squares > 1e-9 * n_trials, axis=-1)
    slopes = np.stack([over_times(k, k) for k in lags], axis=-1) / np.where(varies[:, None], squares, 1.0)
    m, b = _exponential_decay(slopes)
    known = varies & (_p_independent(slopes, n_trials, n_times) <= SIGNIFICANCE) & _decays(m, b)
    return np.where(known, m, np.nan)


def memory_interval(
    activity: Float[np.ndarray, "trial time"] | Int[np.ndarray, "trial time"], *, k_max: int
) -> tuple[MultistepFit, Interval]:
    """The fit, and the interval of m from leaving out one trial at a time; NaN bounds where some of those give no m."""
    fit, weights = multistep_regression(activity, k_max=k_max), leave_one_out(len(activity))
    if fit.reason:
        return fit, Interval(float("nan"), float("nan"), 0)
    return fit, t_interval(fit.m, multistep_replicates(activity, weights, k_max=k_max), weights)


def _p_independent(slopes: Float64[np.ndarray, "*reps lag"], n_trials: int, n_times: int) -> Float64[np.ndarray, "*reps"]:
    """Probability of such slopes without memory: squares times pairs are chi2 (Box and Pierce 1970)."""
    n_lags = slopes.shape[-1]
    pairs = (n_trials - 1) * (n_times - np.arange(1, n_lags + 1))
    return np.asarray(stats.chi2.sf(np.square(slopes) @ pairs, df=n_lags))


def _decays(m: FloatLike, b: FloatLike) -> BoolLike:
    """Whether the fit is a decay from a positive value, off the bounds of m."""
    return (b > 0.0) & (m > M_BOUNDS[0] * 1.01) & (m < M_BOUNDS[1] * 0.99)


def _exponential_decay(
    slopes: Float64[np.ndarray, "*reps lag"],
) -> tuple[Float64[np.ndarray, "*reps"], Float64[np.ndarray, "*reps"]]:
    """Least squares of b m^k, b >= 0: the best m of a grid, where b is linear, then bisection of the misfit's derivative."""
    lags = np.arange(1.0, slopes.shape[-1] + 1)
    grid = np.linspace(*M_BOUNDS, _GRID_POINTS)
    powers = grid[:, None] ** lags  # (grid, lag)
    # the misfit at the best b is sum r^2 less this
    gained = np.square(np.maximum(slopes @ powers.T, 0.0)) / np.square(powers).sum(axis=1)
    best = np.argmax(gained, axis=-1)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, _GRID_POINTS - 1)]
    for _ in range(_BISECTIONS):
        m = (low + high) / 2
        power = m[..., None] ** lags
        rising = ((_best_b(power, slopes)[..., None] * power - slopes) * power * lags).sum(axis=-1) > 0.0
        low, high = np.where(rising, low, m), np.where(rising, m, high)
    m = np.asarray((low + high) / 2)
    return m, _best_b(m[..., None] ** lags, slopes)


def _best_b(powers: Float64[np.ndarray, "*reps lag"], slopes: Float64[np.ndarray, "*reps lag"]) -> Float64[np.ndarray, "*reps"]:
    return np.asarray(np.maximum((powers * slopes).sum(axis=-1) / np.square(powers).sum(axis=-1), 0.0))
