"""Connected components: drawn rasters, exact enumerations, the Euler identity, critical percolation."""

from fractions import Fraction

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_llm.errors import SchemaError
from avalanche_llm.raster.cc import ADJACENCY, label_components

BOTH = ("ADJ_4N", "ADJ_8N")
RASTERS = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 8)), elements=st.integers(0, 1)
)


def every_raster(n_layers: int, n_tokens: int) -> np.ndarray:
    """All 2^(layers x tokens) rasters, as sequences."""
    sites = n_layers * n_tokens
    bits = (np.arange(2**sites)[:, None] >> np.arange(sites)) & 1
    return bits.astype(np.uint8).reshape(-1, n_layers, n_tokens)


def components_per_sequence(rasters: np.ndarray, adjacency_id: str) -> np.ndarray:
    labels, n = label_components(rasters, adjacency_id)
    owner = np.zeros(n + 1, dtype=np.int64)
    owner[labels] = np.arange(len(rasters))[:, None, None]  # a label in two sequences would count once
    return np.bincount(owner[1:], minlength=len(rasters))


def test_label_components_joins_the_toy_raster() -> None:
    raster = np.zeros((1, 3, 4), dtype=np.uint8)
    raster[0, [1, 1, 2], [1, 2, 2]] = 1
    labels, n = label_components(raster, "ADJ_4N")
    assert n == 1
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, raster)


def test_label_components_joins_diagonals_only_with_eight_neighbours() -> None:
    raster = np.eye(3, dtype=np.uint8)[None]
    assert label_components(raster, "ADJ_4N").n == 3
    assert label_components(raster, "ADJ_8N").n == 1


@pytest.mark.parametrize("adjacency_id", BOTH)
def test_label_components_never_connects_sequences(adjacency_id: str) -> None:
    labels, n = label_components(np.ones((3, 2, 2), dtype=np.uint8), adjacency_id)
    assert n == 3
    np.testing.assert_array_equal(labels[:, 0, 0], [1, 2, 3])


@pytest.mark.parametrize("adjacency_id", BOTH)
def test_label_components_does_not_wrap_around_edges(adjacency_id: str) -> None:
    raster = np.zeros((1, 3, 5), dtype=np.uint8)
    raster[0, 1, [0, 4]] = 1
    assert label_components(raster, adjacency_id).n == 2


@settings(max_examples=60)
@given(RASTERS, st.sampled_from(BOTH))
def test_label_components_numbers_by_first_site(raster: np.ndarray, adjacency_id: str) -> None:
    before = raster.copy()
    labels, n = label_components(raster, adjacency_id)
    found, first = np.unique(labels[labels > 0], return_index=True)
    np.testing.assert_array_equal(found, np.arange(1, n + 1))
    assert (np.diff(first) > 0).all()
    np.testing.assert_array_equal(labels > 0, raster > 0)
    np.testing.assert_array_equal(raster, before)


@pytest.mark.parametrize(
    ("adjacency_id", "totals"),
    [
        ("ADJ_4N", [0, 9, 60, 168, 256, 230, 124, 40, 9, 1]),
        ("ADJ_8N", [0, 9, 52, 128, 177, 154, 90, 36, 9, 1]),
    ],
)
def test_label_components_matches_the_enumeration_of_3x3(adjacency_id: str, totals: list[int]) -> None:
    rasters = every_raster(3, 3)
    occupied = rasters.sum(axis=(1, 2), dtype=np.int64)
    found = np.bincount(occupied, weights=components_per_sequence(rasters, adjacency_id))
    np.testing.assert_array_equal(found, totals)


@pytest.mark.parametrize(
    ("shape", "four", "eight"),
    [
        ((2, 2), Fraction(17, 16), Fraction(15, 16)),
        ((2, 3), Fraction(11, 8), Fraction(9, 8)),
        ((3, 3), Fraction(897, 512), Fraction(41, 32)),
        ((3, 4), Fraction(8721, 4096), Fraction(369, 256)),
        ((4, 4), Fraction(168529, 65536), Fraction(6481, 4096)),
    ],
)
def test_label_components_has_the_exact_mean_at_one_half(
    shape: tuple[int, int], four: Fraction, eight: Fraction
) -> None:
    rasters = every_raster(*shape)
    for adjacency_id, mean in zip(BOTH, (four, eight), strict=True):
        assert Fraction(label_components(rasters, adjacency_id).n, len(rasters)) == mean


@settings(max_examples=100)
@given(RASTERS)
def test_label_components_fulfils_the_euler_identity(raster: np.ndarray) -> None:
    padded = np.pad(raster, ((0, 0), (1, 1), (1, 1)))
    four = components_per_sequence(padded, "ADJ_4N")
    eight_of_empty = components_per_sequence((1 - padded).astype(np.uint8), "ADJ_8N")
    full = padded.astype(bool)
    sites = full.sum(axis=(1, 2))
    bonds = (full[:, 1:] & full[:, :-1]).sum(axis=(1, 2)) + (full[:, :, 1:] & full[:, :, :-1]).sum(
        axis=(1, 2)
    )
    blocks = (full[:, 1:, 1:] & full[:, 1:, :-1] & full[:, :-1, 1:] & full[:, :-1, :-1]).sum(axis=(1, 2))
    np.testing.assert_array_equal(four - eight_of_empty + 1, sites - bonds + blocks)


def test_label_components_counts_the_clusters_of_critical_percolation() -> None:
    size = 1000
    raster = (np.random.default_rng(0).random((4, size, size)) < 0.592746).astype(np.uint8)
    per_site = label_components(raster, "ADJ_4N").n / raster.size
    assert per_site == pytest.approx(0.0276, abs=0.0008)  # open edges add a little


def test_label_components_of_a_silent_raster_is_empty() -> None:
    labels, n = label_components(np.zeros((2, 3, 4), dtype=np.uint8), "ADJ_4N")
    assert n == 0
    assert not labels.any()


def test_label_components_refuses_an_unknown_adjacency() -> None:
    with pytest.raises(SchemaError, match=r"unknown adjacency 'ADJ_6N'; known are ADJ_4N, ADJ_8N"):
        label_components(np.zeros((1, 2, 2), dtype=np.uint8), "ADJ_6N")


@pytest.mark.usefixtures("unannotated")
def test_label_components_refuses_a_condition_axis() -> None:
    with pytest.raises(
        SchemaError, match=r"labels need \[seq, layer, token\], got 4 axes: pass one condition"
    ):
        label_components(np.zeros((2, 1, 2, 2), dtype=np.uint8), "ADJ_4N")


def test_adjacency_is_frozen() -> None:
    with pytest.raises(TypeError):
        ADJACENCY["ADJ_4N"] = ADJACENCY["ADJ_8N"]  # type: ignore[index]  # the point of the test
    with pytest.raises(ValueError, match="read-only"):
        ADJACENCY["ADJ_4N"][0, 1, 1] = True
