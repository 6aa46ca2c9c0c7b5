"""Density rows: a hand-drawn raster, percolation below and above its threshold, and the silent raster."""

import numpy as np
import pytest

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.avalanches import avalanches
from avalanche_llm.metrics.density import PERCOLATION_THRESHOLD, Density, density


def measure(counts: np.ndarray, adjacency_id: str = "ADJ_4N") -> Density:
    occupancy = (counts > 0).astype(np.uint8)
    table = avalanches(occupancy, counts, adjacency_id=adjacency_id, max_per_sequence=10**6)
    return density(occupancy, counts, table)


def test_density_of_a_hand_drawn_raster() -> None:
    counts = np.zeros((3, 3, 4), dtype=np.uint16)
    counts[0, 1, 1:3] = [2, 3]  # away from the border
    counts[0, 2, 0] = 5  # a corner, diagonal to the pair
    counts[2, 0, :3] = 1
    counts[2, 2, 3] = 1
    found = measure(counts)
    assert found.occupancy == pytest.approx(7 / 36)
    assert found.over_threshold == pytest.approx(7 / 36 / 0.592746)
    assert found.largest_share == pytest.approx((2 + 3) / 7)  # sequence 1 is silent and adds nothing
    assert found.border_share == pytest.approx(3 / 4)
    assert found.token0_share == pytest.approx((5 + 1) / 14)
    eight = measure(counts, "ADJ_8N")
    assert eight.over_threshold == pytest.approx(7 / 36 / 0.407254)
    assert eight.largest_share == pytest.approx((3 + 3) / 7)
    assert eight.border_share == 1.0


def test_density_of_a_full_raster_is_one_component_at_the_border() -> None:
    found = measure(np.full((2, 3, 4), 2, dtype=np.uint16))
    assert (found.occupancy, found.largest_share, found.border_share, found.token0_share) == (
        1.0,
        1.0,
        1.0,
        0.25,
    )


def test_density_of_a_silent_raster_has_no_shares() -> None:
    found = measure(np.zeros((2, 3, 4), dtype=np.uint16))
    assert (found.occupancy, found.over_threshold) == (0.0, 0.0)
    assert np.isnan([found.largest_share, found.border_share, found.token0_share]).all()


@pytest.mark.parametrize("adjacency_id", ["ADJ_4N", "ADJ_8N"])
def test_density_sees_the_percolation_transition(adjacency_id: str) -> None:
    rng = np.random.default_rng(4)
    shares = []
    for factor in (0.9, 1.1):
        p = factor * PERCOLATION_THRESHOLD[adjacency_id]
        found = measure((rng.random((2, 300, 300)) < p).astype(np.uint16), adjacency_id)
        assert found.over_threshold == pytest.approx(factor, abs=0.02)
        shares.append(found.largest_share)
    assert shares[0] < 0.1
    assert shares[1] > 0.8


def test_density_refuses_avalanches_of_another_raster() -> None:
    ones = np.ones((1, 2, 2), dtype=np.uint8)
    table = avalanches(ones, ones, adjacency_id="ADJ_4N", max_per_sequence=10)
    other = np.zeros((1, 2, 2), dtype=np.uint8)
    with pytest.raises(SchemaError, match="avalanches of 4 sites are not from a raster with 0: pass theirs"):
        density(other, other, table)
