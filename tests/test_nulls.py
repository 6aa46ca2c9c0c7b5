"""Surrogates: what each null keeps, that it draws evenly from the rest, and that a name fixes the draw."""

import hashlib
import itertools

import numpy as np
import pytest
from scipy import stats

from avalanche_llm.canon import load_canon
from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.branching import branching, branching_sums
from avalanche_llm.raster import nulls
from avalanche_llm.raster.nulls import (
    CIRCULAR_SHIFT,
    COMMON_SHIFT,
    MARGIN_SWAP,
    PERMUTATION,
    NullRaster,
    common_circular_shift,
    draw_null,
    margin_preserving_swaps,
    marginals_exact,
    null_seed,
    shuffle_tokens,
    within_layer_circular_shift,
    within_layer_permutation,
)

RASTER_NULLS = (PERMUTATION, CIRCULAR_SHIFT, MARGIN_SWAP, COMMON_SHIFT)


def random_pair(shape: tuple[int, ...], seed: int) -> NullRaster:
    counts = np.random.default_rng(seed).poisson(0.7, size=shape).astype(np.uint16)
    return NullRaster((counts > 0).astype(np.uint8), counts)


def drawn(
    null_id: str, pair: NullRaster, condition: str = "c", seq_ids: list[int] | None = None
) -> NullRaster:
    ids = list(range(len(pair.occupancy))) if seq_ids is None else seq_ids
    return draw_null(null_id, *pair, seed=1337, condition=condition, seq_ids=ids)


def shifts_of(original: np.ndarray, surrogate: np.ndarray) -> set[int]:
    """Every shift that turns the one row into the other."""
    return {by for by in range(len(original)) if (np.roll(original, by) == surrogate).all()}


def test_the_null_ids_are_the_canonical_ones() -> None:
    known = set(load_canon()["ENUM.NULL_ID"])
    assert {*RASTER_NULLS, nulls.TOKEN_SHUFFLE, "NULL_NONE"} == known


def test_null_seed_is_the_hash_of_its_name() -> None:
    digest = hashlib.sha256(b"1337|NULL_X|g=1.0|42|-1").hexdigest()
    assert null_seed(1337, "NULL_X", "g=1.0", 42, -1) == int(digest[:16], 16)
    names = itertools.product((1, 2), ("a", "b"), ("c", "d"), (0, 1), (-1, 0))
    assert len({null_seed(*name) for name in names}) == 2**5


@pytest.mark.parametrize("null_id", RASTER_NULLS)
def test_draw_null_is_fixed_by_its_name(null_id: str) -> None:
    pair = random_pair((5, 4, 12), seed=0)
    before = [array.copy() for array in pair]
    first, again = drawn(null_id, pair), drawn(null_id, pair)
    for one, other, original, kept in zip(first, again, pair, before, strict=True):
        assert one.dtype == original.dtype and one.shape == original.shape
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(original, kept)
    assert (first.occupancy != pair.occupancy).any()
    assert (first.occupancy != drawn(null_id, pair, condition="other").occupancy).any()
    some = drawn(null_id, NullRaster(*(array[[3, 1]] for array in pair)), seq_ids=[3, 1])
    np.testing.assert_array_equal(some.counts, first.counts[[3, 1]])


@pytest.mark.parametrize("null_id", [PERMUTATION, CIRCULAR_SHIFT])
def test_draw_null_gives_every_layer_a_stream_of_its_own(null_id: str) -> None:
    pair = random_pair((3, 6, 12), seed=1)
    surrogate = drawn(null_id, pair, seq_ids=[10, 20, 30])
    for (n, seq_id), layer in itertools.product(enumerate([10, 20, 30]), range(6)):
        rng = np.random.Generator(np.random.PCG64(null_seed(1337, null_id, "c", seq_id, layer)))
        occupancy, counts = (array[[n], layer : layer + 1] for array in pair)
        alone = nulls.LAYER_NULLS[null_id](occupancy, counts, rng)
        np.testing.assert_array_equal(alone.counts[0, 0], surrogate.counts[n, layer])


def test_permutation_moves_counts_with_their_sites_and_reaches_every_place() -> None:
    occupancy, counts = np.array([[[0, 1, 1]]], dtype=np.uint8), np.array([[[0, 5, 9]]], dtype=np.uint16)
    pair = NullRaster(np.repeat(occupancy, 3000, axis=0), np.repeat(counts, 3000, axis=0))
    for surrogate in (drawn(PERMUTATION, pair), within_layer_permutation(*pair, np.random.default_rng(0))):
        np.testing.assert_array_equal(surrogate.occupancy, surrogate.counts > 0)
        orders, found = np.unique(surrogate.counts[:, 0], axis=0, return_counts=True)
        assert len(orders) == 6 and stats.chisquare(found).pvalue > 0.001


