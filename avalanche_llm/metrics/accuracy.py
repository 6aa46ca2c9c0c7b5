"""Accuracy over questions, and whether two gains answer the same questions alike (spec 17).

    accuracy = sum correct[question] / n        a replicate: w @ correct / n, the same w at every gain
    McNemar:   of the n01 + n10 questions that only one of two gains answers rightly, n01 ~ Binomial(n01 + n10, 1/2)
               under no difference; exact, two-sided

The choice with the largest score is the answer; of equal scores it is the first, and the tie is counted.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.stats import binomtest

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.likelihood import Sampled


@dataclass(frozen=True)
class Pick:
    """The place of the chosen choice, and whether another has the same score."""

    place: int
    tied: bool


@dataclass(frozen=True)
class Discordance:
    """Questions that one gain answers rightly and the other does not, and the exact McNemar p of that."""

    lost: int
    gained: int
    p: float

    @property
    def total(self) -> int:
        return self.lost + self.gained


def pick(scores: Float64[np.ndarray, " choice"]) -> Pick:
    """The first choice with the largest score. Raises SchemaError for a score that is not finite."""
    if not np.isfinite(scores).all():
        raise SchemaError(f"scores of choices must be finite, found {scores.tolist()}")
    return Pick(int(np.argmax(scores)), int((scores == scores.max()).sum()) > 1)


def margin(scores: Float64[np.ndarray, " choice"], answer: int) -> float:
    """Score of the right choice minus the mean of the wrong ones, in nats for log-probabilities."""
    return float(scores[answer] - np.delete(scores, answer).mean())


def accuracy(correct: Bool[np.ndarray, " question"], weights: Int64[np.ndarray, "reps question"]) -> Sampled:
    """Share of right answers with its bootstrap replicates; the interval is that of the arcsine root, so within 0 and 1."""
    replicates = weights @ correct.astype(np.float64) / len(correct)
    return Sampled(float(correct.mean()), replicates, weights, "arcsine")


def mcnemar(reference: Bool[np.ndarray, " question"], other: Bool[np.ndarray, " question"]) -> Discordance:
    """Exact two-sided McNemar test of `other` against `reference`, paired by question; p is 1 where none is discordant."""
    lost, gained = int((reference & ~other).sum()), int((~reference & other).sum())
    p = float(binomtest(gained, lost + gained, 0.5).pvalue) if lost + gained else 1.0
    return Discordance(lost, gained, p)


def chance_level(n_choices: Int64[np.ndarray, " question"]) -> float:
    """Expected accuracy of a uniform guess: the mean over questions of one over the number of choices."""
    return float((1.0 / n_choices).mean())
