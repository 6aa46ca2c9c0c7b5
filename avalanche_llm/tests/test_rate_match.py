"""Rate matching: targets by layer, thresholds as exact order statistics, and two checks that can fail."""

from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalanche_llm.canon import load_canon
from avalanche_llm.config import resolve_config
from avalanche_llm.errors import DataError, RateMatchError
from avalanche_llm.events.rate_match import Cell, RateTargets, Thresholds, check_rates, rate_targets, thresholds
from avalanche_llm.resources import packaged
from avalanche_llm.settings import Events, SpikeDef, parse_settings

POS: SpikeDef = "SPIKE_ONE_SIDED_POS"
ABS: SpikeDef = "SPIKE_TWO_SIDED_ABS"
N = 100_000
COUNTS = {POS: np.array([500, 1000, 1500]), ABS: np.array([900, 2000, 3100])}
# a coarse grid of values makes ties common, also at the threshold
TIED = arrays.arrays(np.float32, st.integers(1, 200), elements=st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0]))
SMOOTH = arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-8, 8, width=32))


def events(**changes: Any) -> Events:
    values = parse_settings(resolve_config(packaged("configs/pipeline.yaml"), load_canon()).values).events.model_dump()
    return Events.model_validate(values | {"target_rates": (0.001, 0.004)} | changes)


def one_layer(kept: int, *, wanted: int, ties: int = 1, n: int = N) -> dict[Cell, Thresholds]:
    return {(POS, 0.001): Thresholds(np.array([3.0]), np.array([kept]), np.array([wanted]), np.array([ties]), n)}


def of_one_layer(r_star: float, n: int = N) -> RateTargets:
    return RateTargets(n, {POS: np.array([0.01])}, {(POS, 0.001): np.array([r_star])})


@given(st.one_of(TIED, SMOOTH), st.data())
def test_thresholds_are_the_order_statistics_of_the_full_array(values: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(values) - 1))
    found = thresholds([values], np.array([k]), len(values))
    ordered = np.sort(values)[::-1]
    assert found.tau[0] == ordered[k]  # the (k+1)-th largest
    assert found.kept[0] == np.count_nonzero(values > ordered[k])
    assert found.ties[0] == np.count_nonzero(values == ordered[k])
    assert found.kept[0] <= k < found.kept[0] + found.ties[0]
    if len(np.unique(values)) == len(values):
        assert found.kept[0] == k


@given(TIED, st.data())
def test_thresholds_need_only_the_largest_values_with_the_ties_of_the_last(values: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(values) - 1))
    depth = data.draw(st.integers(k + 1, len(values)))
    largest = values[values >= np.sort(values)[::-1][depth - 1]]
    whole, tail = (thresholds([some], np.array([k]), len(values)) for some in (values, largest))
    for name in ("tau", "kept", "ties", "wanted"):
        assert getattr(whole, name) == getattr(tail, name)


def test_thresholds_by_hand_with_a_tie_across_the_cut() -> None:
    values = np.array([5, 4, 4, 4, 1, 0], dtype=np.float32)
    found = thresholds([values, values, values], np.array([1, 2, 0]), 6)
    assert found.tau.tolist() == [4, 4, 5]
    assert found.kept.tolist() == [1, 1, 0]
    assert found.ties.tolist() == [3, 3, 1]


def test_thresholds_leave_their_input_alone() -> None:
    values = np.array([1, 3, 2], dtype=np.float32)
    thresholds([values], np.array([1]), 3)
    assert values.tolist() == [1, 3, 2]


def test_thresholds_of_too_few_values_name_the_layer() -> None:
    with pytest.raises(DataError, match="layer 1: 2 values cannot contain the 3-th largest"):
        thresholds([np.zeros(3, np.float32), np.zeros(2, np.float32)], np.array([2, 2]), 3)


