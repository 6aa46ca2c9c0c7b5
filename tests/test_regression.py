"""Multistep regression: a subsampled branching process with known m, and activity without memory."""

import numpy as np
import pytest

from avalanche_llm.metrics.regression import multistep_regression, multistep_replicates
from avalanche_llm.metrics.stats import bootstrap_weights


def driven_branching(m: float, *, trials: int, times: int, seed: int, mean: float = 1e4) -> np.ndarray:
    """Stationary activity A[t + 1] ~ Poisson(m A[t] + h), the burn-in left out."""
    rng = np.random.default_rng(seed)
    burn_in = 500
    activity = np.empty((times + burn_in, trials), dtype=np.int64)
    activity[0] = int(mean)
    for time in range(1, times + burn_in):
        activity[time] = rng.poisson(m * activity[time - 1] + (1.0 - m) * mean)
    return activity[burn_in:].T.copy()


@pytest.fixture(scope="module")
def nearly_critical() -> np.ndarray:
    return driven_branching(0.99, trials=64, times=2000, seed=3)


@pytest.mark.parametrize(
    ("sampled", "one_step_at_most", "tolerance"),
    [(1e-2, 0.4, 0.002), (1e-3, 0.1, 0.003), (1e-4, 0.02, 0.015)],
)
def test_multistep_regression_recovers_m_where_one_step_fails(
    nearly_critical: np.ndarray, sampled: float, one_step_at_most: float, tolerance: float
) -> None:
    seen = np.random.default_rng(11).binomial(nearly_critical, sampled)
    found = multistep_regression(seen, k_max=100)
    assert found.reason == ""
    assert found.m == pytest.approx(0.99, abs=tolerance)
    assert found.slopes[0] < one_step_at_most
    assert found.b == pytest.approx(found.slopes[0] / found.m, abs=0.02)


def test_multistep_regression_of_full_sampling_is_the_one_step_slope(nearly_critical: np.ndarray) -> None:
    found = multistep_regression(nearly_critical, k_max=100)
    assert found.m == pytest.approx(0.99, abs=0.002)
    assert found.b == pytest.approx(1.0, abs=0.01)
    assert found.slopes[0] == pytest.approx(0.99, abs=0.002)
    assert found.slopes.shape == (100,)


def test_multistep_regression_recovers_a_short_memory() -> None:
    found = multistep_regression(driven_branching(0.5, trials=64, times=2000, seed=5), k_max=20)
    assert found.m == pytest.approx(0.5, abs=0.015)


def test_multistep_regression_ignores_a_profile_shared_by_all_trials() -> None:
    activity = driven_branching(0.9, trials=64, times=256, seed=6)
    profile = np.random.default_rng(0).integers(0, 100_000, size=256)
    profile[0] = 10**7  # the first token
    plain, profiled = (multistep_regression(values, k_max=20) for values in (activity, activity + profile))
    assert profiled.m == pytest.approx(plain.m, abs=1e-6)


def test_multistep_regression_slopes_are_least_squares() -> None:
    activity = driven_branching(0.8, trials=5, times=12, seed=7).astype(np.float64)
    found = multistep_regression(activity, k_max=3)
    deviation = activity - activity.mean(axis=0)
    for k in (1, 2, 3):
        x, y = deviation[:, :-k].ravel(), deviation[:, k:].ravel()
        assert found.slopes[k - 1] == pytest.approx(float(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]))


def test_multistep_regression_finds_no_m_in_independent_activity() -> None:
    rng = np.random.default_rng(8)
    fits = [multistep_regression(rng.poisson(3.0, (64, 256)), k_max=40) for _ in range(40)]
    found = [fit.reason for fit in fits].count("no lag correlates more than in independent activity")
    assert found >= 38
    assert np.isnan(fits[0].m)
    assert np.isfinite(fits[0].slopes).all()


def test_multistep_regression_does_not_call_alternation_a_decay() -> None:
    activity = np.random.default_rng(9).normal(size=(64, 1)) * (-1.0) ** np.arange(60)
    assert "do not decay from a positive value" in multistep_regression(activity, k_max=6).reason


@pytest.mark.parametrize("value", [0, 7])
def test_multistep_regression_of_silent_or_constant_activity_is_unavailable(value: int) -> None:
    found = multistep_regression(np.full((8, 50), value), k_max=10)
    assert found.reason == "activity does not vary between trials"
    assert np.isnan([found.m, found.b]).all()
    assert np.isnan(found.slopes).all()


def test_multistep_regression_of_a_short_series_is_unavailable() -> None:
    activity = np.random.default_rng(0).poisson(3.0, (8, 11))
    found = multistep_regression(activity, k_max=10)
    assert found.reason == "11 times for lags up to 10; 2 lags and k_max + 2 times needed"
    assert found.slopes.shape == (10,)
    assert multistep_regression(activity, k_max=1).reason.startswith("11 times for lags up to 1;")
    assert multistep_regression(activity, k_max=0).slopes.shape == (0,)


def test_multistep_regression_needs_two_trials() -> None:
    found = multistep_regression(np.arange(50).reshape(1, 50), k_max=5)
    assert found.reason == "1 trials, 2 needed to remove their mean"


def test_multistep_regression_leaves_its_input_alone() -> None:
    activity = np.random.default_rng(1).poisson(3.0, (8, 50)).astype(np.float64)
    before = activity.copy()
    multistep_regression(activity, k_max=5)
    np.testing.assert_array_equal(activity, before)


def test_multistep_replicates_are_regressions_of_the_drawn_trials() -> None:
    activity = np.random.default_rng(1).binomial(driven_branching(0.9, trials=30, times=200, seed=8), 1e-2)
    weights = bootstrap_weights(30, reps=25, seed=2)
    found = multistep_replicates(activity, weights, k_max=20)
    expected = [multistep_regression(np.repeat(activity, drawn, axis=0), k_max=20).m for drawn in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found.std() > 1e-3
    (whole,) = multistep_replicates(activity, np.ones((1, 30), dtype=np.int64), k_max=20)
    assert whole == pytest.approx(multistep_regression(activity, k_max=20).m, rel=1e-9)


@pytest.mark.parametrize(
    "activity",
    [
        np.random.default_rng(3).poisson(2.0, size=(30, 200)),  # no memory
        np.tile(np.arange(200), (30, 1)),  # the same in every trial
        np.tile([5, 0], (30, 100)) + np.random.default_rng(4).integers(0, 2, size=(30, 1)) * np.tile([3, -3], 100),
        np.random.default_rng(5).poisson(2.0, size=(30, 21)),  # too short for 20 lags
        np.ones((1, 200), dtype=np.int64),
    ],
    ids=["no memory", "no variation", "alternation", "short", "one trial"],
)
def test_multistep_replicates_have_no_m_where_the_regression_has_none(activity: np.ndarray) -> None:
    assert np.isnan(multistep_regression(activity, k_max=20).m)
    assert np.isnan(multistep_replicates(activity, np.ones((2, len(activity)), dtype=np.int64), k_max=20)).all()
