"""Susceptibility: independent counts, weighted moments against resampled data, its interval, and what is missing."""

import numpy as np
import pytest
from scipy import stats

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.metrics.susceptibility import (
    sequence_totals,
    susceptibility,
    susceptibility_bootstrap,
    susceptibility_interval,
)

EPS = 1e-8


def test_sequence_totals_do_not_wrap() -> None:
    counts = np.full((2, 3, 4, 5), 65535, dtype=np.uint16)
    np.testing.assert_array_equal(sequence_totals(counts), np.full((2, 3), 20 * 65535))


def test_susceptibility_is_population_variance_over_mean() -> None:
    totals = np.array([[1, 3], [4, 4]])
    np.testing.assert_allclose(susceptibility(totals, eps=0.0), [0.5, 0.0])
    np.testing.assert_allclose(susceptibility(totals, eps=0.0, ddof=1), [1.0, 0.0])
    np.testing.assert_allclose(susceptibility(totals, eps=2.0), [0.25, 0.0])


def test_susceptibility_of_independent_poisson_counts_is_one() -> None:
    counts = np.random.default_rng(0).poisson(0.3, (4000, 4, 8)).astype(np.uint16)
    chi = susceptibility(sequence_totals(counts), eps=EPS)
    assert chi == pytest.approx(1.0, abs=0.08)  # standard error sqrt(2 / 4000)


def test_susceptibility_of_a_silent_condition_is_nan() -> None:
    chi = susceptibility(np.array([[0, 0, 0], [0, 0, 3]]), eps=EPS)
    assert np.isnan(chi[0])
    assert chi[1] == pytest.approx(2.0)


def test_susceptibility_with_ddof_1_needs_two_sequences() -> None:
    assert np.isnan(susceptibility(np.array([5]), eps=EPS, ddof=1))
    assert susceptibility(np.array([5]), eps=EPS) == 0.0


def test_susceptibility_bootstrap_equals_resampling() -> None:
    totals = np.array([[3, 9, 4, 0, 7], [2, 2, 8, 1, 1]])
    draws = np.random.default_rng(1).integers(5, size=(40, 5))
    weights = np.array([np.bincount(draw, minlength=5) for draw in draws])
    resampled = totals[:, draws]
    for ddof in (0, 1):
        expected = resampled.var(axis=-1, ddof=ddof) / (resampled.mean(axis=-1) + 0.5)
        found = susceptibility_bootstrap(totals, weights, eps=0.5, ddof=ddof)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_susceptibility_bootstrap_does_not_cancel_on_a_large_mean() -> None:
    totals = 10**9 + np.array([0, 1, 2])
    found = susceptibility_bootstrap(totals, np.ones((1, 3), dtype=np.int64), eps=0.0)
    assert found[0] == pytest.approx((2 / 3) / (10**9 + 1), rel=1e-9)


def test_susceptibility_bootstrap_gives_nan_for_a_silent_replicate() -> None:
    found = susceptibility_bootstrap(np.array([0, 6]), np.array([[2, 0], [1, 1]]), eps=EPS)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(3.0)


def log_chi(totals: np.ndarray) -> tuple[float, float]:
    """log chi and its standard error by the delta method, from the data themselves."""
    cv = totals.std() / totals.mean()
    spread = stats.kurtosis(totals, fisher=False) - 1.0 - 2.0 * stats.skew(totals) * cv + cv**2
    return float(np.log(totals.var() / totals.mean())), float(np.sqrt(spread / len(totals)))


