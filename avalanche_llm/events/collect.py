"""The tail of one pass: per layer the largest z and |z| of the slice, from which every threshold and raster follows.

A layer keeps a running lower bound for each spike definition: the depth-th largest v met so far. A sample below both
bounds can never be an event, so each batch is compared with mu + bound * sigma unit by unit (one comparison a side, no
z is computed), and only what passes is standardised and merged. Memory is that of the events and of one batch
(SCIENCE section 3; spec 06).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from avalanche_llm.errors import DataError
from avalanche_llm.events.spike import magnitude
from avalanche_llm.events.standardize import Standardizer
from avalanche_llm.settings import SpikeDef

# The prefilter compares u, the exact test compares z; float32 rounding may part them by a few units in the last place.
SLACK: Final = 1e-5
FIRST_SAMPLE: Final = 16
"""A first batch's bound is guessed from every 16th token of it."""
FIRST_MARGIN: Final = 1.5
"""The guess leaves this many times the wanted samples, so that it rarely has to be taken back."""


@dataclass(frozen=True)
class LayerTail:
    """Candidate events of one layer in the order seq, token, unit: everything at or above either bound."""

    seq: Int64[np.ndarray, " event"]
    token: Int64[np.ndarray, " event"]
    unit: Int64[np.ndarray, " event"]
    z: Float32[np.ndarray, " event"]

    def __len__(self) -> int:
        return len(self.z)

    def where(self, keep: np.ndarray) -> "LayerTail":
        return LayerTail(self.seq[keep], self.token[keep], self.unit[keep], self.z[keep])

    def joined(self, other: "LayerTail") -> "LayerTail":
        return LayerTail(
            np.concatenate([self.seq, other.seq]),
            np.concatenate([self.token, other.token]),
            np.concatenate([self.unit, other.unit]),
            np.concatenate([self.z, other.z]),
        )


EMPTY: Final = LayerTail(*(np.zeros(0, np.int64),) * 3, np.zeros(0, np.float32))


class EventCollector:
    """Feed it u of every layer and batch; afterwards `tails` holds every sample that reaches a fixed bound of its layer.

    bounds[layer][definition]: the lowest v that is wanted, in sigma.
    """

    def __init__(self, standardizer: Standardizer, bounds: Sequence[Mapping[SpikeDef, float]], *, burn_in: int) -> None:
        self._standardizer = standardizer
        self._burn_in = burn_in
        n_layers, self._d_ff = standardizer.mu.shape
        self._bounds = [dict(of_layer) for of_layer in bounds]
        self._tails = [EMPTY] * n_layers
        self._fresh: list[list[LayerTail]] = [[] for _ in range(n_layers)]
        self._first_seq = 0
        self._seen = [0] * n_layers

    def add(self, layer: int, u: Float[torch.Tensor, "batch token unit"]) -> None:
        """Take from one layer's batch what reaches a bound."""
        u = u[:, self._burn_in :]
        self._fresh[layer].append(self._reaching(layer, u, self._bounds[layer]))
        self._seen[layer] += u.numel()

    def _reaching(self, layer: int, u: torch.Tensor, bounds: Mapping[SpikeDef, float]) -> LayerTail:
        """The samples of one batch at or above a bound."""
        flat = self._candidates(layer, u, bounds)
        unit = flat % self._d_ff
        z = self._standardizer.z_at(layer, u.reshape(-1)[flat], unit)
        site = torch.div(flat, self._d_ff, rounding_mode="floor")
        tokens = u.shape[1]
        fresh = LayerTail(
            torch.div(site, tokens, rounding_mode="floor").cpu().numpy() + self._first_seq,
            (site % tokens).cpu().numpy() + self._burn_in,
            unit.cpu().numpy(),
            z.cpu().numpy(),
        )
        return fresh.where(_at_or_above(fresh.z, bounds))

    def end_batch(self, next_first_seq: int) -> None:
        """Merge what the batch brought; windows that follow count from `next_first_seq`."""
        for layer, fresh in enumerate(self._fresh):
            for part in fresh:
                self._tails[layer] = self._tails[layer].joined(part)
            fresh.clear()
        self._first_seq = next_first_seq

    @property
    def tails(self) -> list[LayerTail]:
        """The candidates of every layer."""
        return self._tails

    @property
    def n_samples(self) -> int:
        """Samples a layer: windows x tokens x units."""
        return self._seen[0]

    def _candidates(self, layer: int, u: torch.Tensor, bounds: Mapping[SpikeDef, float]) -> torch.Tensor:
        """Flat indices of samples that may reach a bound."""
        mu, scale = self._standardizer.mu[layer], self._standardizer.scale[layer]
        reached = u > mu + _loosened(min(bounds.values())) * scale - SLACK * mu.abs()
        lower = bounds.get("SPIKE_TWO_SIDED_ABS")
        if lower is not None:
            reached |= u < mu - _loosened(lower) * scale + SLACK * mu.abs()
        return _where(reached.reshape(-1))


