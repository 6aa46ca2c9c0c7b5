"""Branching: plain loops and full enumerations of both nulls as second opinions, and independent sites."""

import itertools
from dataclasses import fields

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.branching import (
    Branching,
    BranchingSums,
    branching,
    branching_interval,
    branching_sums,
    excess_over_draw,
    held,
)
from avalanche_llm.metrics.stats import bootstrap_weights, leave_one_out, t_interval

RASTERS = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6)),
    elements=st.sampled_from([0, 0, 1, 1]),
)


def random_raster(shape: tuple[int, ...], p: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < p).astype(np.uint8)


def pairs(layers: np.ndarray) -> tuple[int, int]:
    """Time and depth pairs of one sequence [layer, token], by the definition."""
    n_layers, n_tokens = layers.shape
    time = sum(layers[i, t] * layers[i, t + 1] for i in range(n_layers) for t in range(n_tokens - 1))
    depth = sum(layers[i, t] * layers[i + 1, t] for i in range(n_layers - 1) for t in range(n_tokens))
    return int(time), int(depth)


def shifted_pairs(layers: np.ndarray) -> np.ndarray:
    """Time and depth pairs under every choice of non-zero shifts; the observed ones if there is none."""
    n_layers, n_tokens = layers.shape
    shifts = itertools.product(range(1, n_tokens) if n_tokens > 1 else [0], repeat=n_layers)
    return np.array(
        [pairs(np.stack([np.roll(*row) for row in zip(layers, by, strict=True)])) for by in shifts]
    )


def permuted_pairs(layers: np.ndarray) -> np.ndarray:
    """Time and depth pairs under every choice of one permutation a layer."""
    orders = itertools.product(itertools.permutations(range(layers.shape[1])), repeat=layers.shape[0])
    return np.array(
        [pairs(np.stack([row[list(by)] for row, by in zip(layers, order, strict=True)])) for order in orders]
    )


def values(result: Branching | BranchingSums) -> dict[str, np.ndarray]:
    return {field.name: getattr(result, field.name) for field in fields(result)}


@settings(max_examples=60)
@given(RASTERS)
def test_branching_sums_count_what_a_plain_loop_counts(occupancy: np.ndarray) -> None:
    before = occupancy.copy()
    sums = branching_sums(occupancy)
    expected = np.array([pairs(sequence) for sequence in occupancy])
    np.testing.assert_array_equal(sums.n_sites, occupancy.sum(axis=(1, 2), dtype=np.int64))
    np.testing.assert_array_equal(sums.time_pairs, expected[:, 0])
    np.testing.assert_array_equal(sums.depth_pairs, expected[:, 1])
    np.testing.assert_array_equal(occupancy, before)


