"""Distribution of avalanche sizes as the share of avalanches at least as large, with the laws of T04 beside it (spec 24).

    observed      N(S >= s) / N at the distinct sizes s (events)
    fitted        P(S >= x | S >= xmin) N(S >= xmin) / N on x >= xmin:
      power law   zeta(alpha, x) / zeta(alpha, xmin)
      exponential e^(-lambda (x - xmin))
      log-normal  [1 - Phi(z(x - 1/2))] / [1 - Phi(z(xmin - 1/2))],  z(x) = (ln x - mu) / sigma
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import Float64, Int, Int64
from scipy import special

from avalanche_llm.metrics.discrete_laws import log_scaled_zeta

MAX_POINTS: Final = 140
"""Sizes that one curve keeps; more cannot be told apart on a log axis."""
FIT_POINTS: Final = 40
LOWEST_SHARE: Final = 0.2
"""A fitted law is drawn down to this share of a single avalanche; below it there is nothing to compare it with."""


def at_least(sizes: Int[np.ndarray, " avalanche"]) -> tuple[Int64[np.ndarray, " size"], Int64[np.ndarray, " size"]]:
    """Distinct sizes, rising, and how many avalanches are at least as large; thinned evenly in log size."""
    values, counts = np.unique(sizes.astype(np.int64), return_counts=True)
    above = counts[::-1].cumsum()[::-1]
    if len(values) > MAX_POINTS:
        wanted = np.geomspace(values[0], values[-1], MAX_POINTS)
        kept = np.unique(np.minimum(np.searchsorted(values, wanted), len(values) - 1))
        values, above = values[kept], above[kept]
    return values, above


def fitted(row: Mapping[Any, Any], n_all: int, largest: int) -> dict[str, list[list[float]]]:
    """The three laws of a T04 row as [sizes, shares]; empty where the row has no fit."""
    if not np.isfinite(row["alpha_powerlaw"]):
        return {}
    xmin, share = float(row["xmin"]), row["n_tail"] / n_all
    x = np.unique(np.geomspace(xmin, max(largest, xmin + 1), FIT_POINTS).round())
    log_tails = {
        "power law": _power_law(x, xmin, float(row["alpha_powerlaw"])),
        "exponential": -float(row["lambda_exponential"]) * (x - xmin),
        "log-normal": _log_normal(x, xmin, float(row["lognorm_mu"]), float(row["lognorm_sigma"])),
    }
    curves = {}
    for law, log_tail in log_tails.items():
        shares = share * np.exp(log_tail)
        seen = shares >= LOWEST_SHARE / n_all
        curves[law] = [x[seen].tolist(), [float(f"{value:.4g}") for value in shares[seen]]]
    return curves


def _power_law(x: Float64[np.ndarray, " size"], xmin: float, alpha: float) -> Float64[np.ndarray, " size"]:
    exponent = np.array(alpha)
    scaled = log_scaled_zeta(exponent, x) - log_scaled_zeta(exponent, np.array(xmin))
    return np.asarray(scaled - alpha * np.log(x / xmin))


def _log_normal(x: Float64[np.ndarray, " size"], xmin: float, mu: float, sigma: float) -> Float64[np.ndarray, " size"]:
    def log_beyond(size: np.ndarray) -> np.ndarray:
        return np.asarray(special.log_ndtr((mu - np.log(size - 0.5)) / sigma))

    return np.asarray(log_beyond(x) - log_beyond(np.array(xmin)))
