"""What a simulator returns: a raster of counts and the exact values that its measures estimate.

With E[X[l,t]] and E[X[l,t] X[k,s]] known, every branching ratio and both null expectations of `metrics.branching` are ratios
of expectations per sequence, summed over the pairs of sites that they count:

    b_time  = sum E[X[l,t] X[l,t+1]] / sum E[X]        b_depth = sum E[X[l,t] X[l+1,t]] / sum E[X]

A pooled ratio over many sequences tends to these; over few it is biased by its own variance, of order 1 / seq.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt16

from avalanche_llm.errors import DataError
from avalanche_llm.raster.build import MAX_COUNT


@dataclass(frozen=True)
class Shape:
    """Size of a raster: sequences, layers, tokens."""

    n_seq: int
    n_layers: int
    n_tokens: int


@dataclass(frozen=True)
class RasterTruth:
    """Expected branching (pairs per site), chi (events) and m (per token) of a process.

    `m` is the decay of the correlation of activity along tokens, NaN where activity has no memory. `propagates` says
    whether an event makes others: correlation without it must not be read as a cascade.
    """

    b_time: float
    b_depth: float
    delta_b_time: float
    delta_b_depth: float
    delta_b_depth_shift: float
    delta_b_tot_shift: float
    chi: float
    m: float
    propagates: bool

    @property
    def b_tot(self) -> float:
        return self.b_time + self.b_depth

    @property
    def delta_b_tot(self) -> float:
        return self.delta_b_time + self.delta_b_depth


@dataclass(frozen=True)
class SimulatedRaster:
    """A of one simulation and the truth of the process behind it."""

    counts: UInt16[np.ndarray, "seq layer token"]
    truth: RasterTruth


def raster_truth(
    occupied: Float64[np.ndarray, "layer token"],
    same: Float64[np.ndarray, "layer token token"],
    following: Float64[np.ndarray, "layer-1 token token"],
    *,
    chi: float,
    m: float,
    propagates: bool,
) -> RasterTruth:
    """The truth from occupied[l, t] = E[X[l,t]], same[l, t, s] = E[X[l,t] X[l,s]], following[l, t, s] = E[X[l,t] X[l+1,s]].

    The diagonal of `same` is no pair and not read.
    """
    n_tokens = same.shape[-1]
    sites = occupied.sum()
    time = np.trace(same[:, :, 1:], axis1=1, axis2=2)
    depth = np.trace(following, axis1=1, axis2=2)
    perm_time = (same.sum() - np.trace(same, axis1=1, axis2=2).sum()) / n_tokens
    all_pairs = following.sum(axis=(1, 2))
    n_shifts = n_tokens - 1
    shift_time = (time + same[:, 0, -1] - time / n_shifts).sum()
    shift_depth = (depth / n_shifts + (all_pairs - depth) * (n_shifts - 1) / n_shifts**2).sum()
    return RasterTruth(
        b_time=float(time.sum() / sites),
        b_depth=float(depth.sum() / sites),
        delta_b_time=float((time.sum() - perm_time) / sites),
        delta_b_depth=float((depth.sum() - all_pairs.sum() / n_tokens) / sites),
        delta_b_depth_shift=float((depth.sum() - shift_depth) / sites),
        delta_b_tot_shift=float((time.sum() + depth.sum() - shift_time - shift_depth) / sites),
        chi=chi,
        m=m,
        propagates=propagates,
    )


def lagged(values: Float64[np.ndarray, "*row lag"]) -> Float64[np.ndarray, "*row token token"]:
    """Moments by lag, 0 .. T-1, as a matrix over pairs of tokens."""
    token = np.arange(values.shape[-1])
    return np.asarray(values[..., np.abs(token[:, None] - token)])


def as_counts(values: np.ndarray) -> UInt16[np.ndarray, "seq layer token"]:
    """Counts as a raster keeps them. Raises DataError if one does not fit."""
    if values.max(initial=0) > MAX_COUNT:
        raise DataError(f"a simulated site has {values.max()} events, at most {MAX_COUNT} fit: lower the rate")
    return values.astype(np.uint16)
