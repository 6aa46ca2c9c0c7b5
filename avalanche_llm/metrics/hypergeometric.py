"""Sums of independent hypergeometric counts: exact variance, and draws by inversion of the law of the sum.

Hypergeometric(N; K, n) is the number of marked items, K of N, among n drawn without replacement:

    P(j) = C(K, j) C(N - K, n - j) / C(N, n),   mean n K / N,   variance n K (N - K)(N - n) / (N^2 (N - 1))

The null of a raster sums thousands of such counts (`metrics.null_ensemble`), and a draw of the sum needs none
of them one by one. With S the sum, v its variance and phi(w) = E[exp(-i w S)], a product with one factor a
count, the law of S is the inverse discrete Fourier transform of phi over a window around its mean.

Two truncations, both below rounding, rest on one fact: a hypergeometric count is distributed as a sum of
independent Bernoulli counts with unequal probabilities (Vatutin and Mikhailov 1982), and so is S.
- Window: Bernstein's inequality leaves P(|S - E S| > t) <= 2 exp(-t^2 / (2 v + 2 t / 3)) outside.
- Frequencies: a Bernoulli factor has |phi|^2 = 1 - 4 p (1 - p) sin(w/2)^2, so the product has
  |phi(w)| <= exp(-2 v sin(w/2)^2).
"""

from typing import Final

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import gammaln

WINDOW_SDS: Final = 12.0
WINDOW_COUNTS: Final = 100
"""The law is tabulated on mean +- (12 sd + 100 counts); by Bernstein less than 1e-30 lies outside."""

DECAY: Final = 41.5
"""Frequencies where |phi| is below exp(-DECAY) = 1e-18 are not evaluated."""

ROUNDING: Final = 1e-15
"""Smaller probabilities are rounding of the inverse transform and no part of the law."""


def hypergeometric_variance(population: int, marked: Int64[np.ndarray, "*count"], drawn: Int64[np.ndarray, "*count"]) -> float:
    """Variance of the sum; exactly 0 if every count is determined by its margins."""
    # in float64, because the product of four may pass 2^63; zeros stay exact
    product = (marked * (population - marked)).astype(np.float64) * (drawn * (population - drawn))
    return float(product.sum()) / (population**2 * max(population - 1, 1))


def hypergeometric_sum(
    population: int,
    marked: Int64[np.ndarray, "*count"],
    drawn: Int64[np.ndarray, "*count"],
    *,
    size: int,
    rng: np.random.Generator,
) -> Int64[np.ndarray, " size"]:
    """Draws of the sum, one uniform number each, however many counts are summed. 0 if there are none.

    `marked` and `drawn` lie in 0 .. population.
    """
    variance = hypergeometric_variance(population, marked, drawn)
    reach = int(np.ceil(WINDOW_SDS * np.sqrt(variance))) + WINDOW_COUNTS
    window, low = 2 * reach + 1, int((marked * drawn).sum()) // population - reach
    harmonic = np.arange(window // 2 + 1)
    harmonic = harmonic[2.0 * variance * np.sin(np.pi * harmonic / window) ** 2 < DECAY]

    # the law is symmetric in marked and drawn, so equal unordered pairs share one factor
    code = np.minimum(marked, drawn) * (population + 1) + np.maximum(marked, drawn)
    kinds, multiplicity = np.unique(code, return_counts=True)
    law = _laws(population, *np.divmod(kinds, population + 1))
    angle = (2.0 * np.pi / window) * np.outer(np.arange(law.shape[1]), harmonic)
    factor = law @ np.cos(angle) - 1j * (law @ np.sin(angle))

    # moved to start at `low`; the turn is reduced as an integer because low * w alone would lose digits
    turn = np.exp((2j * np.pi / window) * (harmonic * low % window))
    phi = np.zeros(window // 2 + 1, dtype=np.complex128)
    phi[harmonic] = turn * (factor ** multiplicity[:, None]).prod(axis=0)
    probability = np.fft.irfft(phi, n=window)
    cumulative = np.where(probability > ROUNDING, probability, 0.0).cumsum()
    drawn_index = np.searchsorted(cumulative / cumulative[-1], rng.random(size), side="right")
    return low + drawn_index.astype(np.int64)


def _laws(
    population: int, marked: Int64[np.ndarray, " kind"], drawn: Int64[np.ndarray, " kind"]
) -> Float64[np.ndarray, "kind support"]:
    """P(j) of every kind for j = 0 .. the largest count of any kind, through log factorials."""
    log_factorial = gammaln(np.arange(population + 1) + 1.0)
    marked, drawn = marked[:, None], drawn[:, None]
    count = np.arange(np.minimum(marked, drawn).max(initial=0) + 1)
    neither = population - marked - drawn + count
    possible = (count <= np.minimum(marked, drawn)) & (neither >= 0)
    # the margins of the 2 x 2 table are constant within a kind: its cells alone give the law up to a factor
    cells = (count, marked - count, drawn - count, neither)
    log_weight = np.zeros(possible.shape)
    for cell in cells:
        log_weight -= log_factorial[np.clip(cell, 0, population)]
    log_weight[~possible] = -np.inf
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    law: Float64[np.ndarray, "kind support"] = weight / weight.sum(axis=1, keepdims=True)
    return law
