"""Which samples of u may be events: a comparison with mu + bound * sigma, unit by unit, then z of the few that pass.

u > mu + bound * sigma takes one comparison a side and no z of the whole batch. float32 rounding may part it from z > bound
by a few units in the last place, so the comparison is loosened and z itself decides (SCIENCE section 3; spec 06).

On the host one layer is searched at a time, while its u is in the cache. On another device the layers of a batch are
searched together: first their counts are copied to the host, then their samples, so that the host waits for the device a
fixed number of times a batch, however many layers there are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from avalanche_llm.events.spike import magnitude
from avalanche_llm.events.standardize import Standardizer
from avalanche_llm.settings import SpikeDef

Bounds = Mapping[SpikeDef, float]
"""The lowest v that is wanted, in sigma, for each spike definition; -inf wants everything."""

Units = TypeVar("Units", np.ndarray, torch.Tensor)
"""One number a unit, where the search runs."""

SLACK: Final = 1e-5


@dataclass(frozen=True)
class LayerBatch:
    """What one layer gave for one batch of windows; its first sample is number `first_place` of the slice."""

    layer: int
    u: Float[torch.Tensor, "window token unit"]
    first_place: int

    def extremes(self, n: int) -> Float[torch.Tensor, "2 window group unit"]:
        """The smallest and the largest u of each unit in groups of tokens of one size: n or more of both, or each sample."""
        n_tokens = self.u.shape[1]
        largest = min(n_tokens, max(1, self.u.numel() // n))
        size = next(size for size in range(largest, 0, -1) if n_tokens % size == 0)
        groups = torch.unflatten(self.u, 1, (-1, size))
        return torch.stack([groups.amin(dim=2), groups.amax(dim=2)])


@dataclass(frozen=True)
class Candidates:
    """Samples of one layer in ascending order: place in the slice's flattened [seq, token, unit], and z in sigma."""

    place: Int64[np.ndarray, " event"]
    z: Float32[np.ndarray, " event"]

    def __len__(self) -> int:
        return len(self.z)

    def reaching(self, bounds: Bounds) -> "Candidates":
        """Those with v at or above a bound."""
        keep = np.zeros(len(self), dtype=bool)
        for spike_def, bound in bounds.items():
            keep |= magnitude(self.z, spike_def) >= bound
        return Candidates(self.place[keep], self.z[keep])


def joined(parts: Sequence[Candidates]) -> Candidates:
    """Candidates of consecutive batches as one."""
    if len(parts) == 1:
        return parts[0]
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.float32))
    places, values = zip(nothing, *((part.place, part.z) for part in parts), strict=True)
    return Candidates(np.concatenate(places), np.concatenate(values))


def search_on_host(standardizer: Standardizer, batch: LayerBatch, bounds: Bounds) -> Candidates:
    """Every sample of one layer's batch at or above a bound.

    numpy compares several times faster than torch on a CPU, and skips the empty stretches of the answer.
    """
    high, low = _edges(standardizer.mu[batch.layer].numpy(), standardizer.scale[batch.layer].numpy(), bounds)
    u = batch.u.to(torch.float32).numpy()
    flags = u > high
    if low is not None:
        flags |= u < low
    place = np.flatnonzero(flags)
    units = torch.from_numpy(place % u.shape[-1])
    z = standardizer.z_at(batch.layer, torch.from_numpy(u.reshape(-1)[place]), units)
    return Candidates(place + batch.first_place, z.numpy()).reaching(bounds)


def search_on_device(
    standardizer: Standardizer, batches: Sequence[LayerBatch], bounds: Sequence[Bounds]
) -> list[Candidates]:
    """The same for many layers at once, each with bounds of its own; three copies to the host in all."""
    flags = [_flags(standardizer, batch, of_layer) for batch, of_layer in zip(batches, bounds, strict=True)]
    counts = to_host(torch.stack([flag.sum() for flag in flags]))
    places, values = [], []
    for batch, flag, count in zip(batches, flags, counts.tolist(), strict=True):
        place = torch.nonzero_static(flag, size=count).squeeze(1)
        z = standardizer.z_at(batch.layer, batch.u.reshape(-1)[place], place % batch.u.shape[-1])
        places.append(place + batch.first_place)
        values.append(z)
    place_on_host, z_on_host = to_host(torch.cat(places)), to_host(torch.cat(values))
    ends = pairwise([0, *np.cumsum(counts).tolist()])
    return [
        Candidates(place_on_host[low:high], z_on_host[low:high]).reaching(of_layer)
        for (low, high), of_layer in zip(ends, bounds, strict=True)
    ]


def to_host(tensor: torch.Tensor) -> np.ndarray:
    """A device tensor as an array, through pinned memory; waits for the current stream alone."""
    if tensor.device.type == "cpu":
        return tensor.numpy()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host.numpy()


def _flags(standardizer: Standardizer, batch: LayerBatch, bounds: Bounds) -> torch.Tensor:
    high, low = _edges(standardizer.mu[batch.layer], standardizer.scale[batch.layer], bounds)
    flags = batch.u > high
    return (flags if low is None else flags | (batch.u < low)).reshape(-1)


def _edges(mu: Units, scale: Units, bounds: Bounds) -> tuple[Units, Units | None]:
    """u above the first or below the second, [unit] in float32, may reach a bound."""
    slack = SLACK * abs(mu)
    below = bounds.get("SPIKE_TWO_SIDED_ABS")
    return mu + _loosened(min(bounds.values())) * scale - slack, None if below is None else mu - _loosened(below) * scale + slack


def _loosened(bound: float) -> float:
    return bound - SLACK * max(1.0, abs(bound)) if np.isfinite(bound) else bound
