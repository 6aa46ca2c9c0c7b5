"""Tail fits: samples of known laws, the `powerlaw` library where it is right, exact sums where it is not."""

import warnings
from dataclasses import astuple
from typing import Any

import mpmath  # type: ignore[import-untyped]  # ships no types
import numpy as np
import pytest
from scipy import special

from avalanche_llm.metrics import discrete_laws, tails
from avalanche_llm.metrics.discrete_laws import SIGMA_MAX
from avalanche_llm.metrics.tails import TailFit, fit_tail, percentile_xmin

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own import warnings are not under test
    import powerlaw


def fit(sizes: np.ndarray, percentile: float = 0.0, min_tail_samples: int = 100) -> TailFit:
    return fit_tail(sizes, xmin_percentile=percentile, min_tail_samples=min_tail_samples)


def zeta_sample(alpha: float, n: int, seed: int) -> np.ndarray:
    sizes = np.random.default_rng(seed).zipf(alpha, n)
    return np.asarray(sizes[sizes < 10**9])  # numpy's largest draws overflow


def lognormal_sample(mu: float, sigma: float, n: int, seed: int) -> np.ndarray:
    sizes = np.rint(np.random.default_rng(seed).lognormal(mu, sigma, n)).astype(np.int64)
    return sizes[sizes > 0]


def borel_sample(n: int, seed: int) -> np.ndarray:
    """Sizes of critical Poisson branching trees up to 10^6: P(s) = e^-s s^(s - 1) / s!"""
    s = np.arange(1, 10**6 + 1, dtype=np.float64)
    cumulative = np.exp(-s + (s - 1.0) * np.log(s) - special.gammaln(s + 1.0)).cumsum()
    known = [0.367879, 0.135335, 0.074681, 0.048842]
    np.testing.assert_allclose(np.diff(cumulative[:4], prepend=0.0), known, atol=1e-6)
    drawn = np.random.default_rng(seed).random(n)
    return np.asarray(1 + np.searchsorted(cumulative, drawn[drawn < cumulative[-1]]))


def library_fit(sizes: np.ndarray, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = powerlaw.Fit(sizes, discrete=True, verbose=0, estimate_discrete=False, **options)
        _ = fitted.power_law, fitted.exponential, fitted.lognormal
        return fitted


@pytest.mark.parametrize(
    ("sizes", "percentile", "xmin"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], 0.8, 9),
        ([1, 2, 3, 4], 0.8, 4),  # 3.4 rounded up
        ([1, 1, 1, 1, 9], 0.0, 1),
        (range(1, 37), 0.8, 29),  # position 28 exactly, whatever 0.8 * 35 is in binary
    ],
)
def test_percentile_xmin_is_the_quantile_rounded_up(sizes: Any, percentile: float, xmin: int) -> None:
    assert percentile_xmin(np.array(sizes), percentile) == xmin


@pytest.mark.parametrize("alpha", [1.5, 2.5, 3.5])
def test_fit_tail_recovers_the_exponent_of_a_power_law(alpha: float) -> None:
    found = fit(zeta_sample(alpha, 50_000, seed=1))
    assert found.alpha_powerlaw == pytest.approx(alpha, abs=0.03)
    assert found.ks_alpha == pytest.approx(alpha, abs=0.1)
    assert found.llr_powerlaw_vs_exponential > 0
    assert found.vuong_p_exponential < 1e-3
    assert not (found.llr_powerlaw_vs_lognormal < 0 and found.vuong_p_lognormal < 0.05)


def test_fit_tail_is_conditional_on_xmin() -> None:
    sizes = zeta_sample(2.2, 200_000, seed=2)
    found = fit(sizes, percentile=0.97)
    assert found.xmin > 5
    assert found.n_tail == np.count_nonzero(sizes >= found.xmin)
    assert found.alpha_powerlaw == pytest.approx(2.2, abs=0.05)