class TailCollector(EventCollector):
    """An event collector that raises its own bounds: it keeps the largest v of the slice, exactly.

    depth[definition][layer]: how many of the largest v must be kept. Ties with the last of them are kept too.
    """

    def __init__(
        self, standardizer: Standardizer, depth: Mapping[SpikeDef, Int64[np.ndarray, " layer"]], *, burn_in: int
    ) -> None:
        n_layers = len(standardizer.mu)
        super().__init__(standardizer, [dict.fromkeys(depth, -np.inf) for _ in range(n_layers)], burn_in=burn_in)
        self._depth = depth

    def end_batch(self, next_first_seq: int) -> None:
        """Merge what the batch brought, raise the bounds and drop what fell below them."""
        super().end_batch(next_first_seq)
        for layer, tail in enumerate(self._tails):
            self._bounds[layer] = {
                spike_def: _bound(tail.z, spike_def, int(depth[layer])) for spike_def, depth in self._depth.items()
            }
            self._tails[layer] = tail.where(_at_or_above(tail.z, self._bounds[layer]))

    @property
    def tails(self) -> list[LayerTail]:
        """The candidates of every layer. Raises DataError if a layer saw fewer samples than it must keep."""
        for layer, seen in enumerate(self._seen):
            if seen < max(int(depth[layer]) for depth in self._depth.values()):
                raise DataError(f"layer {layer} saw {seen} samples, fewer than the deepest threshold needs")
        return self._tails

    def _reaching(self, layer: int, u: torch.Tensor, bounds: Mapping[SpikeDef, float]) -> LayerTail:
        """A layer's first batch has no bound yet: one is guessed from a part of it, and taken back if it leaves too few.

        Any bound is valid that at least `depth` samples of the slice reach, so the result does not depend on the guess.
        """
        if not self._seen[layer]:
            guess = self._guess(layer, u)
            found = super()._reaching(layer, u, guess)
            if all((magnitude(found.z, of) >= bound).sum() >= int(self._depth[of][layer]) for of, bound in guess.items()):
                return found
        return super()._reaching(layer, u, bounds)

    def _guess(self, layer: int, u: torch.Tensor) -> dict[SpikeDef, float]:
        z = self._standardizer.z(layer, u[:, ::FIRST_SAMPLE]).flatten()
        share = FIRST_MARGIN * z.numel() / u.numel()
        wanted = {of: int(share * int(depth[layer])) + 1 for of, depth in self._depth.items()}
        return {
            of: float(torch.topk(magnitude(z, of), count).values[-1]) if count <= z.numel() else -np.inf
            for of, count in wanted.items()
        }


def _where(flags: torch.Tensor) -> torch.Tensor:
    """Indices of the true values; numpy skips empty stretches, which is most of a CPU tensor of events."""
    return torch.from_numpy(np.flatnonzero(flags.numpy())) if flags.device.type == "cpu" else flags.nonzero().squeeze(1)


def _loosened(bound: float) -> float:
    return bound - SLACK * max(1.0, abs(bound)) if np.isfinite(bound) else bound


def _at_or_above(z: np.ndarray, bounds: Mapping[SpikeDef, float]) -> np.ndarray:
    keep = np.zeros(len(z), dtype=bool)
    for spike_def, bound in bounds.items():
        keep |= magnitude(z, spike_def) >= bound
    return keep


def _bound(z: np.ndarray, spike_def: SpikeDef, depth: int) -> float:
    """The depth-th largest v so far, or no bound while there are fewer."""
    if len(z) < depth:
        return -np.inf
    v = magnitude(z, spike_def)
    return float(np.partition(v, len(v) - depth)[len(v) - depth])
