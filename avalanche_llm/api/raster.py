"""What the functions of the API take as a raster, and rasters made from rasters: cut to sequences, or a surrogate."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8, UInt16

from avalanche_llm.canon import load_canon
from avalanche_llm.config import resolve_config
from avalanche_llm.errors import SchemaError
from avalanche_llm.raster.build import MAX_COUNT, occupancy
from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, COMMON_SHIFT, MARGIN_SWAP, PERMUTATION, draw_null
from avalanche_llm.resources import packaged
from avalanche_llm.settings import Settings, SpikeDef, parse_settings

SURROGATES: Final[Mapping[str, str]] = MappingProxyType(
    {"permutation": PERMUTATION, "circular_shift": CIRCULAR_SHIFT, "margin_swap": MARGIN_SWAP, "common_shift": COMMON_SHIFT}
)
"""Short names of the raster nulls (spec 10)."""


@dataclass(frozen=True, eq=False)
class Raster:
    """A[seq, layer, token] in events a site, and of a model's raster the gain, spike definition and rate it is of."""

    counts: UInt16[np.ndarray, "seq layer token"]
    gain: float | None = None
    spike_def: SpikeDef | None = None
    target_rate: float | None = None

    @property
    def occupancy(self) -> UInt8[np.ndarray, "seq layer token"]:
        """X: 1 where a site has an event."""
        return occupancy(self.counts)

    @property
    def condition(self) -> str:
        """How the seeds of its nulls name it: as the pipeline does, so that draws are the same."""
        return "" if self.gain is None else f"{self.spike_def}|{self.target_rate}|{self.gain}"

    @property
    def n_sequences(self) -> int:
        return len(self.counts)

    def __repr__(self) -> str:
        seq, layer, token = self.counts.shape
        of = "" if self.gain is None else f", g = {self.gain:g}, {self.spike_def}, rate {self.target_rate:g}"
        return f"Raster({seq} sequences, {layer} layers, {token} tokens{of})"


@lru_cache(maxsize=1)
def canonical() -> Settings:
    """The canonical settings, which every default of the API is from (configs/pipeline.yaml as shipped)."""
    return parse_settings(resolve_config(packaged("configs/pipeline.yaml"), load_canon()).values)


def as_raster(raster: Any) -> Raster:
    """A raster from a 0/1 or count array, [seq, layer, token] or [layer, token]; a Raster as it is.

    Raises SchemaError for ragged sequences, other axes or none, NaN, negative or fractional values, counts that are too large.
    """
    if isinstance(raster, Raster):
        return raster
    try:
        values = np.asarray(raster)
    except ValueError as error:
        raise SchemaError(
            "expected sequences of one shape, found ragged ones: cut them to one length with av.cut, or pad none and measure "
            "each length by itself"
        ) from error
    if values.dtype.kind not in "buif":
        raise SchemaError(f"expected a raster of 0/1 or counts, found {values.dtype} values: pass numbers, one a bin")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise SchemaError(
            f"expected [channel, time] or [trial, channel, time] (in a model [seq, layer, token]), found shape {values.shape}"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise SchemaError("the raster holds NaN or infinite values: leave those trials or channels out, or set the bins to 0")
    if values.dtype.kind == "f" and (values != np.rint(values)).any():
        raise SchemaError(
            "expected whole numbers, found fractions: threshold the signal first, for example (signal > 3 * signal.std())"
        )
    if values.min() < 0:
        raise SchemaError(f"expected counts of 0 or more, found {values.min():g}")
    if values.max() > MAX_COUNT:
        raise SchemaError(f"expected at most {MAX_COUNT} events a site, found {values.max():g}: use smaller bins")
    return Raster(np.atleast_3d(values[None] if values.ndim == 2 else values).astype(np.uint16))


def cut(recording: Any, length: int) -> Raster:
    """A long recording [channel, time] as sequences [trial, channel, time] of `length` bins; what is left over is dropped.

    Intervals are over sequences, so many of them are needed; a component that crosses a cut counts as two. Raises SchemaError for
    a recording that is shorter than one sequence.
    """
    counts = as_raster(recording).counts
    n_cuts = counts.shape[-1] // length if length > 0 else 0
    if n_cuts == 0:
        raise SchemaError(f"expected a length between 1 and the {counts.shape[-1]} bins of the recording, found {length}")
    n_seq, n_channels, _ = counts.shape
    parts = counts[..., : n_cuts * length].reshape(n_seq, n_channels, n_cuts, length)
    return Raster(np.ascontiguousarray(parts.transpose(0, 2, 1, 3)).reshape(n_seq * n_cuts, n_channels, length))


def surrogate(raster: Any, kind: str, *, seed: int | None = None) -> Raster:
    """One surrogate of a raster: permutation, circular_shift, margin_swap or common_shift (spec 10 says what each keeps)."""
    if kind not in SURROGATES:
        raise SchemaError(f"unknown surrogate {kind!r}; known are {', '.join(SURROGATES)}")
    found = as_raster(raster)
    drawn = draw_null(
        SURROGATES[kind],
        found.occupancy,
        found.counts,
        seed=canonical().determinism.seed if seed is None else seed,
        condition=found.condition,
        seq_ids=range(found.n_sequences),
    )
    return Raster(drawn.counts, found.gain, found.spike_def, found.target_rate)
