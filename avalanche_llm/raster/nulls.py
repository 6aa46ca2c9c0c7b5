"""Surrogates: rasters with the margins of the observed one and without the structure under test.

    null id                                   keeps                                destroys
    NULL_RASTER_WITHIN_LAYER_TIME_PERM        the counts of a layer                their order
    NULL_RASTER_WITHIN_LAYER_TIME_CIRC_SHIFT  and their order, on a ring           alignment of layers
    NULL_RASTER_MARGIN_SWAP                   the counts of a layer, X of a token  the rest
    NULL_RASTER_COMMON_CIRC_SHIFT             all but the place of token 0         nothing: positive control
    NULL_TOKEN_SHUFFLE_INPUT                  tokens of an input, special in place their order

Rasters are X[seq, layer, token] and A[seq, layer, token] of one condition (SCIENCE section 4; spec 10).
Permutation and shifts rearrange A as they rearrange X. A swap moves sites between layers, where A cannot
follow: each layer keeps the multiset of its counts, put on its new sites in random order.

Random numbers come from one PCG64 stream a layer, or a sequence where a null acts on all layers at once,
seeded by `null_seed`: a surrogate depends on its own name, neither on a run id nor on what else is drawn.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64, UInt8, UInt16

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.branching import check_occupancy

PERMUTATION: Final = "NULL_RASTER_WITHIN_LAYER_TIME_PERM"
CIRCULAR_SHIFT: Final = "NULL_RASTER_WITHIN_LAYER_TIME_CIRC_SHIFT"
MARGIN_SWAP: Final = "NULL_RASTER_MARGIN_SWAP"
COMMON_SHIFT: Final = "NULL_RASTER_COMMON_CIRC_SHIFT"
TOKEN_SHUFFLE: Final = "NULL_TOKEN_SHUFFLE_INPUT"

WHOLE_SEQUENCE: Final = -1
"""The layer in the seed of a null that acts on all layers of a sequence at once."""

TRADE_ROUNDS: Final = 40
"""Measured: what surrogate and original share beyond chance halves each round (2/3 at occupancy 0.05)."""

Occupancy = UInt8[np.ndarray, "seq layer token"]
Counts = UInt16[np.ndarray, "seq layer token"]
SequenceIds = Sequence[int] | Int[np.ndarray, " seq"]


class NullRaster(NamedTuple):
    """A surrogate: occupancy X and event counts A, shaped as the observed pair."""

    occupancy: Occupancy
    counts: Counts


@runtime_checkable
class UniformSource(Protocol):
    """What a null draws from: uniform numbers in [0, 1). A numpy Generator is one."""

    def random(self, size: tuple[int, int, int], /) -> Float64[np.ndarray, "seq row number"]: ...


def null_seed(seed: int, null_id: str, condition: str, seq_id: int, layer: int) -> int:
    """64 bits of sha256("seed|null_id|condition|seq_id|layer")."""
    name = f"{seed}|{null_id}|{condition}|{seq_id}|{layer}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


class SeededStreams:
    """A UniformSource with a stream of its own for every one of `layers` of every sequence."""

    def __init__(self, seed: int, null_id: str, condition: str, seq_ids: SequenceIds, layers: Sequence[int]) -> None:
        self._streams = [
            [np.random.Generator(np.random.PCG64(null_seed(seed, null_id, condition, int(seq_id), layer))) for layer in layers]
            for seq_id in seq_ids
        ]

    def random(self, size: tuple[int, int, int], /) -> Float64[np.ndarray, "seq row number"]:
        """The next numbers of each stream; the rows of a sequence are shared out evenly over its streams."""
        numbers = np.empty(size)
        for of_sequence, streams in zip(numbers, self._streams, strict=True):
            for rows, stream in zip(of_sequence.reshape(len(streams), -1), streams, strict=True):
                stream.random(out=rows)
        return numbers


def within_layer_permutation(occupancy: Occupancy, counts: Counts, rng: UniformSource) -> NullRaster:
    """Permute the tokens of every layer, each layer by its own uniform permutation."""
    return _rearranged(occupancy, counts, rng.random(occupancy.shape).argsort(axis=-1))


def within_layer_circular_shift(occupancy: Occupancy, counts: Counts, rng: UniformSource) -> NullRaster:
    """Shift every layer round its ring of tokens by its own shift, uniform on 1 .. T-1 (none if T = 1)."""
    n_seq, n_layers, n_tokens = occupancy.shape
    return _rearranged(occupancy, counts, _shifted(rng.random((n_seq, n_layers, 1)), n_tokens))


def common_circular_shift(occupancy: Occupancy, counts: Counts, rng: UniformSource) -> NullRaster:
    """Shift all layers of a sequence by one shift, uniform on 1 .. T-1; only pairs at the seam change."""
    n_seq, _, n_tokens = occupancy.shape
    source = _shifted(rng.random((n_seq, 1, 1)), n_tokens)
    return _rearranged(occupancy, counts, np.broadcast_to(source, occupancy.shape))


def margin_preserving_swaps(occupancy: Occupancy, counts: Counts, rng: UniformSource) -> NullRaster:
    """A random raster with as many occupied sites in every layer and at every token: global curveball trades.

    A round pairs the layers of a sequence at random. Each pair pools the tokens that only one of the two
    occupies and deals them out again at random, as many to each as it gave. The stationary law is uniform
    over the rasters with these margins (Strona et al. 2014). A single layer has no
    partner and stays as it is. Counts: see the module.
    """
    traded, n_seq, n_layers = occupancy.copy(), *occupancy.shape[:2]
    sequence, n_pairs = np.arange(n_seq)[:, None], n_layers // 2
    for _ in range(TRADE_ROUNDS if n_pairs else 0):
        order = rng.random((n_seq, 1, n_layers))[:, 0].argsort(axis=-1)
        one, other = (sequence, order[:, :n_pairs]), (sequence, order[:, n_pairs : 2 * n_pairs])
        traded[one], traded[other] = _traded(traded[one], traded[other], rng)
    return NullRaster(traded, _dealt(counts, traded, rng))


_Null = Callable[[Occupancy, Counts, UniformSource], NullRaster]
LAYER_NULLS: Final[Mapping[str, _Null]] = MappingProxyType(
    {PERMUTATION: within_layer_permutation, CIRCULAR_SHIFT: within_layer_circular_shift}
)
SEQUENCE_NULLS: Final[Mapping[str, _Null]] = MappingProxyType(
    {MARGIN_SWAP: margin_preserving_swaps, COMMON_SHIFT: common_circular_shift}
)


def draw_null(
    null_id: str, occupancy: Occupancy, counts: Counts, *, seed: int, condition: str, seq_ids: SequenceIds
) -> NullRaster:
    """One surrogate of every sequence of a condition.

    Raises SchemaError for an id that names no raster null, or if X, A and seq_ids do not belong together.
    """
    nulls = {**LAYER_NULLS, **SEQUENCE_NULLS}
    if null_id not in nulls:
        raise SchemaError(f"unknown raster null {null_id!r}; known are {', '.join(nulls)}")
    check_occupancy(occupancy)
    if occupancy.ndim != 3 or len(seq_ids) != len(occupancy):
        raise SchemaError(
            "a null needs the raster [seq, layer, token] of one condition and a seq_id a sequence, "
            f"got shape {occupancy.shape} and {len(seq_ids)} seq_ids"
        )
    if counts.shape != occupancy.shape or not np.array_equal(occupancy, counts > 0):
        raise SchemaError("X and A of a null do not belong together: X must be 1 exactly where A > 0")
    layers = range(occupancy.shape[1]) if null_id in LAYER_NULLS else (WHOLE_SEQUENCE,)
    streams = SeededStreams(seed, null_id, condition, seq_ids, layers)
    return nulls[null_id](occupancy, counts, streams)


def shuffle_tokens(
    input_ids: Int[np.ndarray, "seq token"],
    special_ids: Collection[int],
    *,
    seed: int,
    condition: str,
    seq_ids: SequenceIds,
) -> Int[np.ndarray, "seq token"]:
    """Permute the tokens of every input; those in `special_ids` stay in place and take no part."""
    streams = SeededStreams(seed, TOKEN_SHUFFLE, condition, seq_ids, (WHOLE_SEQUENCE,))
    special = np.isin(input_ids, list(special_ids))
    number = streams.random((input_ids.shape[0], 1, input_ids.shape[1]))[:, 0]
    # ordinary places in order, then special ones in order; and the same with the ordinary ones shuffled
    place = special.argsort(axis=-1, kind="stable")
    source = np.where(special, 1.0, number).argsort(axis=-1, kind="stable")
    shuffled = np.empty_like(input_ids)
    np.put_along_axis(shuffled, place, np.take_along_axis(input_ids, source, axis=-1), axis=-1)
    return shuffled


@dataclass(frozen=True)
class MarginalCheck:
    """Which margins of a surrogate equal the observed ones exactly; the last axis names what is compared."""

    sites: Bool[np.ndarray, "*cond seq layer"]  # occupied sites of the layer
    counts: Bool[np.ndarray, "*cond seq layer"]  # multiset of the layer's A, hence its total
    consistent: Bool[np.ndarray, "*cond seq layer"]  # X is 1 exactly where A > 0
    tokens: Bool[np.ndarray, "*cond seq token"]  # occupied layers at the token: kept by swaps

    @property
    def layers_exact(self) -> bool:
        """Every layer keeps its sites and its counts."""
        return bool(self.sites.all() and self.counts.all() and self.consistent.all())

    @property
    def tokens_exact(self) -> bool:
        """Every token keeps the number of layers that it occupies."""
        return bool(self.tokens.all())


def marginals_exact(
    occupancy: UInt8[np.ndarray, "*cond seq layer token"],
    counts: UInt16[np.ndarray, "*cond seq layer token"],
    null_occupancy: UInt8[np.ndarray, "*cond seq layer token"],
    null_counts: UInt16[np.ndarray, "*cond seq layer token"],
) -> MarginalCheck:
    """Compare the margins of a surrogate with the observed ones. Raises SchemaError if the shapes differ."""
    shapes = {array.shape for array in (occupancy, counts, null_occupancy, null_counts)}
    if len(shapes) > 1:
        raise SchemaError(f"marginals are compared between rasters of one shape, got {sorted(shapes)}")
    return MarginalCheck(
        sites=occupancy.sum(axis=-1, dtype=np.int64) == null_occupancy.sum(axis=-1, dtype=np.int64),
        counts=(np.sort(counts, axis=-1) == np.sort(null_counts, axis=-1)).all(axis=-1),
        consistent=(null_occupancy == (null_counts > 0)).all(axis=-1),
        tokens=occupancy.sum(axis=-2, dtype=np.int64) == null_occupancy.sum(axis=-2, dtype=np.int64),
    )


def _rearranged(occupancy: Occupancy, counts: Counts, source: Int64[np.ndarray, "seq layer token"]) -> NullRaster:
    """Token t of the surrogate is token source[t] of the observed pair."""
    return NullRaster(*(np.take_along_axis(array, source, axis=-1) for array in (occupancy, counts)))


def _shifted(number: Float64[np.ndarray, "seq row 1"], n_tokens: int) -> Int64[np.ndarray, "seq row token"]:
    """Source tokens of a shift by 1 + floor(number (T - 1)) places."""
    shift = 1 + (number * (n_tokens - 1)).astype(np.int64)
    return np.asarray((np.arange(n_tokens) - shift) % n_tokens)


def _traded(
    one: UInt8[np.ndarray, "seq pair token"], other: UInt8[np.ndarray, "seq pair token"], rng: UniformSource
) -> tuple[UInt8[np.ndarray, "seq pair token"], UInt8[np.ndarray, "seq pair token"]]:
    """Both layers of every pair after a trade."""
    exclusive = one != other
    # a random number each, tokens that are not for trade last: `one` wins the lowest, as many as it gave
    number = np.where(exclusive, rng.random(one.shape), 1.0)
    gave = (one > other).sum(axis=-1, keepdims=True)
    highest = np.take_along_axis(np.sort(number, axis=-1), np.maximum(gave - 1, 0), axis=-1)
    won = (number <= highest) & (gave > 0)
    if (won.sum(axis=-1, keepdims=True) != gave).any():  # equal numbers, once in 10^9 rounds: the earlier token comes first
        won = number.argsort(axis=-1, kind="stable").argsort(axis=-1) < gave
    swapped = exclusive & (won != one)
    return one ^ swapped, other ^ swapped


def _dealt(counts: Counts, occupancy: Occupancy, rng: UniformSource) -> Counts:
    """The non-zero counts of every layer, in random order, on the occupied sites of its surrogate."""
    source = np.where(counts > 0, rng.random(counts.shape), 1.0).argsort(axis=-1)
    place = (occupancy == 0).argsort(axis=-1, kind="stable")
    dealt = np.empty_like(counts)
    np.put_along_axis(dealt, place, np.take_along_axis(counts, source, axis=-1), axis=-1)
    return dealt
