"""Accuracy, paired differences and McNemar's test against cases worked by hand."""

from math import comb

import numpy as np
import pytest

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.accuracy import accuracy, chance_level, margin, mcnemar, pick
from avalanche_llm.metrics.stats import bootstrap_weights


def answers(text: str) -> np.ndarray:
    return np.array([mark == "+" for mark in text])


def test_pick_takes_the_first_of_equal_scores_and_says_so() -> None:
    assert (pick(np.array([-3.0, -1.0, -2.0])).place, pick(np.array([-3.0, -1.0, -2.0])).tied) == (1, False)
    assert (pick(np.array([-3.0, -1.0, -1.0])).place, pick(np.array([-3.0, -1.0, -1.0])).tied) == (1, True)
    assert not pick(np.array([-3.0, -3.0, -1.0])).tied
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(SchemaError, match="scores of choices must be finite"):
            pick(np.array([0.0, bad]))


def test_margin_is_right_minus_mean_of_the_wrong_ones() -> None:
    assert margin(np.array([-1.0, -2.0, -6.0]), 1) == -2.0 + 3.5


def test_accuracy_by_hand() -> None:
    weights = np.array([[1, 1, 1, 1], [4, 0, 0, 0], [0, 2, 1, 1]])
    found = accuracy(answers("+--+"), weights)
    assert found.value == 0.5
    assert found.replicates.tolist() == [0.5, 1.0, 0.25]


def test_accuracy_interval_has_the_width_of_a_binomial() -> None:
    n = 400
    found = accuracy(np.arange(n) % 2 == 0, bootstrap_weights(n, reps=2000, seed=5)).interval
    assert float(found.high) - float(found.low) == pytest.approx(2 * 1.96 * np.sqrt(0.25 / n), rel=0.06)


def test_a_paired_difference_of_equal_answers_has_no_spread() -> None:
    weights = bootstrap_weights(6, reps=50, seed=1)
    correct = answers("++-+--")
    assert not accuracy(correct, weights).minus(accuracy(correct, weights)).replicates.any()


def test_mcnemar_by_hand() -> None:
    """One lost and five gained: P(at most 1 or at least 5 of 6) = 2 (C(6,0) + C(6,1)) / 64."""
    found = mcnemar(answers("++------"), answers("+-+++++-"))
    assert (found.lost, found.gained, found.total) == (1, 5, 6)
    assert found.p == pytest.approx(2 * (comb(6, 0) + comb(6, 1)) / 2**6)


def test_mcnemar_does_not_ask_which_side_is_which_and_knows_no_evidence() -> None:
    one, other = answers("+++-"), answers("+--+")
    assert mcnemar(one, other).p == mcnemar(other, one).p == 1.0
    assert (mcnemar(one, one).total, mcnemar(one, one).p) == (0, 1.0)
    assert mcnemar(answers("+"), answers("-")).p == 1.0


def test_chance_level_is_the_mean_of_one_over_the_choices() -> None:
    assert chance_level(np.array([4, 4, 3, 5])) == pytest.approx((0.25 + 0.25 + 1 / 3 + 0.2) / 4)