def test_interval_is_the_studentised_bootstrap_around_bonett_s_centre() -> None:
    """Every replicate from its own resampled data; Bonett (2006), equations 2 to 4, for the centre and the kurtosis."""
    totals = np.random.default_rng(2).negative_binomial(3, 0.05, 24)
    n, reps = len(totals), 600
    weights = bootstrap_weights(n, reps=reps, seed=3)
    value, _ = log_chi(totals)
    drawn = [log_chi(np.repeat(totals, weight)) for weight in weights]
    low_t, high_t = np.quantile([(found - value) / error for found, error in drawn], [0.025, 0.975])
    apart = totals - stats.trim_mean(totals, 1.0 / (2.0 * np.sqrt(n - 4)))
    kurtosis = n * (apart**4).sum() / np.square(n * totals.var())
    cv = totals.std() / totals.mean()
    error = np.sqrt((kurtosis - (n - 3) / n) / (n - 1) + (cv**2 - 2.0 * stats.skew(totals) * cv) / n)
    centre = value + np.log(n / (n - 1)) + np.log(n / (n - stats.norm.ppf(0.975)))
    found = susceptibility_interval(totals, weights, eps=0.0)
    np.testing.assert_allclose([found.low, found.high], np.exp([centre - high_t * error, centre - low_t * error]), rtol=1e-9)
    assert found.n_valid == reps


def test_interval_does_not_depend_on_the_unit_of_time_or_on_the_other_conditions() -> None:
    """chi of counts scaled by c is c times chi, and so are the bounds; conditions in one array are measured one by one."""
    totals = np.random.default_rng(4).poisson(20.0, (3, 32)) + 1
    weights = bootstrap_weights(32, reps=300, seed=5)
    together = susceptibility_interval(totals, weights, eps=0.0)
    scaled = susceptibility_interval(1000 * totals, weights, eps=0.0)
    np.testing.assert_allclose(np.asarray(scaled.low), 1000 * np.asarray(together.low), rtol=1e-9)
    for row, low, high in zip(totals, np.asarray(together.low), np.asarray(together.high), strict=True):
        alone = susceptibility_interval(row, weights, eps=0.0)
        np.testing.assert_allclose([alone.low, alone.high], [low, high], rtol=1e-12)


def test_interval_covers_where_sequences_differ_much_in_rate() -> None:
    """Gamma rates of shape 1, 64 sequences: t intervals of log chi cover 88 % here. 0.92 is the goal of docs/validity.md."""
    rng = np.random.default_rng(6)
    totals = rng.poisson(rng.gamma(1.0, 150.0, (600, 64)))
    found = susceptibility_interval(totals, bootstrap_weights(64, reps=500, seed=7), eps=EPS)
    assert 0.92 <= np.mean((np.asarray(found.low) <= 151.0) & (np.asarray(found.high) >= 151.0)) <= 0.98


@pytest.mark.parametrize("totals", [[4] * 9, [0] * 9, [0] * 8 + [9], [3]])
def test_there_is_no_interval_without_spread_in_nearly_every_replicate(totals: list[int]) -> None:
    found = susceptibility_interval(np.array(totals), bootstrap_weights(len(totals), reps=200, seed=8), eps=EPS)
    assert np.isnan([found.low, found.high]).all()
    assert int(found.n_valid) < 190


def test_there_is_no_interval_of_few_sequences() -> None:
    """Of few that hardly differ some replicates have next to no standard error, and T is large without bound."""
    totals = np.array([[90, 91, 110, 111, 97, 104, 93, 99], [20, 21, 29, 31, 25, 22, 23, 30]])
    for n, given in ((4, False), (7, False), (8, True)):
        found = susceptibility_interval(totals[:, :n], bootstrap_weights(n, reps=100, seed=1337), eps=EPS)
        assert np.isfinite(found.low).tolist() == np.isfinite(found.high).tolist() == [given, given]


def test_interval_refuses_what_is_no_level_and_no_replicates() -> None:
    totals = np.array([1, 2, 3, 4, 5, 6])
    with pytest.raises(SchemaError, match="between 0 and 1, got 95"):
        susceptibility_interval(totals, bootstrap_weights(6, reps=9, seed=1), eps=EPS, level=95.0)
    with pytest.raises(SchemaError, match="at least 1 replicate"):
        susceptibility_interval(totals, np.ones((0, 6), dtype=np.int64), eps=EPS)
