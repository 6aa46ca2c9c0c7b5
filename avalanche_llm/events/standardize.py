"""Mean and spread of every unit, and the standardised activation z = (u - mu) / (sigma + eps) (SCIENCE section 1).

mu, sigma: [layer, unit], over the tokens of the calibration slice at g = 1. Sums are float64, window by window and in the
order of the windows, merged by Chan et al. 1983 (equation 2.1): batch size does not change the result, and no
E[x^2] - E[x]^2 cancels. Sigma is the population standard deviation.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32

from avalanche_llm.errors import DataError


@dataclass(frozen=True)
class CalibrationStats:
    """mu and sigma in the units of u, float32, [layer, unit]; n_samples tokens went into each."""

    mu: Float32[np.ndarray, "layer unit"]
    sigma: Float32[np.ndarray, "layer unit"]
    n_samples: int

    def silent_units(self, eps: float) -> int:
        """Units whose sigma is at most eps: their z says nothing."""
        return int((self.sigma <= eps).sum())


class RunningMoments:
    """Welford moments of u for every layer, fed one batch at a time."""

    def __init__(self, n_layers: int, *, burn_in: int) -> None:
        self._burn_in = burn_in
        self._count = [0] * n_layers
        self._mean: list[torch.Tensor | None] = [None] * n_layers
        self._m2: list[torch.Tensor | None] = [None] * n_layers

    def add(self, layer: int, u: Float[torch.Tensor, "batch token unit"]) -> None:
        """Merge the windows of one batch, in order."""
        for window in u[:, self._burn_in :].to(torch.float64):
            tokens = window.shape[0]
            mean = window.mean(dim=0)
            m2 = (window - mean).square_().sum(dim=0)
            old_mean, old_m2 = self._mean[layer], self._m2[layer]
            if old_mean is None or old_m2 is None:
                self._mean[layer], self._m2[layer] = mean, m2
            else:
                total = self._count[layer] + tokens
                delta = mean - old_mean
                self._mean[layer] = old_mean + delta * (tokens / total)
                self._m2[layer] = old_m2 + m2 + delta.square() * (self._count[layer] * tokens / total)
            self._count[layer] += tokens

    def finish(self) -> CalibrationStats:
        """The statistics of everything added. Raises DataError if nothing was, or if a unit is not finite."""
        means = [mean for mean in self._mean if mean is not None]
        m2s = [m2 for m2 in self._m2 if m2 is not None]
        if len(means) != len(self._mean) or len(set(self._count)) != 1:
            raise DataError("calibration saw no activations in some layer; is the hooked module part of the forward pass?")
        count = self._count[0]
        mu = torch.stack(means).cpu().numpy()
        sigma = np.sqrt(torch.stack(m2s).cpu().numpy() / count)
        if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise DataError("calibration met NaN or infinite activations; use --dtype fp32 or another model")
        return CalibrationStats(mu.astype(np.float32), sigma.astype(np.float32), count)


@dataclass(frozen=True)
class Standardizer:
    """z for the tensors of one device: one expression, used wherever z is needed."""

    mu: Float32[torch.Tensor, "layer unit"]
    scale: Float32[torch.Tensor, "layer unit"]

    @classmethod
    def of(cls, stats: CalibrationStats, *, eps: float, device: torch.device) -> "Standardizer":
        mu = torch.from_numpy(stats.mu).to(device)
        return cls(mu, torch.from_numpy(stats.sigma).to(device) + torch.tensor(eps, dtype=torch.float32, device=device))

    def z(self, layer: int, u: Float[torch.Tensor, "*sites unit"]) -> Float32[torch.Tensor, "*sites unit"]:
        """Standardised activations of one layer, float32 whatever the model's dtype."""
        return (u.to(torch.float32) - self.mu[layer]) / self.scale[layer]

    def z_at(self, layer: int, values: Float[torch.Tensor, " event"], units: torch.Tensor) -> Float32[torch.Tensor, " event"]:
        """The same for single values, each of the unit beside it; bit for bit what `z` gives for them."""
        return (values.to(torch.float32) - self.mu[layer][units]) / self.scale[layer][units]
