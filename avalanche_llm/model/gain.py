"""The gain intervention h + attn + g * mlp as data: which modules of which layers are scaled by how much (spec 08)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

GainTarget = Literal["MLP", "ATTN"]
Band = Literal["EARLY", "MID", "LATE"]


@dataclass(frozen=True)
class GainPlan:
    """gains[layer] multiplies what the target module of that layer adds to the residual stream; 1.0 leaves it alone."""

    target: GainTarget
    gains: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(not np.isfinite(gain) or gain <= 0 for gain in self.gains):
            raise ValueError(f"gains must be positive numbers, found {self.gains}")

    @property
    def furthest(self) -> float:
        """The gain furthest from 1, which a message names."""
        return max(self.gains, key=lambda gain: abs(gain - 1))

    @classmethod
    def uniform(cls, target: GainTarget, gain: float, n_layers: int) -> "GainPlan":
        """The same gain in every layer."""
        return cls(target, (gain,) * n_layers)

    @classmethod
    def band(cls, target: GainTarget, gain: float, n_layers: int, band: Band) -> "GainPlan":
        """`gain` in one third of the layers, 1 elsewhere. Thirds as even as can be, the early ones take the remainder."""
        chosen = np.array_split(np.arange(n_layers), 3)[("EARLY", "MID", "LATE").index(band)]
        return cls(target, tuple(gain if layer in chosen else 1.0 for layer in range(n_layers)))
