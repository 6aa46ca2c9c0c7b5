"""Branching processes along tokens: with immigration and subsampling, and single trees (SCIENCE section 9).

With immigration, in every layer by itself, a[t + 1] ~ Poisson(m a[t] + immigration), of which each event is seen with
probability `seen`: A ~ Binomial(a, seen). Sums over layers are branching processes of the same m. With
mu = immigration / (1 - m) and V = mu / (1 - m^2) the stationary mean and variance,

    E[A] = seen mu,   Var(A) = seen^2 V + seen (1 - seen) mu,   Cov(A[t], A[t + k]) = seen^2 m^k V

and E[s^a] = prod_j exp(-immigration (1 - s_j)) with s_0 = s, s_(j+1) = exp(-m (1 - s_j)) gives P(X = 0) and the
probability that two tokens are both silent (Wilting and Priesemann 2018 for the estimator; Heathcote 1965).

Trees: a layer starts one event after every silent token and lets it branch with Poisson(m) until it is silent again,
so every component of the raster is one tree, its span the tree's generations. Odd layers stay empty. At m = 1 the
sizes fall as s^-3/2, and E[S | D] follows exactly from the generating function of size and generations.

The end of the raster cuts the last tree of a layer, which then counts with the generations that are seen. With u[t] the
probability that a tree starts at token t, u[t] = sum_d u[t - d - 1] P(D = d), a component of span D is a whole tree from a
start before T - D, or any that lives D generations from T - D on; both have an exact number and an exact mean size.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64, UInt16
from scipy import special

from avalanche_llm.simulate.truth import Shape, SimulatedRaster, as_counts, lagged, raster_truth

TREE_SIZE_EXPONENT: Final = 1.5
"""Of the sizes of trees at m = 1."""
_FORGOTTEN: Final = 1e-6
"""The burn-in lasts until this share of the start is left."""
_NEGLIGIBLE: Final = 1e-12


@dataclass(frozen=True)
class SimulatedTrees:
    """A of trees, and E[S | D] for D = 1 .. tokens, of whole trees and of components."""

    counts: UInt16[np.ndarray, "seq layer token"]
    mean_size: Float64[np.ndarray, " duration"]
    component_size: Float64[np.ndarray, " duration"]


def branching_process(shape: Shape, m: float, *, immigration: float, seen: float, seed: int) -> SimulatedRaster:
    """A stationary branching process in every layer, 0 < m < 1; `immigration` in events a layer and token."""
    rng = np.random.Generator(np.random.PCG64(seed))
    mean = immigration / (1.0 - m)
    burn_in = int(np.ceil(np.log(_FORGOTTEN) / np.log(m)))
    active = np.full((shape.n_seq, shape.n_layers), round(mean), dtype=np.int64)
    counts = np.empty((shape.n_tokens, shape.n_seq, shape.n_layers), dtype=np.int64)
    for token in range(-burn_in, shape.n_tokens):
        active = rng.poisson(m * active + immigration)
        if token >= 0:
            counts[token] = active
    if seen < 1.0:
        counts = rng.binomial(counts, seen)

    lag = np.arange(shape.n_tokens)
    silent = _generating(1.0 - seen, m, immigration)
    both = np.array([_both_silent(int(k), m, immigration, seen) for k in lag])
    pair = 1.0 - 2.0 * silent + both
    p = float(1.0 - silent)
    same = np.broadcast_to(pair, (shape.n_layers, shape.n_tokens))
    following = np.full((shape.n_layers - 1, shape.n_tokens), p * p)
    variance = mean / (1.0 - m * m)
    own = (1.0 - seen) * mean * shape.n_tokens  # seeing at random
    chi = float((seen * variance * lagged(m**lag).sum() + own) / (shape.n_tokens * mean))
    truth = raster_truth(np.full(same.shape, p), lagged(same), lagged(following), chi=chi, m=m, propagates=True)
    return SimulatedRaster(as_counts(np.ascontiguousarray(counts.transpose(1, 2, 0))), truth)


def branching_trees(shape: Shape, m: float, *, seed: int) -> SimulatedTrees:
    """One tree after another in every even layer; the last one of a layer may be cut by the end of the sequence."""
    rng = np.random.Generator(np.random.PCG64(seed))
    alive = np.zeros((shape.n_seq, (shape.n_layers + 1) // 2), dtype=np.int64)
    counts = np.zeros((shape.n_seq, shape.n_layers, shape.n_tokens), dtype=np.int64)
    for token in range(shape.n_tokens):
        alive = np.where(alive > 0, rng.poisson(m * alive), 1)
        counts[:, ::2, token] = alive
    share, mean_size = _tree_law(m, shape.n_tokens)
    return SimulatedTrees(as_counts(counts), mean_size, _component_size(m, share, mean_size))


def _tree_law(m: float, generations: int) -> tuple[Float64[np.ndarray, " duration"], Float64[np.ndarray, " duration"]]:
    """P(D = n) and E[S | D = n] from F_n(s) = E[s^S; D <= n] = s exp(m (F_(n-1)(s) - 1)) and its derivative at s = 1.

    In differences q_n = P(D = n) = F_(n-1) expm1(m q_(n-1)), because those of F_n and of its derivative cancel.
    """
    within, events, q = np.exp(-m), np.exp(-m), np.exp(-m)
    mean, share = np.ones(generations), np.full(generations, q)
    for n in range(1, generations):
        mean[n] = 1.0 + m * events + mean[n - 1] / special.exprel(m * q)
        q = within * np.expm1(m * q)
        within += q
        events += q * mean[n]
        share[n] = q
    return share, mean


def _component_size(
    m: float, share: Float64[np.ndarray, " duration"], mean_size: Float64[np.ndarray, " duration"]
) -> Float64[np.ndarray, " duration"]:
    """E[S | D] of the components of a raster of as many tokens as there are durations, the trees that its end cuts included."""
    n_tokens = len(share)
    start = np.zeros(n_tokens)
    start[0] = 1.0
    for token in range(2, n_tokens):
        start[token] = start[token - 2 :: -1] @ share[: token - 1]
    last = start[::-1]  # the start that leaves D tokens
    before = np.append(0.0, start.cumsum()[:-1])[::-1]  # starts that leave more
    alive = 1.0 - np.append(0.0, share.cumsum()[:-1])
    grown = np.power(m, np.arange(n_tokens)).cumsum() - np.append(0.0, (share * mean_size).cumsum()[:-1])
    return np.asarray((before * share * mean_size + last * grown) / (before * share + last * alive))


def _generating(s: float, m: float, immigration: float) -> float:
    """E[s^a] of the stationary process."""
    log_value, rest = 0.0, 1.0 - s
    while rest > _NEGLIGIBLE:
        log_value -= immigration * rest
        rest = -np.expm1(-m * rest)
    return float(np.exp(log_value - immigration * rest / (1.0 - m)))  # from here on every step shrinks it by m


def _both_silent(lag: int, m: float, immigration: float, seen: float) -> float:
    """P(A[t] = 0 and A[t + lag] = 0): the later silence, carried back to t, thins the earlier events."""
    rest, log_value = seen, 0.0
    for _ in range(lag):
        log_value -= immigration * rest
        rest = -np.expm1(-m * rest)
    return float(np.exp(log_value)) * _generating((1.0 - seen) * (1.0 - rest), m, immigration)
