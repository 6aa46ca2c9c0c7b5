"""From events to rasters: A[seq, layer, token] counts the spikes over units, X = A > 0 (SCIENCE section 1; spec 07)."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from avalanche_llm.errors import DataError
from avalanche_llm.events.collect import LayerTail
from avalanche_llm.events.spike import magnitude
from avalanche_llm.settings import SpikeDef

MAX_COUNT: Final = np.iinfo(np.uint16).max


def count_raster(
    tails: Sequence[LayerTail],
    tau: Float[np.ndarray, " layer"],
    spike_def: SpikeDef,
    *,
    n_seq: int,
    first_token: int,
    n_tokens: int,
) -> UInt16[np.ndarray, "seq layer token"]:
    """A: events with v > tau[layer] at each site; the token axis begins at `first_token` (the burn-in left out).

    Raises DataError if a site has more events than uint16 holds.
    """
    counts = np.zeros((n_seq, len(tails), n_tokens), dtype=np.uint16)
    for layer, tail in enumerate(tails):
        event = magnitude(tail.z, spike_def) > tau[layer]
        site = tail.seq[event] * np.int64(n_tokens) + tail.token[event] - first_token
        found = np.bincount(site, minlength=n_seq * n_tokens)
        if found.max(initial=0) > MAX_COUNT:
            raise DataError(f"layer {layer} has a site with {found.max()} events, more than {MAX_COUNT}; lower the target rate")
        counts[:, layer, :] = found.reshape(n_seq, n_tokens)
    return counts


def occupancy(counts: UInt16[np.ndarray, "*axes"]) -> UInt8[np.ndarray, "*axes"]:
    """X: 1 where a site has at least one event."""
    return (counts > 0).astype(np.uint8)
