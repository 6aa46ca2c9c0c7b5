"""Likelihood of a text from sums a sequence, and paired differences over the same resampled sequences (spec 17).

With the summed negative log-likelihood nll[seq] (nats) and the predicted positions n[seq] of each sequence:

    nll_mean = sum nll / sum n            nats per token, sequences pooled
    ppl      = exp(nll_mean)              dimensionless

A difference is paired: a bootstrap replicate draws the same sequences on both sides, so what makes one text harder than
another cancels.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.stats import Interval, Scale, t_interval


@dataclass(frozen=True)
class SequenceNll:
    """Sums over the predicted positions of each sequence: nats, and how many positions there are."""

    nll_sum: Float64[np.ndarray, " seq"]
    n_predicted: Int64[np.ndarray, " seq"]

    def __post_init__(self) -> None:
        if self.nll_sum.shape != self.n_predicted.shape or not (self.n_predicted > 0).all():
            raise SchemaError(
                f"every sequence needs a sum and a predicted position, found {len(self.nll_sum)} sums and "
                f"{int((self.n_predicted > 0).sum())} sequences with a position; use longer windows"
            )


@dataclass(frozen=True)
class Sampled:
    """A number and its replicates under `weights`, in its own unit; NaN where it is not available. `scale` is its interval's."""

    value: float
    replicates: Float64[np.ndarray, " reps"]
    weights: Int64[np.ndarray, "reps seq"]
    scale: Scale = "identity"

    @property
    def interval(self) -> Interval:
        """95 % interval (`metrics.stats`)."""
        return t_interval(self.value, self.replicates, self.weights, scale=self.scale)

    def minus(self, reference: "Sampled") -> "Sampled":
        """The paired difference: both sides come from the same weights."""
        return Sampled(self.value - reference.value, self.replicates - reference.replicates, self.weights)

    def exponential(self) -> "Sampled":
        """A perplexity from nats per token, or a ratio of perplexities from their difference; its interval is the exponential."""
        return Sampled(float(np.exp(self.value)), np.exp(self.replicates), self.weights, "log")

    def unavailable(self) -> "Sampled":
        """The same without a value, where there is nothing to compare."""
        nan = float("nan")
        return Sampled(nan, np.full(self.replicates.shape, nan), self.weights, self.scale)


def mean_nll(nll: SequenceNll, weights: Int64[np.ndarray, "reps seq"]) -> Sampled:
    """nll_mean, nats per token: sums over sums, in every replicate too."""
    drawn = weights.astype(np.float64)
    replicates = (drawn @ nll.nll_sum) / (drawn @ nll.n_predicted)
    return Sampled(float(nll.nll_sum.sum() / nll.n_predicted.sum()), replicates, weights)
