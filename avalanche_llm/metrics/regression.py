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
from jaxtyping import Float, Float64, Int
from scipy import optimize, stats

M_BOUNDS: Final = (1e-3, 1.5)
"""Bounds of the fitted m. Correlations that grow with the lag end at the upper one: not available."""
SIGNIFICANCE: Final = 0.01
"""Slopes at least as large as these in more than this share of independent activity identify no m."""
_GRID_POINTS: Final = 256


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

    if _p_independent(deviation, slopes) > SIGNIFICANCE:
        return MultistepFit.unavailable("no lag correlates more than in independent activity", k_max, slopes)
    m, b = _exponential(lags.astype(np.float64), slopes)
    if b <= 0.0 or not M_BOUNDS[0] * 1.01 < m < M_BOUNDS[1] * 0.99:
        reason = f"slopes do not decay from a positive value (b = {b:.3g}, m = {m:.3g})"
        return MultistepFit.unavailable(reason, k_max, slopes)
    return MultistepFit(m, b, slopes, k_max)


def _p_independent(deviation: Float64[np.ndarray, "trial time"], slopes: Float64[np.ndarray, " lag"]) -> float:
    """Probability of such slopes without memory: squares times pairs are chi2 (Box and Pierce 1970)."""
    n_trials, n_times = deviation.shape
    pairs = (n_trials - 1) * (n_times - np.arange(1, len(slopes) + 1))
    return float(stats.chi2.sf(pairs @ np.square(slopes), df=len(slopes)))


def _exponential(lags: Float64[np.ndarray, " lag"], slopes: Float64[np.ndarray, " lag"]) -> tuple[float, float]:
    """Least squares of b m^k: the best m of a grid, where b is linear, then a bounded refinement."""
    grid = np.linspace(*M_BOUNDS, _GRID_POINTS)
    powers = grid[:, None] ** lags  # (grid, lag)
    best_b = np.maximum(powers @ slopes / np.square(powers).sum(axis=1), 0.0)
    misfit = np.square(best_b[:, None] * powers - slopes).sum(axis=1)
    start = int(np.argmin(misfit))

    def residual(theta: Float64[np.ndarray, " 2"]) -> Float64[np.ndarray, " lag"]:
        return np.asarray(theta[1] * theta[0] ** lags - slopes)

    found = optimize.least_squares(
        residual,
        x0=(np.clip(grid[start], M_BOUNDS[0] * 1.001, M_BOUNDS[1] * 0.999), best_b[start] + 1e-12),
        bounds=((M_BOUNDS[0], 0.0), (M_BOUNDS[1], np.inf)),
        x_scale=(1.0, max(best_b[start], 1e-6)),
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    return float(found.x[0]), float(found.x[1])
