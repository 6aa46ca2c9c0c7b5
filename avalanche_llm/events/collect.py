"""The tail of one pass: per layer the largest z and |z| of the slice, from which every threshold and raster follows.

A layer keeps a lower bound for each spike definition: the depth-th largest v met until it was last raised. A sample below
both bounds can never be an event, so each batch is searched for what reaches one, and only that is kept. Memory is that of
the events and of one batch; of two, on a device whose batches are searched while the next one runs (SCIENCE section 3;
spec 06).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64

from avalanche_llm.errors import DataError
from avalanche_llm.events.search import (
    Bounds,
    Candidates,
    LayerBatch,
    joined,
    search_on_device,
    search_on_host,
    to_host,
)
from avalanche_llm.events.side_stream import SideStream
from avalanche_llm.events.spike import magnitude
from avalanche_llm.events.standardize import Standardizer
from avalanche_llm.settings import SpikeDef

GROUPS: Final = 4
"""Groups of tokens for each sample that is wanted of a first batch, so that few groups hold two."""
GROWTH: Final = 2
"""A layer's bounds are raised when it holds this many times what it held after they were raised last."""


@dataclass(frozen=True)
class LayerTail:
    """Candidate events of one layer in the order seq, token, unit: everything at or above either bound."""

    seq: Int32[np.ndarray, " event"]
    token: Int32[np.ndarray, " event"]
    unit: Int32[np.ndarray, " event"]
    z: Float32[np.ndarray, " event"]

    def __len__(self) -> int:
        return len(self.z)


class EventCollector:
    """Feed it u of every layer and batch; afterwards `tails` holds every sample that reaches a fixed bound of its layer.

    bounds[layer][definition]: the lowest v that is wanted, in sigma. `on_host` (default: where the standardizer is on a
    CPU) searches each layer at once; otherwise the layers of a batch are searched together while the next batch runs.
    """

    def __init__(
        self, standardizer: Standardizer, bounds: Sequence[Bounds], *, burn_in: int, on_host: bool | None = None
    ) -> None:
        device = standardizer.mu.device
        self._standardizer = standardizer
        self._burn_in = burn_in
        self._n_layers, self._d_ff = standardizer.mu.shape
        self._bounds = [dict(of_layer) for of_layer in bounds]
        self._kept: list[list[Candidates]] = [[] for _ in range(self._n_layers)]
        self._on_host = device.type == "cpu" if on_host is None else on_host
        self._side = SideStream[list[LayerBatch]](device, self._search)
        self._batch: list[LayerBatch] = []
        self._first_seq = 0
        self._tokens = 1
        self._seen = [0] * self._n_layers

    def add(self, layer: int, u: Float[torch.Tensor, "window token unit"]) -> None:
        """Take from one layer's batch what reaches a bound."""
        u = u[:, self._burn_in :]
        self._tokens = u.shape[1]
        self._seen[layer] += u.numel()
        batch = LayerBatch(layer, u, self._first_seq * self._tokens * self._d_ff)
        if self._on_host:
            self._search([batch])
        else:
            self._batch.append(batch)

    def end_batch(self, next_first_seq: int) -> None:
        """Every layer of a batch was added; windows that follow count from `next_first_seq`."""
        self._first_seq = next_first_seq
        if self._batch:
            self._side.hand_over(self._batch)
            self._batch = []

    @property
    def tails(self) -> list[LayerTail]:
        """The candidates of every layer."""
        self._side.finish()
        return [self._tail(joined(kept)) for kept in self._kept]

    @property
    def n_samples(self) -> int:
        """Samples a layer: windows x tokens x units."""
        return self._seen[0]

    def _search(self, batches: Sequence[LayerBatch]) -> None:
        self._take(batches, self._find(batches, [self._bounds[batch.layer] for batch in batches]))

    def _find(self, batches: Sequence[LayerBatch], bounds: Sequence[Bounds]) -> list[Candidates]:
        if self._on_host:
            return [search_on_host(self._standardizer, *each) for each in zip(batches, bounds, strict=True)]
        return search_on_device(self._standardizer, batches, bounds)

    def _take(self, batches: Sequence[LayerBatch], found: Sequence[Candidates]) -> None:
        for batch, fresh in zip(batches, found, strict=True):
            self._kept[batch.layer].append(fresh)

    def _tail(self, kept: Candidates) -> LayerTail:
        site, unit = np.divmod(kept.place, self._d_ff)
        seq, token = np.divmod(site, self._tokens)
        return LayerTail(seq.astype(np.int32), (token + self._burn_in).astype(np.int32), unit.astype(np.int32), kept.z)


