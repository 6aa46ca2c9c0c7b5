"""Directed percolation along tokens: an event makes others at the next token.

Site (l, t + 1) is occupied with probability p_dp if (l, t) or (l - 1, t) is, and, whatever its parents, with the
probability `source` (a spontaneous event). Token 0 is occupied with probability `initial`. Without a source this is
site directed percolation in 1 + 1 dimensions on the square lattice, critical at p_dp = 0.705485 (Jensen 1999), with
one event a site. A site whose own layer was active is active again with probability 1 - (1 - p_dp)(1 - source).

The layers are a Markov chain of 2^layers states, so every pair expectation is exact by its transition matrix.
"""

from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float64

from avalanche_llm.errors import DataError
from avalanche_llm.simulate.truth import RasterTruth, Shape, SimulatedRaster, raster_truth

MAX_LAYERS: Final = 10
"""The transition matrix has 4^layers entries."""


def directed_percolation(shape: Shape, p_dp: float, *, source: float, initial: float, seed: int) -> SimulatedRaster:
    """Directed percolation with its exact truth. Raises DataError for more than MAX_LAYERS layers."""
    if shape.n_layers > MAX_LAYERS:
        raise DataError(f"{shape.n_layers} layers need 4^{shape.n_layers} transition probabilities; at most {MAX_LAYERS} fit")
    rng = np.random.Generator(np.random.PCG64(seed))
    number = rng.random((shape.n_tokens, shape.n_seq, shape.n_layers))
    occupied = np.empty(number.shape, dtype=bool)
    occupied[0] = number[0] < initial
    for token in range(1, shape.n_tokens):
        occupied[token] = number[token] < _occupied(occupied[token - 1], p_dp, source)
    counts = np.ascontiguousarray(occupied.transpose(1, 2, 0)).astype(np.uint16)

    return SimulatedRaster(counts, _truth(shape.n_layers, shape.n_tokens, p_dp, source, initial))


@lru_cache(maxsize=8)
def _truth(n_layers: int, n_tokens: int, p_dp: float, source: float, initial: float) -> RasterTruth:
    """Kept, because repetitions of one process share it and the pairs of all tokens take seconds."""
    second = _second_moments(n_layers, n_tokens, p_dp, source, initial)
    layer = np.arange(n_layers)
    same, following = second[layer, layer], second[layer[:-1], layer[1:]]
    occupied = np.diagonal(same, axis1=1, axis2=2)  # X is 0 or 1, so E[X X] = E[X]
    mean = float(occupied.sum())
    chi = (float(second.sum()) - mean**2) / mean
    return raster_truth(occupied, same, following, chi=chi, m=float("nan"), propagates=True)


def _occupied(before: np.ndarray, p_dp: float, source: float) -> Float64[np.ndarray, "*state layer"]:
    """Probability of each layer at the next token, given all layers of this one."""
    active = before.copy()
    active[..., 1:] |= before[..., :-1]
    return np.asarray(1.0 - (1.0 - p_dp * active) * (1.0 - source))


def _second_moments(
    n_layers: int, n_tokens: int, p_dp: float, source: float, initial: float
) -> Float64[np.ndarray, "layer layer token token"]:
    """E[X[l,t] X[k,s]] through the distribution over the states of all layers."""
    state = np.arange(2**n_layers)[:, None] >> np.arange(n_layers) & 1 == 1  # (state, layer)
    to = _occupied(state, p_dp, source)
    transition = np.where(state, to[:, None], 1.0 - to[:, None]).prod(axis=-1)  # (from, to)
    ahead = np.empty((n_tokens, *state.shape))  # E[X[k, t + lag] | state at t]
    ahead[0] = state
    for lag in range(1, n_tokens):
        ahead[lag] = transition @ ahead[lag - 1]
    law = np.where(state, initial, 1.0 - initial).prod(axis=-1)
    second = np.empty((n_layers, n_layers, n_tokens, n_tokens))
    for token in range(n_tokens):
        later = np.einsum("s,sl,nsk->lkn", law, state, ahead[: n_tokens - token], optimize=True)
        second[:, :, token, token:] = later
        second[:, :, token:, token] = later.transpose(1, 0, 2)
        law = law @ transition
    return second