@pytest.mark.parametrize(("n_layers", "n_tokens"), [(1, 1), (3, 1), (3, 2), (1, 5), (2, 4), (3, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_permutation_expectation_is_the_mean_over_all_permutations(
    n_layers: int, n_tokens: int, seed: int
) -> None:
    occupancy = random_raster((1, n_layers, n_tokens), 0.6, seed)
    sums = branching_sums(occupancy)
    time, depth = permuted_pairs(occupancy[0]).mean(axis=0)
    assert sums.perm_time_pairs[0] == pytest.approx(time, abs=1e-12)
    assert sums.perm_depth_pairs[0] == pytest.approx(depth, abs=1e-12)


@pytest.mark.parametrize(("n_layers", "n_tokens"), [(1, 1), (3, 1), (3, 2), (1, 5), (2, 7), (3, 3), (4, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_shift_expectation_is_the_mean_over_all_shifts(n_layers: int, n_tokens: int, seed: int) -> None:
    occupancy = random_raster((1, n_layers, n_tokens), 0.6, seed)
    sums = branching_sums(occupancy)
    time, depth = shifted_pairs(occupancy[0]).mean(axis=0)
    assert sums.shift_time_pairs[0] == pytest.approx(time, abs=1e-12)
    assert sums.shift_depth_pairs[0] == pytest.approx(depth, abs=1e-12)


def test_branching_of_one_token_has_no_excess_over_its_nulls() -> None:
    found = branching(branching_sums(np.array([[[1], [1], [0]]], dtype=np.uint8)))
    assert found.b_time == 0.0
    assert found.b_depth == found.b_depth_perm == found.b_depth_shift == 0.5
    assert found.delta_b_tot == found.delta_b_tot_shift == 0.0


def test_branching_of_a_full_raster_has_no_excess_over_its_nulls() -> None:
    found = branching(branching_sums(np.ones((2, 3, 4), dtype=np.uint8)))
    assert found.b_time == found.b_time_perm == found.b_time_shift == 3 / 4
    assert found.b_depth == found.b_depth_perm == 2 / 3
    assert found.b_depth_shift == pytest.approx(2 / 3)
    assert found.delta_b_tot == 0.0 and found.delta_b_tot_shift == pytest.approx(0.0, abs=1e-15)


def test_branching_pools_sequences_and_does_not_average_ratios() -> None:
    occupancy = np.zeros((2, 1, 5), dtype=np.uint8)
    occupancy[0, 0, :] = 1  # 4 pairs, 5 sites
    occupancy[1, 0, 0] = 1  # 0 pairs, 1 site
    assert branching(branching_sums(occupancy)).b_time == pytest.approx(4 / 6)


@settings(max_examples=40)
@given(RASTERS)
def test_branching_total_and_excess_are_sum_and_difference(occupancy: np.ndarray) -> None:
    found = branching(branching_sums(occupancy))
    for null in ("", "_perm", "_shift"):
        parts = [getattr(found, f"b_{axis}{null}") for axis in ("time", "depth", "tot")]
        np.testing.assert_allclose(parts[2], parts[0] + parts[1], atol=1e-12)
    for axis in ("time", "depth", "tot"):
        difference = getattr(found, f"b_{axis}") - getattr(found, f"b_{axis}_perm")
        np.testing.assert_allclose(getattr(found, f"delta_b_{axis}"), difference, atol=1e-12)
    np.testing.assert_allclose(found.delta_b_tot_shift, found.b_tot - found.b_tot_shift, atol=1e-12)
    np.testing.assert_allclose(found.delta_b_depth_shift, found.b_depth - found.b_depth_shift, atol=1e-12)


def test_branching_of_a_silent_raster_is_nan_without_a_warning() -> None:
    occupancy = random_raster((2, 3, 4, 6), 0.5, seed=1)
    occupancy[0] = 0
    sums = branching_sums(occupancy)
    for weights in (None, bootstrap_weights(3, reps=4, seed=0)):
        for name, value in values(branching(sums, weights)).items():
            assert np.isnan(value[0]).all() and np.isfinite(value[1]).all(), name


def test_branching_treats_conditions_one_by_one() -> None:
    occupancy = random_raster((2, 3, 4, 5, 6), 0.4, seed=2)
    together = branching_sums(occupancy)
    for index in np.ndindex(2, 3):
        alone = branching_sums(occupancy[index])
        for name, value in values(together[index]).items():
            np.testing.assert_array_equal(value, values(alone)[name], err_msg=name)
        for name, value in values(branching(alone)).items():
            assert value.shape == ()
            np.testing.assert_array_equal(value, values(branching(together))[name][index], err_msg=name)


def test_branching_with_weights_is_branching_of_the_resampled_sequences() -> None:
    occupancy = random_raster((2, 6, 4, 9), 0.4, seed=3)
    weights = bootstrap_weights(6, reps=5, seed=8)
    found = values(branching(branching_sums(occupancy), weights))
    for rep, weight in enumerate(weights):
        resampled = occupancy[:, np.repeat(np.arange(6), weight)]
        for name, value in values(branching(branching_sums(resampled))).items():
            assert found[name].shape == (2, 5)
            np.testing.assert_allclose(found[name][:, rep], value, atol=1e-14, err_msg=name)


def test_branching_of_independent_sites_follows_their_density() -> None:
    p, n_layers, n_tokens = 0.3, 12, 64
    found = branching(branching_sums(random_raster((400, n_layers, n_tokens), p, seed=4)))
    assert found.b_time == pytest.approx(p * (1 - 1 / n_tokens), abs=0.004)
    assert found.b_depth == pytest.approx(p * (1 - 1 / n_layers), abs=0.004)


def test_delta_b_intervals_cover_zero_for_independent_sites() -> None:
    """20 rasters, 4 measures, 95%: about 76 of 80 cover; a bias of one standard error leaves about 66."""
    weights = bootstrap_weights(60, reps=400, seed=1337)
    occupancy = random_raster((20, 60, 8, 40), 0.25, seed=5)
    sums = branching_sums(occupancy)
    point, replicates = branching(sums), branching(sums, weights)
    covers = []
    for name in ("delta_b_time", "delta_b_depth", "delta_b_tot", "delta_b_tot_shift"):
        interval = branching_interval(name, sums, point, replicates, weights)
        covers.append((np.asarray(interval.low) <= 0) & (np.asarray(interval.high) >= 0))
    assert np.sum(covers) >= 70


def test_branching_interval_is_not_given_where_few_sequences_hold_a_pair() -> None:
    """Six sequences with one pair of sites along tokens each, one by one taken away; none ever has a pair in depth."""
    raster = np.zeros((4, 8, 3, 9), dtype=np.uint8)
    raster[:, :, 0, 8] = 1
    for condition in range(4):
        raster[condition, : 7 - condition, 1, 2:4] = 1
    sums, weights = branching_sums(raster), bootstrap_weights(8, reps=400, seed=9)
    point, replicates = branching(sums), branching(sums, weights)
    for name in ("b_time", "b_tot", "delta_b_time", "delta_b_tot", "delta_b_tot_shift"):
        found = branching_interval(name, sums, point, replicates, weights)
        assert np.isfinite(found.low).tolist() == [True, True, True, False], name  # 7, 6, 5, 4 sequences
    for name in ("b_depth", "delta_b_depth", "delta_b_depth_shift"):
        assert np.isnan(branching_interval(name, sums, point, replicates, weights).high).all(), name


def test_branching_interval_of_few_sequences_needs_a_pair_in_all() -> None:
    raster = np.zeros((2, 3, 2, 6), dtype=np.uint8)
    raster[:, :, 0, 1:3] = 1
    raster[1, 0, 0, 2] = 0
    assert held("b_time", branching_sums(raster)).tolist() == [True, False]


def test_branching_interval_lies_on_the_logarithm_for_a_ratio() -> None:
    sums, weights = branching_sums(random_raster((16, 4, 30), 0.1, seed=8)), bootstrap_weights(16, reps=300, seed=1)
    point, drawn = branching(sums), branching(sums, weights)
    found = branching_interval("b_tot", sums, point, drawn, weights)
    expected = t_interval(np.log(float(point.b_tot)), np.log(drawn.b_tot), weights)
    assert (found.low, found.high) == pytest.approx((np.exp(expected.low), np.exp(expected.high)), rel=1e-12)


def test_excess_over_draw_is_by_hand_and_varies_with_the_draws() -> None:
    observed, drawn = (branching_sums(random_raster((12, 4, 30), 0.3, seed=seed)) for seed in (11, 12))
    weights = leave_one_out(12)
    value, interval = excess_over_draw(observed, drawn, weights)
    pairs = observed.time_pairs + observed.depth_pairs - drawn.time_pairs - drawn.depth_pairs
    assert value == pytest.approx(pairs.sum() / observed.n_sites.sum())
    without = [np.delete(pairs, place).sum() / np.delete(observed.n_sites, place).sum() for place in range(12)]
    expected = t_interval(value, np.array(without), weights)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    silent = branching_sums(np.zeros((12, 4, 30), dtype=np.uint8))
    value, interval = excess_over_draw(silent, silent, weights)
    assert np.isnan([value, interval.low, interval.high]).all()


def test_delta_b_intervals_exclude_zero_for_sites_that_follow_each_other() -> None:
    seeds = random_raster((60, 8, 40), 0.15, seed=6)
    occupancy = seeds | np.roll(seeds, 1, axis=-1)  # every event lasts two tokens
    sums, weights = branching_sums(occupancy), bootstrap_weights(60, reps=2000, seed=1337)
    point, found = branching(sums), branching(sums, weights)
    time, depth = (
        t_interval(getattr(point, name), getattr(found, name), weights, level=0.999) for name in ("delta_b_time", "delta_b_depth")
    )
    assert time.low > 0.1
    assert depth.low < 0 < depth.high


@pytest.mark.parametrize(
    ("occupancy", "message"),
    [
        (np.zeros((1, 2, 3), dtype=np.int64), "is uint8, got int64"),
        (np.zeros((1, 2, 3), dtype=np.bool_), "is uint8, got bool"),
        (np.full((1, 2, 3), 2, dtype=np.uint8), "found 2: pass X, not the counts A"),
        (np.zeros((2, 3), dtype=np.uint8), r"\[seq, layer, token\] with a layer and a token, got \(2, 3\)"),
        (np.zeros((2, 0, 3), dtype=np.uint8), r"got \(2, 0, 3\)"),
    ],
)
@pytest.mark.usefixtures("unannotated")
def test_branching_sums_reject_what_is_no_raster(occupancy: np.ndarray, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        branching_sums(occupancy)