class EventCounter(EventCollector):
    """An event collector that keeps no event: it counts v strictly over the bound of each layer and definition."""

    def __init__(
        self, standardizer: Standardizer, bounds: Sequence[Bounds], *, burn_in: int, on_host: bool | None = None
    ) -> None:
        super().__init__(standardizer, bounds, burn_in=burn_in, on_host=on_host)
        self._counts = [dict.fromkeys(of_layer, 0) for of_layer in bounds]

    @property
    def counts(self) -> dict[SpikeDef, Int64[np.ndarray, " layer"]]:
        """Events of each layer, by definition."""
        self._side.finish()
        return {spike_def: np.array([of_layer[spike_def] for of_layer in self._counts]) for spike_def in self._counts[0]}

    def _take(self, batches: Sequence[LayerBatch], found: Sequence[Candidates]) -> None:
        for batch, fresh in zip(batches, found, strict=True):
            for spike_def, bound in self._bounds[batch.layer].items():
                self._counts[batch.layer][spike_def] += int(np.count_nonzero(magnitude(fresh.z, spike_def) > bound))


class TailCollector(EventCollector):
    """An event collector that raises its own bounds: it keeps the largest v of the slice, exactly.

    depth[definition][layer]: how many of the largest v must be kept. Ties with the last of them are kept too.
    """

    def __init__(
        self,
        standardizer: Standardizer,
        depth: Mapping[SpikeDef, Int64[np.ndarray, " layer"]],
        *,
        burn_in: int,
        on_host: bool | None = None,
    ) -> None:
        unbounded = [dict.fromkeys(depth, -np.inf) for _ in standardizer.mu]
        super().__init__(standardizer, unbounded, burn_in=burn_in, on_host=on_host)
        self._depth = [{spike_def: int(of[layer]) for spike_def, of in depth.items()} for layer in range(self._n_layers)]
        self._held = [0] * self._n_layers

    @property
    def tails(self) -> list[LayerTail]:
        """The candidates of every layer. Raises DataError if a layer saw fewer samples than it must keep."""
        for layer, (seen, depth) in enumerate(zip(self._seen, self._depth, strict=True)):
            if seen < max(depth.values()):
                raise DataError(
                    f"layer {layer} saw {seen} samples, the deepest threshold needs {max(depth.values())}; "
                    "use more windows or lower events.target_rates"
                )
        self._side.finish()
        for layer in range(self._n_layers):
            self._raise(layer)
        return super().tails

    def _search(self, batches: Sequence[LayerBatch]) -> None:
        if not any(self._kept[batch.layer] for batch in batches):
            for batch, bounds in zip(batches, self._first_bounds(batches), strict=True):
                self._bounds[batch.layer] = bounds
        super()._search(batches)

    def _take(self, batches: Sequence[LayerBatch], found: Sequence[Candidates]) -> None:
        super()._take(batches, found)
        for layer in (batch.layer for batch in batches):
            if sum(map(len, self._kept[layer])) > GROWTH * self._held[layer]:
                self._raise(layer)

    def _raise(self, layer: int) -> None:
        """Raise a layer's bounds to what it holds now, and drop what fell below them."""
        kept, depth = joined(self._kept[layer]), self._depth[layer]
        self._bounds[layer] = {spike_def: _bound(kept.z, spike_def, count) for spike_def, count in depth.items()}
        self._kept[layer] = [kept.reaching(self._bounds[layer])]
        self._held[layer] = len(self._kept[layer][0])

    def _first_bounds(self, batches: Sequence[LayerBatch]) -> list[dict[SpikeDef, float]]:
        """The depth-th largest of the groups' largest v: each of those is a sample, so at least `depth` of a batch reach it."""
        lowest = []
        for batch in batches:
            depths = self._depth[batch.layer]
            z = self._standardizer.z(batch.layer, batch.extremes(GROUPS * max(depths.values())))
            for spike_def, depth in depths.items():
                v = magnitude(z, spike_def).amax(dim=0).flatten()
                lowest.append(torch.topk(v, depth, sorted=False).values.amin() if depth <= len(v) else v.new_tensor(-np.inf))
        names = list(self._depth[0])
        of_layers = to_host(torch.stack(lowest)).reshape(len(batches), len(names)).tolist()
        return [dict(zip(names, of_layer, strict=True)) for of_layer in of_layers]


def _bound(z: np.ndarray, spike_def: SpikeDef, depth: int) -> float:
    """The depth-th largest v so far, or no bound while there are fewer."""
    if len(z) < depth:
        return -np.inf
    v = magnitude(z, spike_def)
    return float(np.partition(v, len(v) - depth)[len(v) - depth])
