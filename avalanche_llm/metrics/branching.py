"""Branching of a raster along tokens and layers, and its exact expectation under two within-layer nulls.

Pooled over sequences, X[seq, layer, token] the occupancy (SCIENCE section 4; spec 05, S1):

    b_time  = sum X[l, t] X[l, t+1] / sum X       neighbouring tokens of one layer l
    b_depth = sum X[l, t] X[l+1, t] / sum X       neighbouring layers at one token t
    b_tot   = b_time + b_depth                    all dimensionless: pairs per occupied site

Independent sites of probability p give b_tot near 2p, so b says little without its null. With k[l] occupied
sites among the T tokens of layer l, per sequence:

    permutation within layers
    E[time]  = sum_l k[l] (k[l] - 1) / T
    E[depth] = sum_l k[l] k[l+1] / T

The first: each of the T - 1 neighbour pairs is occupied with probability k (k - 1) / (T (T - 1)). The second:
the overlap of two independent random subsets is hypergeometric.

    circular shift within layers, each layer by its own shift, uniform on 1 .. T-1 and independent
    E[time]  = sum_l R[l] - time[l] / (T - 1)
    E[depth] = sum_l C[l] / (T - 1) + (k[l] k[l+1] - C[l]) (T - 2) / (T - 1)^2
    with the ring's pairs R[l] = time[l] + X[l, 0] X[l, T-1] and the overlap C[l] = sum_t X[l, t] X[l+1, t]

A shift keeps the R pairs of the ring and opens the ring at another place, each of the other T - 1 equally
likely. The relative shift of two layers is 0 with probability 1 / (T - 1) and each other value with
(T - 2) / (T - 1)^2, and the overlaps over all relative shifts sum to k[l] k[l+1]. T = 1 has no non-zero
shift: the null is the raster itself. A layer with a memory along tokens loses more pairs at the new opening
than the seam of its ends brings, so that b_time, and with it b_tot, exceeds this null although layers are
unrelated; b_depth does not, and is what is tested against shifts (docs/validity.md).

Intervals are those of `metrics.stats`, of b on the logarithm, of its differences as they are. Where few sequences hold a pair
of the kind that is counted, resamples do not show how the number of pairs varies, and no interval is given.
"""

from dataclasses import dataclass, fields
from types import EllipsisType
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.stats import Interval, Scale, t_interval

MIN_HOLDERS: Final = 5
"""Sequences that must hold a pair before an interval is given, or all where there are fewer. If k of them hold the pairs, one
resample in exp(k) has none."""
Index = int | slice | EllipsisType | np.ndarray | tuple[int | slice | EllipsisType | np.ndarray, ...]


