"""Resampling statistics: against numpy on clean input, by hand where ties or gaps decide."""

import numpy as np
import pytest

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.stats import (
    bootstrap_weights,
    exceedance_p,
    percentile_interval,
    two_sided_p,
    z_score,
)


def test_bootstrap_weights_are_counts_of_a_draw_with_replacement() -> None:
    weights = bootstrap_weights(40, reps=2000, seed=1337)
    assert weights.shape == (2000, 40) and weights.dtype == np.int64
    assert (weights.sum(axis=1) == 40).all() and weights.min() == 0
    # multinomial: mean 1, variance 1 - 1/n, covariance -1/n between two sequences
    np.testing.assert_allclose(weights.mean(axis=0), 1.0, atol=5 / np.sqrt(2000))
    assert weights.var() == pytest.approx(1 - 1 / 40, rel=0.02)
    assert np.corrcoef(weights[:, 0], weights[:, 1])[0, 1] == pytest.approx(-1 / 39, abs=4 / np.sqrt(2000))


def test_bootstrap_weights_depend_on_the_seed_only() -> None:
    np.testing.assert_array_equal(bootstrap_weights(7, reps=5, seed=3), bootstrap_weights(7, reps=5, seed=3))
    assert (bootstrap_weights(7, reps=5, seed=3) != bootstrap_weights(7, reps=5, seed=4)).any()


@pytest.mark.parametrize(("n_sequences", "reps"), [(0, 5), (5, 0)])
def test_bootstrap_weights_need_sequences_and_replicates(n_sequences: int, reps: int) -> None:
    with pytest.raises(SchemaError, match=f"sequences and replicates, got {n_sequences} and {reps}"):
        bootstrap_weights(n_sequences, reps=reps, seed=0)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_percentile_interval_is_numpy_s_percentile(level: float) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 501))
    before = values.copy()
    found = percentile_interval(values, level)
    tail = 50 * (1 - level)
    np.testing.assert_allclose(found.low, np.percentile(values, tail, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(found.high, np.percentile(values, 100 - tail, axis=-1), rtol=1e-12)
    np.testing.assert_array_equal(found.n_valid, np.full((3, 4), 501))
    np.testing.assert_array_equal(values, before)


def test_percentile_interval_leaves_nan_replicates_out() -> None:
    values = np.array([[np.nan, 4.0, 1.0, np.nan, 3.0], [2.0, np.nan, np.nan, np.nan, np.nan], [np.nan] * 5])
    found = percentile_interval(values, 0.5)
    np.testing.assert_allclose(found.low, [np.percentile([1, 3, 4], 25), 2.0, np.nan])
    np.testing.assert_allclose(found.high, [np.percentile([1, 3, 4], 75), 2.0, np.nan])
    np.testing.assert_array_equal(found.n_valid, [3, 1, 0])


def test_percentile_interval_of_one_metric_is_plain_numbers() -> None:
    found = percentile_interval(np.arange(101.0), 0.9)
    assert (found.low, found.high) == pytest.approx((5.0, 95.0)) and found.n_valid == 101
    assert [type(value) for value in (found.low, found.high, found.n_valid)] == [float, float, int]


def test_percentile_interval_rejects_what_has_no_percentiles() -> None:
    with pytest.raises(SchemaError, match=r"between 0 and 1, got 95\.0"):
        percentile_interval(np.arange(3.0), 95.0)
    with pytest.raises(SchemaError, match="at least 1 replicate"):
        percentile_interval(np.empty((2, 0)))


def test_exceedance_p_counts_ties_and_itself() -> None:
    draws = np.array([0.1, 0.2, 0.3, 0.3])
    assert exceedance_p(0.3, draws) == 3 / 5
    assert exceedance_p(0.31, draws) == 1 / 5  # never 0
    assert exceedance_p(0.0, draws) == 1.0
    np.testing.assert_array_equal(exceedance_p(np.array([0.3, 0.1]), np.stack([draws, draws])), [0.6, 1.0])


def test_exceedance_p_is_missing_where_anything_is_missing() -> None:
    draws = np.array([[0.1, 0.2], [0.1, np.nan], [0.1, 0.2]])
    np.testing.assert_array_equal(exceedance_p(np.array([0.2, 0.2, np.nan]), draws), [2 / 3, np.nan, np.nan])


def test_exceedance_p_is_uniform_if_the_observed_value_is_one_of_the_draws() -> None:
    values = np.random.default_rng(5).normal(size=(4000, 20))
    p = np.asarray(exceedance_p(values[:, 0], values[:, 1:]))
    np.testing.assert_allclose(np.bincount(np.rint(p * 20).astype(int))[1:] / 4000, 1 / 20, atol=0.015)


def test_two_sided_p_counts_both_tails_and_ties_that_differ_by_rounding() -> None:
    mean, draws = 0.3, np.array([0.1, 0.3, 0.5, 0.45])
    assert abs(0.1 - mean) < abs(0.5 - mean)  # equal on paper, not in floating point
    assert two_sided_p(0.5, draws, mean) == 3 / 5
    assert two_sided_p(0.1, draws, mean) == 3 / 5
    assert two_sided_p(0.55, draws, mean) == 1 / 5
    assert np.isnan(two_sided_p(0.5, draws, np.nan))


def test_z_score_is_in_units_of_spread() -> None:
    assert z_score(0.5, 0.2, 0.1) == pytest.approx(3.0)
    np.testing.assert_allclose(z_score(np.array([1.0, -1.0]), np.zeros(2), np.array([0.5, 2.0])), [2.0, -0.5])


def test_z_score_without_spread_is_missing() -> None:
    assert np.isnan(z_score(0.5, 0.2, 0.0))
    np.testing.assert_array_equal(z_score(np.ones(2), np.zeros(2), np.array([0.0, np.nan])), [np.nan, np.nan])
