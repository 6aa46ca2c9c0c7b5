"""Surrogate rasters: what a raster of the same margins looks like without the structure under test.

    null id                                    keeps                                          destroys
    NULL_RASTER_WITHIN_LAYER_TIME_PERM         counts of every layer                          order in time, layers
    NULL_RASTER_WITHIN_LAYER_TIME_CIRC_SHIFT   and their order on the ring                    alignment of layers
    NULL_RASTER_MARGIN_SWAP                    counts of every layer, layers of every token   the rest
    NULL_RASTER_COMMON_CIRC_SHIFT              everything on the ring (positive control)      the place of token 0
    NULL_TOKEN_SHUFFLE_INPUT                   the tokens of every input, special ones fixed  their order

Rasters are X[seq, layer, token] and A[seq, layer, token] of one condition (SCIENCE section 4; spec 10). The permutation and
the shifts rearrange A as they rearrange X. Swaps move sites across layers and tokens, so A cannot follow: each layer
keeps the multiset of its counts, put on its new sites in random order.

Random numbers come from one PCG64 stream a layer (a sequence, where the null acts on all its layers at once), seeded by
`null_seed`, so a surrogate depends on nothing but its own name, not on a run id and not on what else is drawn.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

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

Occupancy = UInt8[np.ndarray, "seq layer token"]
Counts = UInt16[np.ndarray, "seq layer token"]


class NullRaster(NamedTuple):
    """A surrogate: occupancy X and event counts A, shaped as the observed pair."""

    occupancy: Occupancy
    counts: Counts


class UniformSource(Protocol):
    """What a null draws from: uniform numbers in [0, 1). A numpy Generator is one."""

    def random(self, size: tuple[int, int, int], /) -> Float64[np.ndarray, "seq row number"]: ...


def within_layer_permutation(occupancy: Occupancy, counts: Counts, rng: UniformSource) -> NullRaster:
    """Permute the tokens of every layer, each layer by its own uniform permutation."""
    return _rearrange(occupancy, counts, rng.random(occupancy.shape).argsort(axis=-1))