def test_fit_tail_recovers_a_geometric_rate_and_prefers_it() -> None:
    sizes = np.random.default_rng(3).geometric(1.0 - np.exp(-0.2), 50_000)
    for percentile in (0.0, 0.8):
        found = fit(sizes, percentile)
        assert found.lambda_exponential == pytest.approx(0.2, abs=0.006)
        assert found.llr_powerlaw_vs_exponential < 0
        assert found.vuong_p_exponential < 1e-3


def test_fit_tail_recovers_a_lognormal_and_does_not_prefer_the_power_law() -> None:
    sizes = lognormal_sample(2.0, 0.8, 50_000, seed=4)
    for percentile in (0.0, 0.8):
        found = fit(sizes, percentile)
        assert found.lognorm_mu == pytest.approx(2.0, abs=0.2 if percentile else 0.02)
        assert found.lognorm_sigma == pytest.approx(0.8, abs=0.1 if percentile else 0.02)
        assert found.llr_powerlaw_vs_lognormal < 0
        assert found.vuong_p_lognormal < 1e-3


def test_fit_tail_of_critical_branching_sizes_has_exponent_three_halves() -> None:
    found = fit(borel_sample(200_000, seed=5), percentile=0.8)
    assert found.alpha_powerlaw == pytest.approx(1.5, abs=0.02)
    assert found.ks_alpha == pytest.approx(1.5, abs=0.02)
    assert found.llr_powerlaw_vs_exponential > 0


def test_fit_tail_ratios_are_differences_of_its_likelihoods() -> None:
    found = fit(zeta_sample(2.5, 5000, seed=6))
    assert found.llr_powerlaw_vs_lognormal == pytest.approx(found.ll_powerlaw - found.ll_lognormal, abs=1e-6)
    assert found.llr_powerlaw_vs_exponential == pytest.approx(
        found.ll_powerlaw - found.ll_exponential, abs=1e-6
    )


@pytest.mark.parametrize(
    ("sizes", "xmin"),
    [
        (zeta_sample(2.3, 20_000, seed=7), 1),
        (zeta_sample(2.3, 20_000, seed=7), 12),
        (lognormal_sample(2.0, 0.8, 20_000, seed=8), 10),
    ],
)
def test_fit_tail_agrees_with_the_powerlaw_library(sizes: np.ndarray, xmin: int) -> None:
    tail = sizes[(sizes >= xmin) & (sizes < 500)]  # below the floor of its probabilities
    found, other = fit(tail), library_fit(tail, xmin=xmin)
    assert found.xmin == xmin
    assert found.alpha_powerlaw == pytest.approx(other.power_law.alpha, abs=2e-4)
    assert found.ll_powerlaw == pytest.approx(other.power_law.loglikelihood, abs=1e-3)
    assert found.lambda_exponential == pytest.approx(other.exponential.Lambda, rel=1e-3)
    assert found.ll_exponential == pytest.approx(other.exponential.loglikelihood, abs=1e-2)
    assert found.ll_lognormal == pytest.approx(other.lognormal.loglikelihood, abs=1e-2)
    assert found.ll_lognormal > other.lognormal.loglikelihood - 1e-6
    assert found.lognorm_sigma == pytest.approx(other.lognormal.sigma, rel=1e-2)
    for law, ratio, p in (
        ("lognormal", found.llr_powerlaw_vs_lognormal, found.vuong_p_lognormal),
        ("exponential", found.llr_powerlaw_vs_exponential, found.vuong_p_exponential),
    ):
        expected = other.distribution_compare("power_law", law)
        assert ratio == pytest.approx(expected[0], abs=2e-2)
        if p < 1.0:  # 1 where the models cannot be told apart, which the library does not ask
            assert p == pytest.approx(expected[1], rel=0.02)


def test_fit_tail_finds_the_xmin_of_the_powerlaw_library() -> None:
    rng = np.random.default_rng(9)
    sizes = np.concatenate([zeta_sample(2.2, 1500, seed=9), rng.integers(1, 8, 3000)])
    found, other = fit(sizes, min_tail_samples=2), library_fit(sizes)
    assert found.ks_xmin == other.xmin
    assert found.ks_alpha == pytest.approx(other.power_law.alpha, abs=2e-4)