def test_rate_targets_scale_every_layer_to_the_target_mean() -> None:
    found = rate_targets(COUNTS, N, events())
    assert found.r_base[POS].tolist() == [0.005, 0.01, 0.015]
    for (spike_def, target), r_star in found.r_star.items():
        assert r_star.mean() == pytest.approx(target, rel=1e-12)
        assert r_star / r_star[0] == pytest.approx(COUNTS[spike_def] / COUNTS[spike_def][0])
    assert found.wanted((POS, 0.004)).tolist() == [200, 400, 600]
    assert found.depth(POS).tolist() == [201, 401, 601]


def test_rate_targets_clip_a_rate_over_one() -> None:
    found = rate_targets({POS: np.array([1, N])}, N, events(target_rates=(0.9,), spike_defs=(POS,)))
    assert found.r_star[POS, 0.9].tolist() == [pytest.approx(1.8 / (N + 1)), 1.0]


def test_wanted_rounds_half_to_even() -> None:
    targets = RateTargets(1000, {}, {(POS, 0.001): np.array([0.0015, 0.0025, 0.00249])})
    assert targets.wanted((POS, 0.001)).tolist() == [2, 2, 2]


def test_rate_targets_refuse_too_few_samples() -> None:
    limit = events().rate_match_min_cal_samples
    with pytest.raises(
        DataError, match=f"{limit - 1} calibration samples a layer, at least {limit} are needed: raise datasets.A.n_win"
    ):
        rate_targets(COUNTS, limit - 1, events())
    rate_targets(COUNTS, limit, events())


def test_rate_targets_refuse_a_layer_without_an_event_over_tau0() -> None:
    with pytest.raises(DataError, match=f"layer 1 has no {POS} event over tau0 = 2.5"):
        rate_targets({POS: np.array([3, 0, 4])}, N, events())


def test_rate_targets_refuse_a_target_that_leaves_a_layer_without_an_event() -> None:
    with pytest.raises(DataError, match=rf"target rate 1e-05 \({POS}\) leaves layer 0 without an event in 100000 samples"):
        rate_targets({POS: np.array([10, 1000])}, N, events(target_rates=(1e-5,)))


@pytest.mark.parametrize(
    ("kept", "wanted", "r_star", "passes"),
    [
        (100, 100, 0.001, True),
        (101, 100, 0.001, True),  # within 2 per cent
        (103, 100, 0.001, False),
        (97, 100, 0.001, False),
        (11, 10, 0.0001, True),  # 10 per cent, but one event
        (12, 10, 0.0001, False),
        (10, 10, 0.000105, True),  # half an event, from rounding
        (0, 1, 0.00001, False),  # within one event, but silent
        (10_100, 10_000, 0.1, False),  # 1 per cent, but over the absolute tolerance
        (10_040, 10_000, 0.1, True),
    ],
)
def test_passed_wants_both_tolerances_and_an_event(kept: int, wanted: int, r_star: float, passes: bool) -> None:
    (found,) = one_layer(kept, wanted=wanted).values()
    assert found.passed(np.array([r_star]), events()).tolist() == [passes]


def test_passed_at_the_published_rates_can_fail_where_the_absolute_tolerance_alone_cannot() -> None:
    (found,) = one_layer(0, wanted=8).values()
    r_star = np.array([8e-5])
    assert (np.abs(found.achieved_rate() - r_star) <= events().rate_match_tol_abs).all()
    assert not found.passed(r_star, events()).any()


def test_check_rates_names_gain_cell_layer_and_ties() -> None:
    with pytest.raises(
        RateMatchError,
        match=rf"failed at g = 1\.3, {POS}, target 0\.001, layer 0: 50 events, 100 wanted, 51 samples tie with tau",
    ) as caught:
        check_rates(one_layer(50, wanted=100, ties=51), of_one_layer(0.001), events(), gain=1.3)
    assert caught.value.exit_code == 2
    check_rates(one_layer(100, wanted=100), of_one_layer(0.001), events(), gain=1.3)