def test_circular_shift_turns_every_layer_by_its_own_non_zero_shift() -> None:
    counts = np.tile(np.arange(7, dtype=np.uint16), (700, 2, 1))
    pair = NullRaster((counts > 0).astype(np.uint8), counts)
    for surrogate in (
        drawn(CIRCULAR_SHIFT, pair),
        within_layer_circular_shift(*pair, np.random.default_rng(0)),
    ):
        by = surrogate.counts.argmin(axis=-1)  # where token 0 went
        np.testing.assert_array_equal(surrogate.counts, (np.arange(7) - by[..., None]) % 7)
        np.testing.assert_array_equal(surrogate.occupancy, surrogate.counts > 0)
        both = np.bincount(by[:, 0] * 7 + by[:, 1], minlength=49).reshape(7, 7)
        assert both[0].sum() == both[:, 0].sum() == 0
        assert stats.chisquare(both[1:, 1:].ravel()).pvalue > 0.001


def test_common_shift_turns_all_layers_together_and_keeps_their_overlaps() -> None:
    pair = random_pair((8, 5, 11), seed=2)
    for surrogate in (drawn(COMMON_SHIFT, pair), common_circular_shift(*pair, np.random.default_rng(0))):
        for original, turned in zip(pair.counts, surrogate.counts, strict=True):
            common = set.intersection(*map(shifts_of, original, turned))
            assert common and 0 not in common
        before, after = branching_sums(pair.occupancy), branching_sums(surrogate.occupancy)
        np.testing.assert_array_equal(after.depth_pairs, before.depth_pairs)


@pytest.mark.parametrize("null_id", RASTER_NULLS)
@pytest.mark.parametrize("shape", [(2, 3, 1), (2, 3, 2), (2, 1, 5), (0, 3, 4)])
def test_draw_null_of_a_narrow_raster_keeps_its_margins(null_id: str, shape: tuple[int, ...]) -> None:
    pair = random_pair(shape, seed=3)
    assert marginals_exact(*pair, *drawn(null_id, pair)).layers_exact
    if shape[-1] == 1:
        np.testing.assert_array_equal(drawn(null_id, pair).counts, pair.counts)


def test_margin_swaps_keep_rows_columns_and_the_counts_of_a_layer() -> None:
    pair = random_pair((6, 9, 20), seed=4)
    surrogate = drawn(MARGIN_SWAP, pair)
    assert (surrogate.occupancy != pair.occupancy).any(axis=(1, 2)).all()
    for axis in (1, 2):
        np.testing.assert_array_equal(surrogate.occupancy.sum(axis=axis), pair.occupancy.sum(axis=axis))
    np.testing.assert_array_equal(np.sort(surrogate.counts, axis=-1), np.sort(pair.counts, axis=-1))
    np.testing.assert_array_equal(surrogate.occupancy, surrogate.counts > 0)


@pytest.mark.parametrize(
    ("rows", "n_states"), [(["100", "010", "001"], 6), (["1100", "0010", "0001"], 12), (["110", "101"], 2)]
)
def test_margin_swaps_draw_evenly_from_all_rasters_with_these_margins(rows: list[str], n_states: int) -> None:
    layers = np.array([[int(site) for site in row] for row in rows], dtype=np.uint8)
    occupancy = np.repeat(layers[None], 4000, axis=0)
    surrogate = margin_preserving_swaps(occupancy, occupancy.astype(np.uint16), np.random.default_rng(5))
    states, found = np.unique(surrogate.occupancy.reshape(4000, -1), axis=0, return_counts=True)
    assert len(states) == n_states and stats.chisquare(found).pvalue > 0.001


def test_margin_swaps_forget_where_they_started() -> None:
    """Two blocks, the slowest start: afterwards a site is as likely in either block."""
    occupancy = np.zeros((8, 12, 64), dtype=np.uint8)
    occupancy[:, :6, :32] = occupancy[:, 6:, 32:] = 1
    surrogate = margin_preserving_swaps(occupancy, occupancy.astype(np.uint16), np.random.default_rng(6))
    kept = surrogate.occupancy[occupancy == 1].mean()
    assert kept == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(occupancy.sum()))


def test_swaps_keep_their_margins_where_random_numbers_are_equal() -> None:
    """Of equal numbers the earlier token's comes first; a threshold alone would give one layer all of them."""

    class Coarse:
        def __init__(self) -> None:
            self._rng = np.random.default_rng(7)

        def random(self, size: tuple[int, int, int], /) -> np.ndarray:
            return np.floor(4 * self._rng.random(size)) / 4

    occupancy = (np.random.default_rng(8).random((3, 6, 40)) < 0.4).astype(np.uint8)
    counts = occupancy.astype(np.uint16)
    surrogate = margin_preserving_swaps(occupancy, counts, Coarse())
    check = marginals_exact(occupancy, counts, *surrogate)
    assert check.layers_exact and check.tokens_exact
    assert (surrogate.occupancy != occupancy).any()