@pytest.mark.parametrize("seed", range(4))
def test_fit_tail_xmin_minimises_the_distance_over_all_integers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.concatenate([zeta_sample(2.2, 300, seed=seed), rng.integers(1, 8, 300)])
    sizes = sizes[sizes < 2000]
    distances = {}
    for xmin in np.unique(sizes)[:-1]:
        tail = sizes[sizes >= xmin]
        if len(tail) < 20:
            break
        alpha = fit(tail, min_tail_samples=1).alpha_powerlaw
        x = np.arange(xmin, tail.max() + 2)
        expected = special.zeta(alpha, x) / special.zeta(alpha, float(xmin))
        seen = (tail[None, :] >= x[:, None]).mean(axis=1)
        distances[float(xmin)] = np.abs(expected - seen).max()
    assert fit(sizes, min_tail_samples=20).ks_xmin == min(distances, key=lambda xmin: distances[xmin])


def test_fit_tail_thins_the_candidates_of_a_wide_sample() -> None:
    sizes = np.concatenate([zeta_sample(1.6, 30_000, seed=10), np.full(3000, 3)])
    assert len(np.unique(sizes)) > tails.MAX_KS_CANDIDATES
    found = fit(sizes)
    assert found.ks_xmin > 3
    assert found.ks_alpha == pytest.approx(1.6, abs=0.03)


@pytest.mark.parametrize("q", [1.0, 3.0, 40.0, 1000.0])
@pytest.mark.parametrize("alpha", [1.01, 1.5, 2.0, 7.0, 60.0])
def test_log_scaled_zeta_is_the_hurwitz_zeta_function(alpha: float, q: float) -> None:
    found = float(discrete_laws.log_scaled_zeta(np.array(alpha), np.array(q)))
    assert found == pytest.approx(
        float(np.log(special.zeta(alpha, q)) + alpha * np.log(q)), abs=2e-13, rel=1e-12
    )


def test_log_scaled_zeta_holds_where_the_plain_one_underflows() -> None:
    alpha, q = 2000.0, 1000.0
    assert special.zeta(alpha, q) == 0.0
    direct = float(np.log(np.exp(-alpha * np.log1p(np.arange(2000) / q)).sum()))
    assert float(discrete_laws.log_scaled_zeta(np.array(alpha), np.array(q))) == pytest.approx(direct, rel=1e-12)


@pytest.mark.parametrize(
    "sizes",
    [
        np.append(np.ones(500, dtype=np.int64), 4 * 10**8),
        np.append(np.full(500, 10**6), 10**6 + 1),
        np.random.default_rng(0).integers(1, 4 * 10**8, 500),
        10**5 + np.random.default_rng(0).poisson(3.0, 500),
        np.array([1] * 999 + [2]),
    ],
)
def test_fit_tail_stays_finite_on_awkward_samples(sizes: np.ndarray) -> None:
    found = fit(sizes, min_tail_samples=2)
    assert found.reason == ""
    assert np.isfinite(astuple(found)[:-1]).all()
    assert max(found.ll_powerlaw, found.ll_exponential, found.ll_lognormal) < 0


def test_fit_tail_of_a_thin_tail_at_large_sizes_is_finite() -> None:
    sizes = 10**6 + np.random.default_rng(11).geometric(0.01, 5000)
    found = fit(sizes)
    assert np.isfinite(astuple(found)[:-1]).all()
    assert found.alpha_powerlaw > 5000
    assert found.lambda_exponential == pytest.approx(0.01, rel=0.05)
    assert found.ll_lognormal <= found.ll_exponential + 10


