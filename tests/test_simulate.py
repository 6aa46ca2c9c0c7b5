"""Simulators: their truths against long simulations, against closed forms, and against the functions that measure the model."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy import stats

from avalanche_llm.errors import DataError
from avalanche_llm.metrics.avalanches import AvalancheTable, avalanches
from avalanche_llm.metrics.branching import branching, branching_interval, branching_sums
from avalanche_llm.metrics.density import PERCOLATION_THRESHOLD, density
from avalanche_llm.metrics.regression import multistep_regression
from avalanche_llm.metrics.signatures import crackling
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.metrics.susceptibility import sequence_totals, susceptibility, susceptibility_bootstrap
from avalanche_llm.metrics.tails import fit_tail
from avalanche_llm.raster.build import occupancy
from avalanche_llm.raster.cc import label_components
from avalanche_llm.simulate.cascade import branching_process, branching_trees
from avalanche_llm.simulate.directed import MAX_LAYERS, directed_percolation
from avalanche_llm.simulate.drive import latent_drive
from avalanche_llm.simulate.lattice import independent_lattice, poisson_counts, site_percolation
from avalanche_llm.simulate.sizes import lognormal_sizes, planted_growth, power_law_sizes
from avalanche_llm.simulate.truth import Shape, as_counts
from avalanche_llm.validity.branching_study import RATIOS

RASTERS = {
    "lattice": partial(independent_lattice, p=[0.05, 0.1, 0.2, 0.3, 0.4, 0.1]),
    "percolation": partial(site_percolation, adjacency_id="ADJ_8N"),
    "poisson": partial(poisson_counts, rate=0.3),
    "drive of a token": partial(latent_drive, rate=0.3, gamma_shape=1.0, persistence=0.0),
    "smooth drive": partial(latent_drive, rate=0.3, gamma_shape=2.0, persistence=0.8),
    "banded drive": partial(latent_drive, rate=0.3, gamma_shape=1.0, persistence=0.6, bands=3),
    "drive of a sequence": partial(latent_drive, rate=0.3, gamma_shape=4.0, persistence=1.0),
    "directed percolation": partial(directed_percolation, p_dp=0.5, source=0.02, initial=0.2),
    "branching": partial(branching_process, m=0.9, immigration=0.02, seen=1.0),
    "subsampled branching": partial(branching_process, m=0.9, immigration=0.2, seen=0.2),
}


def components(counts: np.ndarray) -> AvalancheTable:
    return avalanches(occupancy(counts), counts, adjacency_id="ADJ_4N", max_per_sequence=20_000)


@pytest.mark.parametrize("name", RASTERS)
def test_simulators_measure_as_their_truth(name: str) -> None:
    """4000 sequences; every ratio and chi within 4.5 bootstrap standard errors of its exact value."""
    simulated = RASTERS[name](Shape(4000, 6, 24), seed=1)
    weights = bootstrap_weights(4000, reps=200, seed=2)
    sums, totals = branching_sums(occupancy(simulated.counts)), sequence_totals(simulated.counts)
    found, replicates = branching(sums), branching(sums, weights)
    for measure in RATIOS:
        error = getattr(replicates, measure).std()
        assert getattr(found, measure) == pytest.approx(getattr(simulated.truth, measure), abs=4.5 * error), measure
    error = susceptibility_bootstrap(totals, weights, eps=0.0).std()
    assert susceptibility(totals, eps=0.0) == pytest.approx(simulated.truth.chi, abs=4.5 * error)


@pytest.mark.parametrize("name", RASTERS)
def test_simulators_depend_on_their_seed_only(name: str) -> None:
    first, again, other = (RASTERS[name](Shape(3, 6, 20), seed=seed) for seed in (5, 5, 6))
    assert first.counts.shape == (3, 6, 20)
    assert first.counts.dtype == np.uint16
    np.testing.assert_array_equal(first.counts, again.counts)
    assert (first.counts != other.counts).any()
    np.testing.assert_equal(vars(first.truth), vars(other.truth))


def test_independent_lattice_has_the_closed_form_of_its_density() -> None:
    truth = independent_lattice(Shape(1, 5, 16), 0.3, seed=0).truth
    assert truth.b_time == pytest.approx(0.3 * (1 - 1 / 16))
    assert truth.b_depth == pytest.approx(0.3 * (1 - 1 / 5))
    assert truth.delta_b_tot == pytest.approx(0.0, abs=1e-12)
    assert truth.chi == pytest.approx(0.7)
    assert not truth.propagates


def test_site_percolation_has_the_clusters_of_the_critical_lattice() -> None:
    raster = site_percolation(Shape(2, 700, 700), "ADJ_4N", seed=3)
    x = occupancy(raster.counts)
    per_site = label_components(x, "ADJ_4N").n / x.size
    assert per_site == pytest.approx(0.0275981, abs=0.0008)  # Ziff, Finch and Adamchik 1997; open edges add a little
    below = (np.random.default_rng(0).random(x.shape) < 0.95 * PERCOLATION_THRESHOLD["ADJ_4N"]).astype(np.uint8)
    shares = [
        density(one, one, avalanches(one, one, adjacency_id="ADJ_4N", max_per_sequence=10**6)).largest_share
        for one in (x, below)
    ]
    assert shares[0] > 0.15 > 5 * shares[1]  # the largest cluster is a fractal at p_c and small below


def test_latent_drive_of_one_token_is_one_poisson_mixture() -> None:
    """Without persistence only the same token is shared: delta_b_depth = (E q^2 - p^2) (1 - 1/T) (L - 1) / (L p)."""
    truth = latent_drive(Shape(1, 4, 10), 0.5, gamma_shape=1.0, persistence=0.0, seed=0).truth
    p, q2 = 1 - 1 / 1.5, 1 - 2 / 1.5 + 1 / 2.0
    assert truth.delta_b_time == pytest.approx(0.0, abs=1e-12)
    assert truth.delta_b_depth == pytest.approx((q2 - p * p) * 0.9 * 3 / (4 * p))
    assert np.isnan(truth.m)


def test_latent_drive_of_a_sequence_is_constant_in_it() -> None:
    counts = latent_drive(Shape(200, 4, 400), 2.0, gamma_shape=1.0, persistence=1.0, seed=4).counts
    halves = counts.reshape(200, 4, 2, 200).mean(axis=(1, 3))
    assert np.corrcoef(halves.T)[0, 1] > 0.98


def test_latent_drive_refuses_bands_of_unequal_size() -> None:
    with pytest.raises(DataError, match="3 bands do not divide 8 layers"):
        latent_drive(Shape(1, 8, 4), 0.3, gamma_shape=1.0, persistence=0.5, bands=3, seed=0)


def test_directed_percolation_passes_an_event_on_with_its_probability() -> None:
    p_dp, source = 0.6, 0.05
    x = directed_percolation(Shape(4000, 5, 20), p_dp, source=source, initial=0.3, seed=6).counts.astype(bool)
    active = x[:, :, :-1].copy()
    active[:, 1:] |= x[:, :-1, :-1]
    after = x[:, :, 1:]
    assert after[active].mean() == pytest.approx(1 - (1 - p_dp) * (1 - source), abs=0.005)
    assert after[~active].mean() == pytest.approx(source, abs=0.005)


def test_directed_percolation_refuses_more_states_than_fit() -> None:
    with pytest.raises(DataError, match=r"11 layers need 4\^11 transition probabilities; at most 10 fit"):
        directed_percolation(Shape(1, MAX_LAYERS + 1, 4), 0.5, source=0.0, initial=0.5, seed=0)


@pytest.mark.parametrize(("seen", "one_step_at_most"), [(0.1, 0.75), (0.01, 0.2)])
def test_branching_process_keeps_its_m_under_subsampling_where_one_step_fails(seen: float, one_step_at_most: float) -> None:
    simulated = branching_process(Shape(64, 2, 1000), 0.98, immigration=20.0, seen=seen, seed=7)
    activity = simulated.counts.sum(axis=1, dtype=np.int64)
    found = multistep_regression(activity, k_max=40)
    assert simulated.truth.m == 0.98
    assert found.m == pytest.approx(0.98, abs=0.005)
    assert found.slopes[0] < one_step_at_most


def test_smooth_drive_has_an_m_although_nothing_branches() -> None:
    simulated = latent_drive(Shape(64, 8, 400), 0.3, gamma_shape=1.0, persistence=0.9, seed=8)
    found = multistep_regression(simulated.counts.sum(axis=1, dtype=np.int64), k_max=20)
    assert simulated.truth.m == 0.9
    assert found.m == pytest.approx(0.9, abs=0.02)
    assert not simulated.truth.propagates


def test_branching_trees_of_a_subcritical_process_have_the_known_mean_size() -> None:
    trees = branching_trees(Shape(100, 5, 500), 0.5, seed=9)
    found = components(trees.counts)
    whole = found.t_max < 499
    assert found.size[whole].mean() == pytest.approx(1 / (1 - 0.5), abs=0.05)
    start = np.bincount(found.size[whole], minlength=4)[1:4] / whole.sum()
    np.testing.assert_allclose(start, [np.exp(-0.5), 0.5 * np.exp(-1.0), 0.375 * np.exp(-1.5)], atol=0.01)  # Borel(1/2)
    assert not trees.counts[:, 1::2].any()


def test_branching_trees_grow_with_their_generations_as_the_generating_function_says() -> None:
    trees = branching_trees(Shape(200, 7, 600), 1.0, seed=10)
    found = components(trees.counts)
    for duration in (1, 2, 3, 5, 8, 13):
        size = found.size[found.span_tokens == duration]
        error = size.std() / np.sqrt(len(size))
        assert size.mean() == pytest.approx(trees.mean_size[duration - 1], abs=4 * error + 1e-12), duration
    for duration in (1, 3, 13, 40):
        size = found.size[found.span_tokens == duration]
        error = size.std() / np.sqrt(len(size))
        assert size.mean() == pytest.approx(trees.component_size[duration - 1], abs=4 * error + 1e-12), duration
    asymptotic = np.diff(np.log(branching_trees(Shape(1, 1, 2000), 1.0, seed=0).mean_size[[999, 1999]])) / np.log(2.0)
    assert asymptotic == pytest.approx(2.0, abs=0.01)


def test_components_of_trees_include_those_that_the_end_of_the_raster_cuts() -> None:
    """Three tokens, by hand: span 2 is a tree of two generations from token 0, or one from there that goes on is of span 3."""
    trees = branching_trees(Shape(200_000, 1, 3), 1.0, seed=21)
    found = components(trees.counts)
    for duration in (1, 2, 3):
        size = found.size[found.span_tokens == duration]
        error = size.std() / np.sqrt(len(size))
        assert size.mean() == pytest.approx(trees.component_size[duration - 1], abs=4 * error + 1e-12), duration
    alive = 1.0 - np.exp(-1.0) - np.exp(-1.0) * np.expm1(np.exp(-1.0))
    gone = np.exp(-1.0) + np.exp(-1.0) * np.expm1(np.exp(-1.0)) * trees.mean_size[1]
    assert trees.component_size[2] == pytest.approx((3.0 - gone) / alive)  # only from token 0, alive at token 2
    assert trees.component_size[2] > 3.0


@pytest.mark.parametrize("alpha", [2.0, 2.5])
def test_power_law_sizes_are_isolated_and_of_their_exponent(alpha: float) -> None:
    planted = power_law_sizes(Shape(40, 9, 101), alpha, seed=11)
    found = components(planted.counts)
    assert len(found) == 40 * 5 * 51
    assert found.n_sites.max() == 1
    fit = fit_tail(found.size, xmin_percentile=0.0, min_tail_samples=100)
    assert fit.alpha_powerlaw == pytest.approx(alpha, abs=0.04)


def test_lognormal_sizes_have_their_parameters_and_leave_zeros_empty() -> None:
    planted = lognormal_sizes(Shape(60, 8, 100), 0.5, 1.0, seed=12)
    found = components(planted.counts)
    assert len(found) / (60 * 4 * 50) == pytest.approx(stats.norm.cdf(0.5 - np.log(0.5)), abs=0.015)  # rounded up to 1
    fit = fit_tail(found.size, xmin_percentile=0.0, min_tail_samples=100)
    assert (fit.lognorm_mu, fit.lognorm_sigma) == pytest.approx((planted.mu, planted.sigma), abs=0.06)


def test_planted_growth_is_made_of_runs_that_grow_as_asked() -> None:
    planted = planted_growth(Shape(400, 9, 200), 1.7, longest=20, spread=2.0, seed=13)
    found = components(planted.counts)
    np.testing.assert_array_equal(found.n_sites, found.span_tokens)
    assert found.span_layers.max() == 1
    for duration in (1, 4, 10):
        size = found.size[found.span_tokens == duration]
        error = size.std() / np.sqrt(len(size))
        assert size.mean() == pytest.approx(2.0 * duration**1.7, abs=4 * error)
    limits: dict[str, Any] = {"d_min": 3, "d_max": 20, "min_points": 8, "ci_width_max": 0.5}
    fit = crackling(found.size, found.span_tokens, found.seq_id, n_sequences=400, **limits)
    assert fit.gamma == pytest.approx(planted.gamma, abs=0.03)


def test_delta_b_interval_calls_a_latent_drive_structure_and_an_independent_lattice_not() -> None:
    shape, weights = Shape(64, 8, 64), bootstrap_weights(64, reps=300, seed=1337)
    lows = []
    for simulated in (
        latent_drive(shape, 0.3, gamma_shape=1.0, persistence=0.8, seed=14),
        independent_lattice(shape, 0.2, seed=14),
    ):
        sums = branching_sums(occupancy(simulated.counts))
        lows.append(branching_interval("delta_b_tot", sums, branching(sums), branching(sums, weights), weights).low)
    assert lows[0] > 0.1
    assert lows[1] < 0.0


def test_as_counts_refuses_what_a_raster_cannot_hold() -> None:
    assert as_counts(np.full((1, 1, 1), 65535)).dtype == np.uint16
    with pytest.raises(DataError, match="a simulated site has 65536 events, at most 65535 fit"):
        as_counts(np.full((1, 1, 1), 65536))


def test_truth_adds_its_parts() -> None:
    truth = replace(independent_lattice(Shape(1, 2, 3), 0.5, seed=0).truth, b_time=1.0, b_depth=2.0, delta_b_time=0.25)
    assert truth.b_tot == 3.0
    assert truth.delta_b_tot == pytest.approx(0.25)
