"""Marginals of every raster null, exact for every condition, sequence and layer; the check can fail."""

import numpy as np
import pytest

from avalanche_llm.raster.nulls import (
    CIRCULAR_SHIFT,
    COMMON_SHIFT,
    MARGIN_SWAP,
    PERMUTATION,
    MarginalCheck,
    draw_null,
    marginals_exact,
)

SHAPE = (4, 5, 6, 24)  # cond, seq, layer, token


def observed() -> tuple[np.ndarray, np.ndarray]:
    """Conditions from sparse to nearly full and one silent, layers of unequal rate and one silent."""
    rate = np.array([0.02, 0.3, 3.0, 0.0])[:, None, None, None] * np.linspace(0.0, 2.0, SHAPE[2])[:, None]
    counts = np.random.default_rng(0).poisson(rate, size=SHAPE).astype(np.uint16)
    return (counts > 0).astype(np.uint8), counts


def checked(null_id: str) -> MarginalCheck:
    occupancy, counts = observed()
    surrogates = [
        draw_null(
            null_id,
            occupancy[cond],
            counts[cond],
            seed=1337,
            condition=f"cond {cond}",
            seq_ids=range(SHAPE[1]),
        )
        for cond in range(SHAPE[0])
    ]
    null_occupancy, null_counts = (np.array(arrays) for arrays in zip(*surrogates, strict=True))
    assert (null_counts != counts).any(axis=(1, 2, 3)).tolist() == [True, True, True, False]
    return marginals_exact(occupancy, counts, null_occupancy, null_counts)


@pytest.mark.parametrize("null_id", [PERMUTATION, CIRCULAR_SHIFT, MARGIN_SWAP, COMMON_SHIFT])
def test_every_null_keeps_sites_and_counts_of_every_layer(null_id: str) -> None:
    check = checked(null_id)
    assert check.sites.shape == check.counts.shape == check.consistent.shape == SHAPE[:3]
    assert check.sites.all() and check.counts.all() and check.consistent.all() and check.layers_exact


def test_margin_swaps_keep_the_occupied_layers_of_every_token_and_permutations_do_not() -> None:
    check = checked(MARGIN_SWAP)
    assert check.tokens.shape == (4, 5, 24) and check.tokens_exact
    assert not checked(PERMUTATION).tokens_exact


def test_marginals_exact_points_at_the_layer_that_lost_a_site() -> None:
    occupancy, counts = observed()
    null_occupancy, null_counts = occupancy.copy(), counts.copy()
    token = int(np.flatnonzero(counts[2, 1, 3])[0])
    null_occupancy[2, 1, 3, token] = null_counts[2, 1, 3, token] = 0
    check = marginals_exact(occupancy, counts, null_occupancy, null_counts)
    assert np.argwhere(~check.sites).tolist() == np.argwhere(~check.counts).tolist() == [[2, 1, 3]]
    assert np.argwhere(~check.tokens).tolist() == [[2, 1, token]]
    assert check.consistent.all() and not check.layers_exact and not check.tokens_exact


def test_marginals_exact_sees_counts_that_changed_though_their_total_did_not() -> None:
    counts = np.array([[[2, 2, 0]]], dtype=np.uint16)
    occupancy = (counts > 0).astype(np.uint8)
    check = marginals_exact(occupancy, counts, occupancy, np.array([[[1, 3, 0]]], dtype=np.uint16))
    assert check.sites.all() and check.consistent.all() and not check.counts.any() and not check.layers_exact


def test_marginals_exact_sees_counts_that_moved_off_their_sites() -> None:
    counts = np.array([[[2, 1, 0]]], dtype=np.uint16)
    occupancy = (counts > 0).astype(np.uint8)
    check = marginals_exact(occupancy, counts, occupancy, np.array([[[0, 1, 2]]], dtype=np.uint16))
    assert check.sites.all() and check.counts.all() and not check.consistent.any() and not check.layers_exact
