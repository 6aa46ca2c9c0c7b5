"""Planted avalanches whose sizes, or whose growth with duration, follow a chosen law (SCIENCE section 9).

    sizes    isolated sites (even layers, even tokens), each with S events: S of a power law P(S = s) = s^-alpha / zeta(alpha),
             or round(exp(mu + sigma N(0, 1))) given that it is at least 1
    growth   runs of D tokens in even layers, one empty token between them, P(D = d) ~ d^-2 up to `longest`,
             S = D + Poisson(G (c D^gamma - D)) with G ~ Gamma(spread, mean 1), so that E[S | D] = c D^gamma

Every component of such a raster is one planted avalanche, except a run that the last token would cut: it is left out.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Int64, UInt16

from avalanche_llm.raster.build import MAX_COUNT
from avalanche_llm.simulate.truth import Shape, as_counts

DURATION_EXPONENT: Final = 2.0
_PREFACTOR: Final = 2.0


@dataclass(frozen=True)
class PlantedSizes:
    """A, and the parameters of the law of the sizes; NaN for those of the other law."""

    counts: UInt16[np.ndarray, "seq layer token"]
    alpha: float
    mu: float
    sigma: float


@dataclass(frozen=True)
class PlantedGrowth:
    """A, and gamma of E[S | D] ~ D^gamma."""

    counts: UInt16[np.ndarray, "seq layer token"]
    gamma: float


def power_law_sizes(shape: Shape, alpha: float, *, seed: int) -> PlantedSizes:
    """Isolated power-law sizes. A size above 65535, the largest count of a site, is drawn again."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes = rng.zipf(alpha, size=_isolated(shape))
    while (too_large := sizes > MAX_COUNT).any():
        sizes[too_large] = rng.zipf(alpha, size=int(too_large.sum()))
    return PlantedSizes(_planted(shape, sizes), alpha, float("nan"), float("nan"))


def lognormal_sizes(shape: Shape, mu: float, sigma: float, *, seed: int) -> PlantedSizes:
    """Isolated log-normal sizes, rounded; sites that would be 0 stay empty."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes = np.rint(rng.lognormal(mu, sigma, size=_isolated(shape))).astype(np.int64)
    return PlantedSizes(_planted(shape, sizes), float("nan"), mu, sigma)


def planted_growth(shape: Shape, gamma: float, *, longest: int, spread: float, seed: int) -> PlantedGrowth:
    """Runs whose mean size grows as D^gamma, 1 <= gamma; 1 / spread is the relative variance of the excess."""
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = shape.n_seq * ((shape.n_layers + 1) // 2)
    law = np.arange(1, longest + 1, dtype=np.float64) ** -DURATION_EXPONENT
    duration = 1 + np.searchsorted(law.cumsum() / law.sum(), rng.random((rows, (shape.n_tokens + 1) // 2)))
    end = np.cumsum(duration + 1, axis=1) - 1
    row, place = np.nonzero(end <= shape.n_tokens)
    length, start = duration[row, place], end[row, place] - duration[row, place]
    excess = rng.poisson(rng.gamma(spread, 1.0 / spread, size=len(row)) * (_PREFACTOR * length**gamma - length))
    counts = np.zeros((rows, shape.n_tokens), dtype=np.int64)
    for offset in range(longest):
        here = length > offset
        # the excess is dealt over the sites left, so that every site of the run has an event
        dealt = rng.binomial(excess[here], 1.0 / (length[here] - offset))
        excess[here] -= dealt
        counts[row[here], start[here] + offset] = 1 + dealt
    raster = np.zeros((shape.n_seq, shape.n_layers, shape.n_tokens), dtype=np.int64)
    raster[:, ::2] = counts.reshape(shape.n_seq, -1, shape.n_tokens)
    return PlantedGrowth(as_counts(raster), gamma)


def _isolated(shape: Shape) -> tuple[int, int, int]:
    return shape.n_seq, (shape.n_layers + 1) // 2, (shape.n_tokens + 1) // 2


def _planted(shape: Shape, sizes: Int64[np.ndarray, "seq row column"]) -> UInt16[np.ndarray, "seq layer token"]:
    raster = np.zeros((shape.n_seq, shape.n_layers, shape.n_tokens), dtype=np.int64)
    raster[:, ::2, ::2] = sizes
    return as_counts(raster)
