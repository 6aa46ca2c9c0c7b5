"""Crackling and the alignment of signatures: exact laws, critical branching, and what is missing."""

from typing import Any

import numpy as np
import pytest

from avalanche_llm.metrics.signatures import CracklingFit, crackling, signature_alignment, susceptibility_peak
from avalanche_llm.metrics.stats import leave_one_out, t_interval

GRID = np.array([0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3])


def fit(size: Any, duration: Any, seq_id: Any, n_sequences: int, **changes: Any) -> CracklingFit:
    chosen: dict[str, Any] = {
        "d_min": 3,
        "d_max": 64,
        "min_points": 8,
        "ci_width_max": 0.5,
    } | changes
    arrays = (np.asarray(values, dtype=np.int64) for values in (size, duration, seq_id))
    return crackling(*arrays, n_sequences=n_sequences, **chosen)


def critical_branching(trees: int, generations: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Size and duration of the Poisson(1) Galton-Watson trees that end within the generations."""
    rng = np.random.default_rng(seed)
    alive = np.ones(trees, dtype=np.int64)
    size, duration = alive.copy(), alive.copy()
    for _ in range(generations):
        living = np.flatnonzero(alive)
        alive[living] = rng.poisson(alive[living])
        size[living] += alive[living]
        duration[living] += alive[living] > 0
    return size[alive == 0], duration[alive == 0]


def test_crackling_recovers_an_exact_power_law() -> None:
    duration = np.tile(np.arange(1, 31), 4)
    found = fit(duration**2, duration, np.repeat(np.arange(4), 30), 4)
    assert found.gamma == pytest.approx(2.0, abs=1e-12)
    assert found.r2 == pytest.approx(1.0, abs=1e-12)
    assert (found.n_duration_points, found.n_avalanches_used) == (28, 112)  # durations 3 to 30
    assert found.ci_width == pytest.approx(0.0, abs=1e-12)
    assert (found.passed, found.reason) == (True, "")


def test_crackling_fits_the_mean_of_each_duration_once() -> None:
    """A duration with many avalanches weighs no more than one with a single avalanche."""
    duration = np.array([2] * 50 + [4] + [2, 4])
    size = np.array([3] * 25 + [5] * 25 + [16] + [4, 16])
    found = fit(size, duration, np.array([0] * 51 + [1] * 2), 2, d_min=2, min_points=2)
    assert found.gamma == pytest.approx(2.0)


def test_crackling_interval_equals_refitting_without_each_sequence() -> None:
    rng = np.random.default_rng(3)
    seq_id, duration = rng.integers(6, size=400), rng.integers(3, 9, size=400)
    size = duration + rng.poisson(duration**1.5)
    found = fit(size, duration, seq_id, 6, min_points=4)
    gammas = []
    for left_out in range(6):
        drawn = np.flatnonzero(seq_id != left_out)
        points = np.unique(duration[drawn])
        means = [size[drawn][duration[drawn] == point].mean() for point in points]
        gammas.append(np.polyfit(np.log(points), np.log(means), 1)[0])
    expected = t_interval(found.gamma, np.array(gammas), leave_one_out(6))
    np.testing.assert_allclose([found.ci_low, found.ci_high], [expected.low, expected.high], rtol=1e-9)
    assert found.ci_width == pytest.approx(found.ci_high - found.ci_low)


def test_crackling_of_a_critical_branching_process_approaches_two() -> None:
    size, duration = critical_branching(300_000, 400, seed=0)
    start = np.bincount(size, minlength=5)[1:5] / 300_000
    np.testing.assert_allclose(start, [0.367879, 0.135335, 0.074681, 0.048842], atol=0.003)  # Borel
    seq_id = np.arange(len(size)) % 40
    long = fit(size, duration, seq_id, 40, d_min=30, d_max=200)
    assert long.gamma == pytest.approx(2.0, abs=0.1)
    assert long.passed
    short = fit(size, duration, seq_id, 40)
    assert short.gamma == pytest.approx(1.785, abs=0.02)  # the bias of short durations that the module names


def test_crackling_needs_enough_durations() -> None:
    found = fit([3, 9, 9], [3, 4, 70], [0, 1, 1], 2)
    assert found.reason == "2 durations in [3, 64], 8 needed"
    assert (found.n_duration_points, found.n_avalanches_used, found.passed) == (2, 2, False)
    assert np.isnan([found.gamma, found.ci_low, found.ci_high, found.ci_width, found.r2]).all()


def test_crackling_without_avalanches_is_unavailable() -> None:
    found = fit([], [], [], 3)
    assert found.reason == "0 durations in [3, 64], 8 needed"
    assert not found.passed


def test_crackling_has_no_interval_where_one_sequence_holds_a_duration_alone() -> None:
    """Leaving that sequence out removes the point: its spread is unknown, however narrow the others are."""
    duration = np.concatenate([np.tile(np.arange(3, 15), 4), [15, 16]])
    seq_id = np.concatenate([np.repeat(np.arange(4), 12), [1, 2]])
    found = fit(duration**2, duration, seq_id, 5)
    assert found.gamma == pytest.approx(2.0)
    assert found.reason == "one sequence alone holds 2 of 14 durations, no interval knows their spread"
    assert np.isnan([found.ci_low, found.ci_high, found.ci_width]).all()
    assert not found.passed
    assert fit(duration**2, duration, seq_id, 5, d_max=14).passed


def test_crackling_of_one_sequence_has_no_interval() -> None:
    """Resampling around a single contributing sequence has no spread: a point for an interval would pass."""
    duration = np.arange(3, 15)
    for n_sequences in (1, 5):
        found = fit(duration**2, duration, np.zeros(12), n_sequences)
        assert found.reason.startswith("one sequence alone holds 12 of 12 durations")
        assert (found.gamma, found.passed) == (pytest.approx(2.0), False)


def test_crackling_does_not_pass_with_a_wide_interval() -> None:
    rng = np.random.default_rng(7)
    duration = np.tile(np.arange(3, 12), 6)
    size = np.maximum(1, rng.lognormal(2.0, 2.0, duration.size)).astype(np.int64)
    found = fit(size, duration, np.repeat(np.arange(6), 9), 6)
    assert found.reason == f"interval {found.ci_width:.3g} wide, 0.5 allowed"
    assert found.ci_width > 0.5
    assert not found.passed


def test_crackling_of_constant_sizes_has_slope_zero_and_no_r2() -> None:
    duration = np.tile(np.arange(3, 12), 2)
    found = fit(np.full(18, 4), duration, np.repeat([0, 1], 9), 2)
    assert found.gamma == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(found.r2)


def test_crackling_of_an_empty_range_is_unavailable() -> None:
    assert fit([4], [4], [0], 2, d_min=10, d_max=9).reason == "empty range of durations [10, 9]"


@pytest.mark.parametrize(
    ("chi", "expected"),
    [
        ([1, 2, 9, 4, 3, 2, 1], 0.9),
        ([9, 2, 3, 4, 9, 2, 9], 1.1),  # ties: nearest 1
        ([1, 2, 9, 4, 9, 2, 1], 0.9),  # 0.9 and 1.1 are as near: the smaller
        ([np.nan, 2, np.nan, 1, 1, 1, 1], 0.8),
    ],
)
def test_susceptibility_peak_is_the_largest_and_breaks_ties(chi: list[float], expected: float) -> None:
    assert susceptibility_peak(GRID, np.array(chi, dtype=np.float64)) == expected


def test_susceptibility_peak_of_silent_gains_is_nan() -> None:
    assert np.isnan(susceptibility_peak(GRID, np.full(7, np.nan)))


def test_signature_alignment_agrees_up_to_the_limit() -> None:
    found = signature_alignment(1.1, 0.9, gains=GRID, max_difference=0.2)  # 1.1 - 0.9 > 0.2 in binary
    assert (found.distance, found.agrees, found.peak_at_edge) == (0.2, True, False)
    assert found.sentence == (
        "chi is largest at g = 0.9, 0.2 from g* = 1.1, limit 0.2; "
        "the two are near each other, which alone does not show a critical point."
    )


def test_signature_alignment_disagrees_beyond_the_limit() -> None:
    found = signature_alignment(1.2, 0.9, gains=GRID, max_difference=0.2)
    assert (found.distance, found.agrees) == (0.3, False)
    assert found.sentence.endswith("limit 0.2; the two are apart.")


@pytest.mark.parametrize("edge", [0.7, 1.3])
def test_signature_alignment_never_agrees_at_an_edge(edge: float) -> None:
    found = signature_alignment(edge, edge, gains=GRID, max_difference=0.2)
    assert (found.distance, found.agrees, found.peak_at_edge) == (0.0, False, True)
    assert "an edge of the grid, so no peak was located" in found.sentence


def test_signature_alignment_without_a_peak_says_so() -> None:
    found = signature_alignment(1.0, float("nan"), gains=GRID, max_difference=0.2)
    assert np.isnan(found.distance)
    assert not found.agrees
    assert found.sentence == "chi has no peak: no gain of the grid left an event."