@pytest.mark.parametrize(
    ("mu", "sigma", "xmin"), [(2.0, 0.8, 1), (2.0, 0.8, 30), (-300.0, 15.0, 4), (7.0, 0.05, 900)]
)
def test_lognormal_log_pmf_sums_to_one_on_its_support(mu: float, sigma: float, xmin: int) -> None:
    x = np.arange(xmin, 10**6, dtype=np.float64)
    log_p = discrete_laws.lognormal_log_pmf(x, xmin, mu, sigma)
    beyond = special.log_ndtr((mu - np.log(x[-1] + 0.5)) / sigma) - special.log_ndtr(
        (mu - np.log(xmin - 0.5)) / sigma
    )
    assert np.exp(log_p).sum() + np.exp(beyond) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("lower", "width"),
    [(-40.0, 0.5), (30.0, 2.0), (-0.3, 0.7), (5.0, 1e-4), (-8.0, 1e-9), (0.0, 1e-3), (60.0, 1e-5)],
)
def test_log_normal_mass_holds_in_far_tails_and_narrow_bins(lower: float, width: float) -> None:
    with mpmath.workdps(900):  # erfc differs from 2 only there
        a, b = mpmath.mpf(lower), mpmath.mpf(lower) + mpmath.mpf(width)
        exact = float(mpmath.log((mpmath.erfc(a / mpmath.sqrt(2)) - mpmath.erfc(b / mpmath.sqrt(2))) / 2))
    assert float(discrete_laws.log_normal_mass(np.array([lower]), np.array([width]))[0]) == pytest.approx(
        exact, rel=1e-10
    )


def test_vuong_weighs_distinct_sizes_by_their_number() -> None:
    difference, n = np.array([2.0, -1.0, 3.0]), np.array([4.0, 1.0, 2.0])
    every = np.repeat(difference, n.astype(int))
    ratio, z, p = tails._vuong(difference, n)
    assert ratio == pytest.approx(every.sum())
    assert z == pytest.approx(every.sum() / (np.sqrt(7) * every.std()))
    assert p == pytest.approx(special.erfc(abs(z) / np.sqrt(2)))


def test_vuong_does_not_separate_models_that_coincide() -> None:
    """A tiny constant difference has no variance: the bare statistic would be infinite."""
    assert tails._vuong(np.array([-0.01, -0.01]), np.array([300.0, 100.0]))[1:] == (0.0, 1.0)


def test_fit_tail_cannot_tell_a_lognormal_without_curvature_from_a_power_law() -> None:
    quantiles = (np.arange(2000) + 0.5) / 2000
    sizes = np.floor(50.0 * quantiles ** (-1.0 / 0.8)).astype(np.int64)  # alpha = 1.8, without noise
    found = fit(np.append(sizes, [10**7] * 3))  # and a little too much far out: curvature of the wrong sign
    assert found.alpha_powerlaw == pytest.approx(1.8, abs=0.02)
    assert found.lognorm_sigma == pytest.approx(SIGMA_MAX)
    assert abs(found.llr_powerlaw_vs_lognormal) < 0.5
    assert (found.vuong_z_lognormal, found.vuong_p_lognormal) == (0.0, 1.0)
    assert found.vuong_p_exponential < 1e-3


def test_fit_tail_is_deterministic_and_blind_to_order() -> None:
    sizes = zeta_sample(2.1, 3000, seed=12)
    before = sizes.copy()
    shuffled = np.random.default_rng(0).permutation(sizes)
    assert fit(sizes, 0.8) == fit(shuffled, 0.8)
    np.testing.assert_array_equal(sizes, before)


def test_fit_tail_without_avalanches_is_unavailable() -> None:
    found = fit(np.array([], dtype=np.int64), 0.8)
    assert (found.reason, found.n_tail) == ("no avalanches", 0)
    assert np.isnan(found.xmin)


def test_fit_tail_needs_enough_samples() -> None:
    found = fit(np.arange(1, 101), percentile=0.8)
    assert found.reason == "20 avalanches of size 81 or more, 100 needed"
    assert (found.xmin, found.n_tail) == (81.0, 20)
    assert np.isnan(astuple(found)[2:-1]).all()


def test_fit_tail_of_a_constant_tail_is_unavailable() -> None:
    found = fit(np.full(500, 3), percentile=0.8)
    assert found.reason == "all 500 avalanches of size 3 or more have size 3"
    assert (found.xmin, found.n_tail) == (3.0, 500)
    assert np.isnan(found.ll_powerlaw)