@dataclass(frozen=True)
class BranchingSums:
    """Per sequence: occupied sites, pairs of them, and pairs expected under each null; `[*cond, seq]`."""

    n_sites: Int64[np.ndarray, "*cond seq"]
    time_pairs: Int64[np.ndarray, "*cond seq"]
    depth_pairs: Int64[np.ndarray, "*cond seq"]
    perm_time_pairs: Float64[np.ndarray, "*cond seq"]
    perm_depth_pairs: Float64[np.ndarray, "*cond seq"]
    shift_time_pairs: Float64[np.ndarray, "*cond seq"]
    shift_depth_pairs: Float64[np.ndarray, "*cond seq"]

    def __getitem__(self, index: Index) -> "BranchingSums":
        """The sums at an index into the leading condition axes."""
        return BranchingSums(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


@dataclass(frozen=True)
class Branching:
    """Pooled branching, dimensionless: observed, exact null expectation, and observed minus expectation.

    `[*cond]`, or `[*cond, reps]` for bootstrap weights. NaN, all of it, where no site is occupied.
    """

    b_time: Float64[np.ndarray, "*out"]
    b_depth: Float64[np.ndarray, "*out"]
    b_tot: Float64[np.ndarray, "*out"]
    b_time_perm: Float64[np.ndarray, "*out"]
    b_depth_perm: Float64[np.ndarray, "*out"]
    b_tot_perm: Float64[np.ndarray, "*out"]
    b_time_shift: Float64[np.ndarray, "*out"]
    b_depth_shift: Float64[np.ndarray, "*out"]
    b_tot_shift: Float64[np.ndarray, "*out"]
    delta_b_time: Float64[np.ndarray, "*out"]
    delta_b_depth: Float64[np.ndarray, "*out"]
    delta_b_tot: Float64[np.ndarray, "*out"]
    delta_b_depth_shift: Float64[np.ndarray, "*out"]
    delta_b_tot_shift: Float64[np.ndarray, "*out"]


def check_occupancy(occupancy: UInt8[np.ndarray, "*cond seq layer token"]) -> None:
    """Raise SchemaError unless the array is a raster: uint8, at least [seq, layer, token], values 0 and 1."""
    if occupancy.dtype != np.uint8:
        raise SchemaError(f"an occupancy raster is uint8, got {occupancy.dtype}: use raster.build.occupancy")
    if occupancy.ndim < 3 or 0 in occupancy.shape[-2:]:
        raise SchemaError(f"a raster is [seq, layer, token] with a layer and a token, got {occupancy.shape}")
    if occupancy.max(initial=0) > 1:
        raise SchemaError(f"an occupancy raster is 0 or 1, found {occupancy.max()}: pass X, not the counts A")


def branching_sums(occupancy: UInt8[np.ndarray, "*cond seq layer token"]) -> BranchingSums:
    """Pairs and exact null expectations of every sequence. Raises SchemaError if the array is no raster."""
    check_occupancy(occupancy)
    n_tokens = occupancy.shape[-1]
    k = occupancy.sum(axis=-1, dtype=np.int64)  # (*cond, seq, layer)
    time = (occupancy[..., 1:] & occupancy[..., :-1]).sum(axis=-1, dtype=np.int64)
    depth = (occupancy[..., 1:, :] & occupancy[..., :-1, :]).sum(axis=-1, dtype=np.int64)  # (..., layer - 1)
    k_product = k[..., 1:] * k[..., :-1]
    shift_time, shift_depth = time.astype(np.float64), depth.astype(np.float64)
    if n_tokens > 1:
        n_shifts = n_tokens - 1
        shift_time = time + (occupancy[..., 0] & occupancy[..., -1]) - time / n_shifts
        shift_depth = depth / n_shifts + (k_product - depth) * ((n_tokens - 2) / n_shifts**2)
    return BranchingSums(
        n_sites=k.sum(axis=-1),
        time_pairs=time.sum(axis=-1),
        depth_pairs=depth.sum(axis=-1),
        # the integers are summed first: one division, one rounding
        perm_time_pairs=(k * (k - 1)).sum(axis=-1) / n_tokens,
        perm_depth_pairs=k_product.sum(axis=-1) / n_tokens,
        shift_time_pairs=shift_time.sum(axis=-1),
        shift_depth_pairs=shift_depth.sum(axis=-1),
    )


def branching(sums: BranchingSums, weights: Int64[np.ndarray, "reps seq"] | None = None) -> Branching:
    """Pooled branching: sums of numerators over the sum of denominators, `[*cond]`.

    With bootstrap weights every replicate is pooled with them, `[*cond, reps]`. The expectation is taken off
    within the replicate, so an interval of delta_b has the spread of observed and expected pairs together.
    A raster (or replicate) without an occupied site gives NaN throughout.
    """
    sites = _pool(sums.n_sites, weights)
    time, depth = _pool(sums.time_pairs, weights), _pool(sums.depth_pairs, weights)
    perm_time, perm_depth = _pool(sums.perm_time_pairs, weights), _pool(sums.perm_depth_pairs, weights)
    shift_time, shift_depth = _pool(sums.shift_time_pairs, weights), _pool(sums.shift_depth_pairs, weights)
    return Branching(
        b_time=per_site(time, sites),
        b_depth=per_site(depth, sites),
        # one division of the integer total: equal totals are equal floats, and so count as ties in a p value
        b_tot=per_site(time + depth, sites),
        b_time_perm=per_site(perm_time, sites),
        b_depth_perm=per_site(perm_depth, sites),
        b_tot_perm=per_site(perm_time + perm_depth, sites),
        b_time_shift=per_site(shift_time, sites),
        b_depth_shift=per_site(shift_depth, sites),
        b_tot_shift=per_site(shift_time + shift_depth, sites),
        delta_b_time=per_site(time - perm_time, sites),
        delta_b_depth=per_site(depth - perm_depth, sites),
        delta_b_tot=per_site((time + depth) - (perm_time + perm_depth), sites),
        delta_b_depth_shift=per_site(depth - shift_depth, sites),
        delta_b_tot_shift=per_site((time + depth) - (shift_time + shift_depth), sites),
    )


def branching_interval(
    name: str, sums: BranchingSums, point: Branching, replicates: Branching, weights: Int64[np.ndarray, "reps seq"]
) -> Interval:
    """The interval of one ratio or excess, a field of Branching; NaN bounds where too few sequences hold a pair (`held`)."""
    found = t_interval(getattr(point, name), getattr(replicates, name), weights, scale=scale_of(name))
    given = held(name, sums)
    low, high = (np.where(given, bound, np.nan) for bound in (found.low, found.high))
    if given.ndim == 0:
        return Interval(float(low), float(high), found.n_valid)
    return Interval(low, high, found.n_valid)


def excess_over_draw(
    sums: BranchingSums, drawn: BranchingSums, weights: Int64[np.ndarray, "reps seq"]
) -> tuple[float, Interval]:
    """b_tot less that of one drawn surrogate a sequence with the same sites, and its interval, of one condition.

    Every sequence has a surrogate of its own, so the differences of sequences vary by the surrogates too.
    """
    pairs = (sums.time_pairs + sums.depth_pairs) - (drawn.time_pairs + drawn.depth_pairs)
    value = float(per_site(_pool(pairs, None), _pool(sums.n_sites, None)))
    if not held("delta_b_tot", sums):
        return value, Interval(float("nan"), float("nan"), 0)
    return value, t_interval(value, per_site(_pool(pairs, weights), _pool(sums.n_sites, weights)), weights)


def scale_of(name: str) -> Scale:
    """A ratio of pairs to sites is positive, its excess over a null is a difference."""
    return "identity" if name.startswith("delta") else "log"


def held(name: str, sums: BranchingSums) -> Bool[np.ndarray, "*cond"]:
    """Whether MIN_HOLDERS sequences, or all, hold a pair of the kind that this ratio or excess counts."""
    pairs = {"time": sums.time_pairs, "depth": sums.depth_pairs, "tot": sums.time_pairs + sums.depth_pairs}
    (kind,) = (kind for kind in pairs if f"b_{kind}" in name)
    holders = np.count_nonzero(pairs[kind], axis=-1)
    return np.asarray(holders >= min(MIN_HOLDERS, sums.n_sites.shape[-1]))


def per_site(
    pairs: float | Float64[np.ndarray, "*out"], sites: float | Float64[np.ndarray, "*#out"]
) -> Float64[np.ndarray, "*out"]:
    """pairs / sites, NaN without a warning where there is no site: the one rule for a silent raster."""
    ratio = np.full(np.shape(pairs), np.nan)
    np.divide(pairs, sites, out=ratio, where=np.greater(sites, 0))
    return ratio


def _pool(
    sums: Int64[np.ndarray, "*cond seq"] | Float64[np.ndarray, "*cond seq"],
    weights: Int64[np.ndarray, "reps seq"] | None,
) -> Float64[np.ndarray, "*out"]:
    """The weighted sum over sequences; counts stay below 2^53, so float64 holds them exactly."""
    pooled = sums.sum(axis=-1) if weights is None else sums @ weights.T.astype(np.float64)
    return np.asarray(pooled, dtype=np.float64)
