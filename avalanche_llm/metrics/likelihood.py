"""Likelihood of a text from sums a sequence, and differences between two gains on the same sequences (spec 17).

With the summed negative log-likelihood nll[seq] (nats) and the predicted positions n[seq] of each sequence:

    nll_mean = sum nll / sum n            nats per token, sequences pooled
    ppl      = exp(nll_mean)              dimensionless

A difference is paired: a bootstrap replicate draws the same sequences at both gains, so what makes one text harder than
another cancels. The interval of a perplexity, or of a ratio of two, is the exponential of the one of nll_mean: percentiles
follow a monotone map.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.stats import Interval, percentile_interval


@dataclass(frozen=True)
class SequenceNll:
    """Sums over the predicted positions of each sequence: nats, and how many positions there are."""

    nll_sum: Float64[np.ndarray, " seq"]
    n_predicted: Int64[np.ndarray, " seq"]

    def __post_init__(self) -> None:
        if self.nll_sum.shape != self.n_predicted.shape or not (self.n_predicted > 0).all():
            raise SchemaError(
                f"every sequence needs a likelihood and a predicted position, found {len(self.nll_sum)} sums and "
                f"{int((self.n_predicted > 0).sum())} sequences with a position; use longer windows"
            )


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval, in its own unit."""

    value: float
    interval: Interval

    def exponential(self) -> "Estimate":
        """exp of the number and of both ends: a perplexity, or a ratio of perplexities."""
        low, high = np.exp(self.interval.low), np.exp(self.interval.high)
        return Estimate(float(np.exp(self.value)), Interval(float(low), float(high), self.interval.n_valid))


def mean_nll(nll: SequenceNll, weights: Int64[np.ndarray, "reps seq"]) -> Float64[np.ndarray, " reps"]:
    """nll_mean of every replicate, nats per token."""
    drawn = weights.astype(np.float64)
    pooled: np.ndarray = (drawn @ nll.nll_sum) / (drawn @ nll.n_predicted)
    return pooled


def estimate(value: float, replicates: Float64[np.ndarray, " reps"]) -> Estimate:
    """A number and the interval of its replicates."""
    return Estimate(value, percentile_interval(replicates))


def paired_difference(
    values: tuple[float, float], replicates: tuple[Float64[np.ndarray, " reps"], Float64[np.ndarray, " reps"]]
) -> Estimate:
    """Second minus first, replicate by replicate: both from the same weights. NaN where either is NaN."""
    first, second = replicates
    return estimate(values[1] - values[0], second - first)