def test_margin_swaps_deal_a_layer_s_counts_evenly_to_its_sites() -> None:
    occupancy = np.ones((6000, 1, 3), dtype=np.uint8)
    counts = np.tile(np.array([1, 2, 7], dtype=np.uint16), (6000, 1, 1))
    orders, found = np.unique(
        drawn(MARGIN_SWAP, NullRaster(occupancy, counts)).counts[:, 0], axis=0, return_counts=True
    )
    assert len(orders) == 6 and stats.chisquare(found).pvalue > 0.001


@pytest.mark.parametrize(("null_id", "null"), [(PERMUTATION, "perm"), (CIRCULAR_SHIFT, "shift")])
def test_seeded_surrogates_average_to_the_exact_expectation(null_id: str, null: str) -> None:
    pair = random_pair((4, 5, 16), seed=7)
    rasters = [drawn(null_id, pair, condition=f"draw {i}").occupancy for i in range(600)]
    found, expected = branching(branching_sums(np.array(rasters))), branching(branching_sums(pair.occupancy))
    for axis in ("time", "depth"):
        b = getattr(found, f"b_{axis}")
        assert b.mean() == pytest.approx(
            getattr(expected, f"b_{axis}_{null}"), abs=4 * b.std() / np.sqrt(600)
        )


def test_draw_null_names_the_nulls_it_knows() -> None:
    with pytest.raises(SchemaError, match=f"unknown raster null 'NULL_NONE'; known are {PERMUTATION}, "):
        drawn("NULL_NONE", random_pair((1, 2, 3), seed=0))


@pytest.mark.usefixtures("unannotated")
def test_draw_null_rejects_what_does_not_belong_together() -> None:
    pair = random_pair((2, 3, 5), seed=0)
    with pytest.raises(SchemaError, match="1 seq_ids"):
        drawn(PERMUTATION, pair, seq_ids=[0])
    with pytest.raises(SchemaError, match="X must be 1 exactly where A > 0"):
        drawn(PERMUTATION, NullRaster(pair.occupancy, pair.counts + np.uint16(1)))
    with pytest.raises(SchemaError, match="X must be 1 exactly where A > 0"):
        drawn(PERMUTATION, NullRaster(pair.occupancy, pair.counts[:, :2]))
    with pytest.raises(SchemaError, match="one condition"):
        drawn(PERMUTATION, NullRaster(*(array[None] for array in pair)), seq_ids=[0])
    with pytest.raises(SchemaError, match="pass X, not the counts A"):
        drawn(PERMUTATION, NullRaster(pair.occupancy * np.uint8(2), pair.counts))


@pytest.mark.usefixtures("unannotated")
def test_marginals_exact_compares_rasters_of_one_shape_only() -> None:
    pair = random_pair((2, 3, 5), seed=0)
    with pytest.raises(SchemaError, match="one shape"):
        marginals_exact(*pair, pair.occupancy, pair.counts[:1])


def test_shuffle_tokens_keeps_special_tokens_in_place_and_the_rest_as_a_multiset() -> None:
    ids = np.random.default_rng(8).integers(0, 50, size=(6, 40))
    ids[:, 0] = 1
    before, special = ids.copy(), {1, 2, 3}
    shuffled = shuffle_tokens(ids, special, seed=1337, condition="c", seq_ids=range(6))
    fixed = np.isin(ids, list(special))
    assert shuffled.dtype == ids.dtype and fixed.sum() > 6
    np.testing.assert_array_equal(shuffled[fixed], ids[fixed])
    np.testing.assert_array_equal(np.sort(shuffled, axis=1), np.sort(ids, axis=1))
    assert (shuffled != ids).any(axis=1).all()
    np.testing.assert_array_equal(ids, before)
    again = shuffle_tokens(ids[[4]], special, seed=1337, condition="c", seq_ids=[4])
    np.testing.assert_array_equal(again[0], shuffled[4])


def test_shuffle_tokens_draws_every_order_evenly() -> None:
    ids = np.tile(np.array([10, 0, 11, 12]), (3000, 1))
    shuffled = shuffle_tokens(ids, [0], seed=1, condition="c", seq_ids=range(3000))
    orders, found = np.unique(shuffled, axis=0, return_counts=True)
    assert len(orders) == 6 and (orders[:, 1] == 0).all()
    assert stats.chisquare(found).pvalue > 0.001


def test_shuffle_tokens_without_ordinary_tokens_changes_nothing() -> None:
    ids = np.array([[3, 3, 4]])
    np.testing.assert_array_equal(shuffle_tokens(ids, [3, 4], seed=1, condition="c", seq_ids=[0]), ids)
