"""Avalanche table: hand-drawn rasters, and a plain flood fill as the second opinion."""

import dataclasses

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.avalanches import AvalancheTable, avalanches

COUNTS = arrays.arrays(
    np.uint16,
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 7)),
    elements=st.sampled_from([0, 0, 0, 1, 2, 65535]),
)
STEPS = {
    "ADJ_4N": [(0, 1), (1, 0), (0, -1), (-1, 0)],
    "ADJ_8N": [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)],
}


def measure(
    counts: np.ndarray, adjacency_id: str = "ADJ_4N", max_per_sequence: int = 20000
) -> AvalancheTable:
    occupancy = (counts > 0).astype(np.uint8)
    return avalanches(occupancy, counts, adjacency_id=adjacency_id, max_per_sequence=max_per_sequence)


def flood_fill(counts: np.ndarray, adjacency_id: str) -> list[tuple[int, ...]]:
    """(seq, size, sites, D, H, t_min, t_max, l_min, l_max, border) of each component, site by site."""
    n_seq, n_layers, n_tokens = counts.shape
    found = []
    for seq in range(n_seq):
        left = {(int(layer), int(token)) for layer, token in np.argwhere(counts[seq] > 0)}
        while left:
            component, queue = [], [left.pop()]
            while queue:
                layer, token = queue.pop()
                component.append((layer, token))
                near = {(layer + i, token + j) for i, j in STEPS[adjacency_id]} & left
                left -= near
                queue.extend(near)
            layers, tokens = [site[0] for site in component], [site[1] for site in component]
            size = sum(int(counts[seq, layer, token]) for layer, token in component)
            ends = (min(tokens), max(tokens), min(layers), max(layers))
            border = ends[0] == 0 or ends[1] == n_tokens - 1 or ends[2] == 0 or ends[3] == n_layers - 1
            spans = (ends[1] - ends[0] + 1, ends[3] - ends[2] + 1)
            found.append((seq, size, len(component), *spans, *ends, int(border)))
    return sorted(found)


def rows(table: AvalancheTable) -> list[tuple[int, ...]]:
    return sorted(
        zip(*(column.astype(np.int64).tolist() for column in table.columns().values()), strict=True)
    )


def test_avalanches_measures_the_toy_raster() -> None:
    counts = np.zeros((1, 3, 4), dtype=np.uint16)
    counts[0, [1, 1, 2], [1, 2, 2]] = [2, 3, 5]
    table = measure(counts)
    assert table.adjacency_id == "ADJ_4N"
    assert rows(table) == [(0, 10, 3, 2, 2, 1, 2, 1, 2, 1)]  # the last layer is a border


def test_avalanches_sees_an_inner_component_away_from_the_border() -> None:
    counts = np.zeros((1, 3, 3), dtype=np.uint16)
    counts[0, 1, 1] = 7
    assert rows(measure(counts)) == [(0, 7, 1, 1, 1, 1, 1, 1, 1, 0)]


@settings(max_examples=80)
@given(COUNTS, st.sampled_from(sorted(STEPS)))
def test_avalanches_agrees_with_a_plain_flood_fill(counts: np.ndarray, adjacency_id: str) -> None:
    before = counts.copy()
    table = measure(counts, adjacency_id)
    assert rows(table) == flood_fill(counts, adjacency_id)
    assert (np.diff(table.seq_id) >= 0).all()
    assert int(table.size.sum()) == int(counts.sum(dtype=np.int64))
    np.testing.assert_array_equal(counts, before)


def test_avalanches_of_a_silent_raster_is_an_empty_table_of_the_same_dtypes() -> None:
    empty, full = (measure(np.full((2, 3, 4), value, dtype=np.uint16)) for value in (0, 1))
    assert len(empty) == 0
    assert len(full) == 2
    for name, column in empty.columns().items():
        assert column.shape == (0,)
        assert column.dtype == full.columns()[name].dtype


def test_avalanches_columns_are_in_the_order_of_the_parquet_file() -> None:
    names = "seq_id size n_sites span_tokens span_layers t_min t_max l_min l_max touches_border"
    assert list(measure(np.ones((1, 1, 1), dtype=np.uint16)).columns()) == names.split()


def test_avalanches_table_is_frozen() -> None:
    table = measure(np.ones((1, 1, 1), dtype=np.uint16))
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.adjacency_id = "ADJ_8N"  # type: ignore[misc]  # the point of the test


def test_avalanches_stops_at_too_many_components_and_names_the_sequence() -> None:
    counts = np.zeros((3, 1, 9), dtype=np.uint16)
    counts[1, 0, ::2] = 1
    assert len(measure(counts, max_per_sequence=5)) == 5
    with pytest.raises(SchemaError, match=r"sequence 1 has 5 components, at most 4 .* events\.target_rates"):
        measure(counts, max_per_sequence=4)


def test_avalanches_accepts_occupancy_as_counts_for_a_surrogate() -> None:
    occupancy = (np.random.default_rng(5).random((4, 6, 20)) < 0.4).astype(np.uint8)
    table = avalanches(occupancy, occupancy, adjacency_id="ADJ_8N", max_per_sequence=100)
    np.testing.assert_array_equal(table.size, table.n_sites)


@pytest.mark.usefixtures("unannotated")
def test_avalanches_refuses_counts_of_another_raster() -> None:
    counts = np.ones((1, 2, 2), dtype=np.uint16)
    for other in (np.zeros((1, 2, 2), dtype=np.uint8), np.ones((1, 2, 3), dtype=np.uint8)):
        with pytest.raises(SchemaError, match="counts must be positive exactly where X is 1"):
            avalanches(other, counts, adjacency_id="ADJ_4N", max_per_sequence=10)


def test_avalanches_refuses_counts_in_the_place_of_occupancy() -> None:
    counts = np.full((1, 2, 2), 3, dtype=np.uint8)
    with pytest.raises(SchemaError, match="pass X, not the counts A"):
        avalanches(counts, counts, adjacency_id="ADJ_4N", max_per_sequence=10)
