"""Resampling statistics: against numpy on clean input, by hand where ties or gaps decide."""

import numpy as np
import pytest
from scipy import stats

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.stats import (
    bootstrap_weights,
    exceedance_p,
    leave_one_out,
    t_interval,
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


def test_leave_one_out_leaves_every_sequence_out_once() -> None:
    assert leave_one_out(3).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    with pytest.raises(SchemaError, match="a jackknife needs sequences, got 0"):
        leave_one_out(0)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_t_interval_of_a_mean_is_the_textbook_s(level: float) -> None:
    """Leaving out one at a time gives a mean exactly its s / sqrt(n); resampling gives it within the noise of the draws."""
    data = np.random.default_rng(0).gamma(2.0, size=12)
    exact = stats.t.interval(level, 11, data.mean(), stats.sem(data))
    jackknife = leave_one_out(12)
    before = jackknife.copy()
    found = t_interval(data.mean(), jackknife @ data / 11, jackknife, level=level)
    assert (found.low, found.high) == (pytest.approx(exact[0], rel=1e-12), pytest.approx(exact[1], rel=1e-12))
    np.testing.assert_array_equal(jackknife, before)
    drawn = bootstrap_weights(12, reps=20_000, seed=1)
    found = t_interval(data.mean(), drawn @ data / 12, drawn, level=level)
    assert (found.low, found.high) == pytest.approx(exact, abs=0.02 * (exact[1] - exact[0]))


def test_t_interval_of_a_variance_is_that_of_its_pseudovalues_on_the_logarithm() -> None:
    """Miller 1974: the mean of the pseudo-values, n log v - (n - 1) log v without one, and their own standard error."""
    data = np.random.default_rng(1).normal(size=9)
    without = np.array([np.delete(data, place).var() for place in range(9)])
    pseudo = 9 * np.log(data.var()) - 8 * np.log(without)
    expected = np.exp(stats.t.interval(0.95, 8, pseudo.mean(), stats.sem(pseudo)))
    found = t_interval(data.var(), without, leave_one_out(9), scale="log")
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-12)
    assert found.low + found.high > 2 * data.var()  # the variance of few is too small


def test_t_interval_of_a_share_stays_within_its_range() -> None:
    correct = np.array([1.0, 0, 0, 0, 0, 0, 0, 0])
    weights = bootstrap_weights(8, reps=500, seed=2)
    plain, angle = (t_interval(0.125, weights @ correct / 8, weights, scale=scale) for scale in ("identity", "arcsine"))
    assert plain.low < 0.0 <= angle.low < 0.125 < angle.high < 1.0


def test_t_interval_works_by_condition_and_gives_plain_numbers_for_one() -> None:
    weights = bootstrap_weights(6, reps=300, seed=3)
    sums = np.random.default_rng(4).uniform(1.0, 2.0, size=(2, 3, 6))
    value, replicates = sums.mean(axis=-1), sums @ weights.T / 6
    found = t_interval(value, replicates, weights)
    one = t_interval(float(value[1, 2]), replicates[1, 2], weights)
    assert (found.low[1, 2], found.high[1, 2], found.n_valid[1, 2]) == (one.low, one.high, one.n_valid)
    assert [type(bound) for bound in (one.low, one.high, one.n_valid)] == [float, float, int]


def test_t_interval_needs_nearly_every_replicate() -> None:
    weights = bootstrap_weights(5, reps=100, seed=5)
    replicates = np.tile(weights @ np.arange(5.0) / 5, (4, 1))
    replicates[1, :5] = replicates[2, :6] = np.nan
    found = t_interval(np.array([2.0, 2.0, 2.0, np.nan]), replicates, weights)
    assert np.isfinite(found.low).tolist() == np.isfinite(found.high).tolist() == [True, True, False, False]
    assert found.n_valid.tolist() == [100, 95, 94, 0]
    assert found.low[1] == pytest.approx(found.low[0], abs=0.1)


def test_t_interval_on_the_logarithm_has_no_place_for_what_is_not_positive() -> None:
    weights = bootstrap_weights(5, reps=100, seed=5)
    often_zero = np.where(np.arange(100) < 6, 0.0, 1.0)
    assert np.isnan(t_interval(1.0, often_zero, weights, scale="log").low)
    assert np.isnan(t_interval(0.0, np.ones(100), weights, scale="log").low)


def test_t_interval_without_spread_is_the_value_and_of_one_sequence_is_not_available() -> None:
    weights = bootstrap_weights(4, reps=20, seed=6)
    found = t_interval(0.3, np.full(20, 0.3), weights)
    assert (found.low, found.high) == (0.3, 0.3)
    alone = t_interval(0.3, np.full(20, 0.3), np.ones((20, 1), dtype=np.int64))
    assert np.isnan([alone.low, alone.high]).all()


def test_t_interval_rejects_what_has_no_interval() -> None:
    weights = bootstrap_weights(3, reps=3, seed=0)
    with pytest.raises(SchemaError, match=r"between 0 and 1, got 95\.0"):
        t_interval(1.0, np.arange(3.0), weights, level=95.0)
    with pytest.raises(SchemaError, match="at least 1 replicate"):
        t_interval(np.zeros(2), np.empty((2, 0)), weights[:0])


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


def test_z_score_is_in_units_of_spread() -> None:
    assert z_score(0.5, 0.2, 0.1) == pytest.approx(3.0)
    np.testing.assert_allclose(z_score(np.array([1.0, -1.0]), np.zeros(2), np.array([0.5, 2.0])), [2.0, -0.5])


def test_z_score_without_spread_is_missing() -> None:
    assert np.isnan(z_score(0.5, 0.2, 0.0))
    np.testing.assert_array_equal(z_score(np.ones(2), np.zeros(2), np.array([0.0, np.nan])), [np.nan, np.nan])
