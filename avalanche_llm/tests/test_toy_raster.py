"""The toy raster: T = 4, L = 3, occupied (token, layer) = (2, 2), (3, 2), (3, 3), counted from 1."""

import numpy as np
import pytest

from avalanche_llm.metrics.branching import branching, branching_sums
from avalanche_llm.raster.cc import label_components


def toy_raster() -> np.ndarray:
    occupancy = np.zeros((1, 3, 4), dtype=np.uint8)
    for token, layer in ((2, 2), (3, 2), (3, 3)):
        occupancy[0, layer - 1, token - 1] = 1
    return occupancy


def test_branching_of_the_toy_raster_is_one_third_along_each_axis() -> None:
    found = branching(branching_sums(toy_raster()))
    assert found.b_time == found.b_depth == pytest.approx(1 / 3)
    assert found.b_tot == pytest.approx(2 / 3)


def test_null_expectations_of_the_toy_raster_by_hand() -> None:
    sums = branching_sums(toy_raster())
    assert sums.n_sites[0] == 3
    assert sums.perm_time_pairs[0] == 2 * 1 / 4  # k = 0, 2, 1
    assert sums.perm_depth_pairs[0] == (0 * 2 + 2 * 1) / 4
    assert sums.shift_time_pairs[0] == pytest.approx(2 / 3)  # shifts 1 and 3 keep the pair, shift 2 splits it
    assert sums.shift_depth_pairs[0] == pytest.approx(1 / 3 + (2 * 1 - 1) * 2 / 9)


@pytest.mark.parametrize("adjacency_id", ["ADJ_4N", "ADJ_8N"])
def test_the_toy_raster_is_one_component_of_duration_two_and_height_two(adjacency_id: str) -> None:
    labels, n = label_components(toy_raster(), adjacency_id)
    _, layer, token = np.nonzero(labels)
    assert n == 1 and np.count_nonzero(labels) == 3
    assert np.ptp(token) + 1 == 2
    assert np.ptp(layer) + 1 == 2
