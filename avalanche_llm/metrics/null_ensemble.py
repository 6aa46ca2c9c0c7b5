"""Draws of pooled branching under the within-layer nulls, for p values, with the exact mean and spread for z.

Pairs and sites are those of `metrics.branching`; no surrogate raster is made (SCIENCE section 4; spec 10).

Permutation. A layer with k of its T tokens occupied has Hypergeometric(T; k - 1, k) neighbouring pairs: a row
of k ones and T - k zeros whose ones form r runs has k - r pairs, and C(k-1, r-1) C(T-k+1, r) of the C(T, k)
rows have r runs, so P(j pairs) = C(k-1, j) C(T-k+1, k-j) / C(T, k) (Mood 1940). The overlap of two layers is
Hypergeometric(T; k, k'). Both sums are therefore sums of independent hypergeometric counts:
- time: the layers are permuted independently;
- depth: given layers 0 .. l, the overlap of l with l + 1 has the law above whatever those layers are, so the
  successive overlaps are mutually independent.
Together: an overlap is independent of either of its layers taken alone, so every time count is uncorrelated
with every overlap, and mean and variance of time + depth are exactly the sums. The joint law is not quite a
product, since two layers and their overlap depend on each other as a triple. b_tot is drawn with the two sums
independent: its mean and variance are exact, and only cumulants from the third on are touched.

Circular shift. Every layer gets a shift s uniform on 1 .. T-1. Its time pairs are those of the ring less the
one at the new opening; its overlap with the next layer is their circular cross-correlation at the difference
of their shifts. Shifts are drawn and pairs looked up, so the draws have the exact joint law. Two overlaps
that share a layer, and an overlap and the time pairs of its layers, correlate weakly, because shift 0 is left
out; the exact variance has these terms (`_shift_variances`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.branching import BranchingSums, branching_sums, check_occupancy, per_site
from avalanche_llm.metrics.hypergeometric import hypergeometric_sum, hypergeometric_variance

SHIFTS_AT_ONCE: Final = 2**20
"""Shifts looked up at once: bounds the memory of a chunk of draws to some tens of MiB."""


@dataclass(frozen=True)
class NullEnsemble:
    """Pooled branching under a null, pairs per site: draws, and the exact mean and standard deviation.

    NaN, all of it, for a silent condition. The sd is 0 where the null has no freedom, for example at T = 1.
    """

    b_time: Float64[np.ndarray, "cond draws"]
    b_depth: Float64[np.ndarray, "cond draws"]
    b_tot: Float64[np.ndarray, "cond draws"]
    exact_mean_b_time: Float64[np.ndarray, " cond"]
    exact_mean_b_depth: Float64[np.ndarray, " cond"]
    exact_mean_b_tot: Float64[np.ndarray, " cond"]
    exact_sd_b_time: Float64[np.ndarray, " cond"]
    exact_sd_b_depth: Float64[np.ndarray, " cond"]
    exact_sd_b_tot: Float64[np.ndarray, " cond"]


@dataclass(frozen=True)
class _Variances:
    """Of the time sum, the depth sum and their total, in pairs squared."""

    time: float
    depth: float
    tot: float


@dataclass(frozen=True)
class _NullPairs:
    """Both sums of one condition in pairs, a value a draw, and their exact variances."""

    time: Int64[np.ndarray, " draws"]
    depth: Int64[np.ndarray, " draws"]
    variances: _Variances


def permutation_ensemble(
    occupancy: UInt8[np.ndarray, "cond seq layer token"], *, draws: int, seeds: Sequence[int]
) -> NullEnsemble:
    """Independent permutation of every layer of every sequence, one seed a condition.

    A condition depends on its own raster and seed only. Raises SchemaError if the array is no raster with
    four axes, if draws < 1 or if the number of seeds is not that of conditions.
    """
    sums = _checked_sums(occupancy, draws, seeds)
    found = [_permutation_pairs(raster, draws, seed) for raster, seed in zip(occupancy, seeds, strict=True)]
    return _per_site(found, sums.n_sites, sums.perm_time_pairs, sums.perm_depth_pairs)


def shift_ensemble(occupancy: UInt8[np.ndarray, "cond seq layer token"], *, draws: int, seeds: Sequence[int]) -> NullEnsemble:
    """Independent non-zero circular shift of every layer of every sequence; else as permutation_ensemble."""
    sums = _checked_sums(occupancy, draws, seeds)
    found = [_shift_pairs(raster, draws, seed) for raster, seed in zip(occupancy, seeds, strict=True)]
    return _per_site(found, sums.n_sites, sums.shift_time_pairs, sums.shift_depth_pairs)


def _checked_sums(occupancy: UInt8[np.ndarray, "cond seq layer token"], draws: int, seeds: Sequence[int]) -> BranchingSums:
    check_occupancy(occupancy)
    if occupancy.ndim != 4 or not len(occupancy) == len(seeds) > 0 or draws < 1:
        raise SchemaError(
            "an ensemble needs a raster [cond, seq, layer, token], one seed a condition and at least 1 draw, "
            f"got shape {occupancy.shape}, {len(seeds)} seeds and {draws} draws"
        )
    return branching_sums(occupancy)


def _per_site(
    found: Sequence[_NullPairs],
    n_sites: Int64[np.ndarray, "cond seq"],
    mean_time: Float64[np.ndarray, "cond seq"],
    mean_depth: Float64[np.ndarray, "cond seq"],
) -> NullEnsemble:
    """Pairs to pairs per site: the same single division as the observed b, so that ties stay ties."""
    sites = n_sites.sum(axis=-1).astype(np.float64)
    time = np.array([pairs.time for pairs in found], dtype=np.float64)
    depth = np.array([pairs.depth for pairs in found], dtype=np.float64)
    mean_time, mean_depth = mean_time.sum(axis=-1), mean_depth.sum(axis=-1)
    return NullEnsemble(
        b_time=per_site(time, sites[:, None]),
        b_depth=per_site(depth, sites[:, None]),
        b_tot=per_site(time + depth, sites[:, None]),
        exact_mean_b_time=per_site(mean_time, sites),
        exact_mean_b_depth=per_site(mean_depth, sites),
        exact_mean_b_tot=per_site(mean_time + mean_depth, sites),
        exact_sd_b_time=per_site(np.sqrt([pairs.variances.time for pairs in found]), sites),
        exact_sd_b_depth=per_site(np.sqrt([pairs.variances.depth for pairs in found]), sites),
        exact_sd_b_tot=per_site(np.sqrt([pairs.variances.tot for pairs in found]), sites),
    )


def _permutation_pairs(occupancy: UInt8[np.ndarray, "seq layer token"], draws: int, seed: int) -> _NullPairs:
    rng, n_tokens = np.random.Generator(np.random.PCG64(seed)), occupancy.shape[-1]
    k = occupancy.sum(axis=-1, dtype=np.int64)
    in_time, in_depth = (np.maximum(k - 1, 0), k), (k[:, :-1], k[:, 1:])
    var_time = hypergeometric_variance(n_tokens, *in_time)
    var_depth = hypergeometric_variance(n_tokens, *in_depth)
    return _NullPairs(
        time=hypergeometric_sum(n_tokens, *in_time, size=draws, rng=rng),
        depth=hypergeometric_sum(n_tokens, *in_depth, size=draws, rng=rng),
        variances=_Variances(var_time, var_depth, var_time + var_depth),
    )


def _shift_pairs(occupancy: UInt8[np.ndarray, "seq layer token"], draws: int, seed: int) -> _NullPairs:
    rng, (n_seq, n_layers, n_tokens) = np.random.Generator(np.random.PCG64(seed)), occupancy.shape
    overlap = _ring_overlap(occupancy)
    time, depth = np.zeros(draws, dtype=np.int64), np.full(draws, overlap.sum(), dtype=np.int64)
    if n_tokens == 1:  # no non-zero shift: the raster itself
        return _NullPairs(time, depth, _Variances(0.0, 0.0, 0.0))
    ring = occupancy & np.roll(occupancy, -1, axis=-1)  # ring[t] is the pair (t, t + 1)
    lost = ring[..., ::-1]  # by shift: shift s opens the ring at the pair (T - 1 - s, T - s)
    chunk = max(1, SHIFTS_AT_ONCE // max(1, n_seq * n_layers))
    for start in range(0, draws, chunk):
        now = slice(start, min(start + chunk, draws))
        # drawn draw by draw, so that the size of a chunk does not show in the result
        shift = rng.integers(1, n_tokens, size=(now.stop - start, n_seq, n_layers)).transpose(1, 2, 0)
        relative = shift[:, 1:] - shift[:, :-1]  # a negative one counts back from the end of the ring
        opened = np.take_along_axis(lost, shift, axis=-1).sum(axis=(0, 1), dtype=np.int64)
        time[now] = ring.sum(dtype=np.int64) - opened
        depth[now] = np.take_along_axis(overlap, relative, axis=-1).sum(axis=(0, 1))
    return _NullPairs(time, depth, _shift_variances(lost.astype(np.int64), overlap))


def _ring_overlap(occupancy: UInt8[np.ndarray, "seq layer token"]) -> Int64[np.ndarray, "seq layer-1 token"]:
    """C[l, d]: overlap of layers l and l + 1 on the ring once l + 1 is shifted by d relative to l."""
    spectrum = np.fft.rfft(occupancy, axis=-1)
    overlap = np.fft.irfft(spectrum[:, :-1] * spectrum[:, 1:].conj(), n=occupancy.shape[-1], axis=-1)
    return np.rint(overlap).astype(np.int64)


def _shift_variances(lost: Int64[np.ndarray, "seq layer token"], overlap: Int64[np.ndarray, "seq layer-1 token"]) -> _Variances:
    """Exact variances over independent shifts, uniform on 1 .. T-1.

    Given the shift s of one of its two layers, an overlap C averages to (k k' - C(s)) / (T - 1), because the
    other layer takes every relative shift but s. Hence, with cov over s = 1 .. T-1, C[l - 1] and C[l] the
    overlaps of layer l with its neighbours and lost[l] the pair that its opening costs:
        cov(overlap l - 1, overlap l) = cov(C[l - 1](s), C[l](-s)) / (T - 1)^2
        cov(time of l, overlaps of l) = cov(lost[l](s), C[l - 1](s) + C[l](-s)) / (T - 1)
    """
    n_shifts = lost.shape[-1] - 1
    # counted from a value of their own, constant rows give exact zeros
    excess = overlap - overlap[..., :1]
    lost, above, below = (_from_first(x) for x in (lost[..., 1:], overlap[..., 1:], overlap[..., :0:-1]))
    differs = (n_shifts - 1) / n_shifts  # probability that two layers have unequal shifts
    mean, square = (differs * (excess[..., 1:] ** power).mean(axis=-1) for power in (1, 2))
    time = _sum_cov(lost, lost)
    depth = float((square - mean**2).sum()) + 2.0 * _sum_cov(above[:, :-1], below[:, 1:]) / n_shifts**2
    between = (_sum_cov(lost[:, 1:], above) + _sum_cov(lost[:, :-1], below)) / n_shifts
    # sums that cancel to zero may leave rounding of either sign
    return _Variances(time, max(depth, 0.0), max(time + depth + 2.0 * between, 0.0))


def _from_first(values: Int64[np.ndarray, "seq layer shift"]) -> Int64[np.ndarray, "seq layer shift"]:
    difference: Int64[np.ndarray, "seq layer shift"] = values - values[..., :1]
    return difference


def _sum_cov(a: Int64[np.ndarray, "seq layer shift"], b: Int64[np.ndarray, "seq layer shift"]) -> float:
    """Covariances over shifts, summed over sequences and layers."""
    return float(((a * b).mean(axis=-1) - a.mean(axis=-1) * b.mean(axis=-1)).sum())
