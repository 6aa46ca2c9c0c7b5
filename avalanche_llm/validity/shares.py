"""A share of repetitions with its exact binomial interval (Clopper and Pearson 1934)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy import stats


@dataclass(frozen=True)
class Share:
    """hits / n, dimensionless, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def share(hits: Bool[np.ndarray, " repetition"]) -> Share:
    """The share of repetitions that are hits; there must be one repetition at least."""
    found, n = int(hits.sum()), len(hits)
    interval = stats.binomtest(found, n).proportion_ci(0.95, method="exact")
    return Share(found / n, float(interval.low), float(interval.high), n)
