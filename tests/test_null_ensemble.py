"""Null ensembles: moments and laws against full enumeration, draws against brute force, p under the null."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import fields

import numpy as np
import pytest
from scipy import stats

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics import null_ensemble
from avalanche_llm.metrics.branching import branching, branching_sums
from avalanche_llm.metrics.hypergeometric import hypergeometric_sum, hypergeometric_variance
from avalanche_llm.metrics.null_ensemble import NullEnsemble, permutation_ensemble, shift_ensemble
from avalanche_llm.metrics.stats import exceedance_p, z_score
from avalanche_llm.raster.nulls import within_layer_circular_shift, within_layer_permutation

ENSEMBLES = (permutation_ensemble, shift_ensemble)
AXES = ("time", "depth", "tot")


def random_raster(shape: tuple[int, ...], p: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < p).astype(np.uint8)


def b_of_all(rearranged: Iterator[list[np.ndarray]]) -> dict[str, np.ndarray]:
    """b of each rearrangement of one sequence, a rearrangement a condition."""
    found = branching(branching_sums(np.array([np.stack(layers) for layers in rearranged])[:, None]))
    return {axis: getattr(found, f"b_{axis}") for axis in AXES}


def all_permutations(layers: np.ndarray) -> dict[str, np.ndarray]:
    orders = [list(order) for order in itertools.permutations(range(layers.shape[1]))]
    choices = itertools.product(orders, repeat=len(layers))
    return b_of_all([row[by] for row, by in zip(layers, choice, strict=True)] for choice in choices)


def all_shifts(layers: np.ndarray) -> dict[str, np.ndarray]:
    choices = itertools.product(range(1, layers.shape[1]), repeat=len(layers))
    return b_of_all([np.roll(row, by) for row, by in zip(layers, choice, strict=True)] for choice in choices)


ENUMERATED = ((permutation_ensemble, all_permutations), (shift_ensemble, all_shifts))


def moments_by_axis(ensemble: NullEnsemble) -> dict[str, tuple[float, float]]:
    return {
        axis: (getattr(ensemble, f"exact_mean_b_{axis}")[0], getattr(ensemble, f"exact_sd_b_{axis}")[0])
        for axis in AXES
    }


@pytest.mark.parametrize("n_tokens", [2, 6, 7])
def test_neighbouring_pairs_of_a_permuted_layer_are_hypergeometric(n_tokens: int) -> None:
    """The law behind the time sum, over all C(T, k) rows."""
    for k in range(1, n_tokens + 1):
        rows = np.zeros((0, n_tokens), dtype=np.int64)
        for sites in itertools.combinations(range(n_tokens), k):
            rows = np.vstack([rows, np.isin(np.arange(n_tokens), sites)])
        pairs = (rows[:, 1:] * rows[:, :-1]).sum(axis=1)
        law = stats.hypergeom(n_tokens, k - 1, k).pmf(np.arange(k))
        np.testing.assert_allclose(np.bincount(pairs, minlength=k) / len(rows), law, atol=1e-12)
        assert hypergeometric_variance(n_tokens, np.array([k - 1]), np.array([k])) == pytest.approx(
            pairs.var()
        )


def test_hypergeometric_sum_has_the_law_of_the_convolution() -> None:
    population, marked, drawn = 30, np.array([7, 7, 12, 30, 0, 29, 1]), np.array([7, 3, 20, 4, 9, 29, 1])
    law = np.ones(1)
    for one, other in zip(marked, drawn, strict=True):
        law = np.convolve(law, stats.hypergeom(population, one, other).pmf(np.arange(population + 1)))
    draws = hypergeometric_sum(population, marked, drawn, size=200_000, rng=np.random.default_rng(0))
    assert law[np.unique(draws)].min() > 1e-9  # nothing impossible
    found = np.bincount(draws, minlength=len(law))
    common = law * len(draws) > 10
    assert (
        stats.chisquare(found[common], law[common] * found[common].sum() / law[common].sum()).pvalue > 0.001
    )


def test_hypergeometric_sum_of_a_whole_raster_matches_counts_drawn_one_by_one() -> None:
    """1792 counts, and a sum near 10^5, where a phase that loses digits would show."""
    k = np.random.default_rng(1).binomial(256, 0.5, size=1792)
    marked = np.maximum(k - 1, 0)
    draws = hypergeometric_sum(256, marked, k, size=4000, rng=np.random.default_rng(2))
    sd = np.sqrt(hypergeometric_variance(256, marked, k))
    assert draws.mean() == pytest.approx((k * (k - 1) / 256).sum(), abs=4 * sd / np.sqrt(4000))
    assert draws.std() == pytest.approx(sd, rel=4 / np.sqrt(2 * 4000))
    one_by_one = (
        np.random.default_rng(3).hypergeometric(marked, 256 - marked, k, size=(1000, 1792)).sum(axis=1)
    )
    assert stats.ks_2samp(draws, one_by_one).pvalue > 0.001


def test_hypergeometric_sum_without_freedom_is_its_mean() -> None:
    rng = np.random.default_rng(0)
    none = np.array([], dtype=np.int64)
    assert set(hypergeometric_sum(10, none, none, size=50, rng=rng)) == {0}
    full, part = np.array([10, 10, 0]), np.array([3, 10, 4])
    assert hypergeometric_variance(10, full, part) == 0.0
    assert set(hypergeometric_sum(10, full, part, size=1000, rng=rng)) == {13}
    assert set(hypergeometric_sum(1, np.array([1]), np.array([1]), size=50, rng=rng)) == {1}


@pytest.mark.parametrize(("ensemble", "enumerate_all"), ENUMERATED)
@pytest.mark.parametrize(("n_layers", "n_tokens"), [(1, 5), (2, 2), (2, 4), (3, 3), (3, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_exact_moments_are_those_of_the_full_enumeration(
    ensemble: Callable[..., NullEnsemble],
    enumerate_all: Callable[[np.ndarray], dict[str, np.ndarray]],
    n_layers: int,
    n_tokens: int,
    seed: int,
) -> None:
    occupancy = random_raster((1, 1, n_layers, n_tokens), 0.6, seed)
    expected = enumerate_all(occupancy[0, 0])
    for axis, (mean, sd) in moments_by_axis(ensemble(occupancy, draws=1, seeds=[0])).items():
        assert mean == pytest.approx(expected[axis].mean(), abs=1e-12)
        # the root of a variance is good to the root of its rounding
        assert sd == pytest.approx(expected[axis].std(), abs=1e-7)


def test_exact_moments_of_shifts_with_overlaps_that_share_layers() -> None:
    """Four layers of five tokens: 256 shifts, every covariance term at work."""
    for seed in range(6):
        occupancy = random_raster((1, 1, 4, 5), 0.5, seed)
        expected = all_shifts(occupancy[0, 0])
        for axis, (mean, sd) in moments_by_axis(shift_ensemble(occupancy, draws=1, seeds=[0])).items():
            assert (mean, sd) == pytest.approx((expected[axis].mean(), expected[axis].std()), abs=1e-7)


def test_exact_moments_pool_sequences() -> None:
    occupancy = random_raster((1, 5, 3, 8), 0.5, seed=0)
    for ensemble in ENSEMBLES:
        pooled = ensemble(occupancy, draws=1, seeds=[0])
        sites = occupancy.sum(axis=(2, 3), dtype=np.int64)[0]
        alone = [ensemble(occupancy[:, [n]], draws=1, seeds=[0]) for n in range(5)]
        mean = sum(one.exact_mean_b_tot[0] * n for one, n in zip(alone, sites, strict=True)) / sites.sum()
        variance = (
            sum((one.exact_sd_b_tot[0] * n) ** 2 for one, n in zip(alone, sites, strict=True))
            / sites.sum() ** 2
        )
        assert pooled.exact_mean_b_tot[0] == pytest.approx(mean)
        assert pooled.exact_sd_b_tot[0] == pytest.approx(np.sqrt(variance))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("ensemble", "enumerate_all"), ENUMERATED)
def test_draws_have_the_enumerated_law(
    ensemble: Callable[..., NullEnsemble],
    enumerate_all: Callable[[np.ndarray], dict[str, np.ndarray]],
    seed: int,
) -> None:
    occupancy = random_raster((1, 1, 3, 4), 0.5, seed)
    expected = enumerate_all(occupancy[0, 0])
    found = ensemble(occupancy, draws=40_000, seeds=[11])
    exact_total = ensemble is shift_ensemble  # permutations: the total is drawn from a product of two laws
    for axis in AXES if exact_total else AXES[:2]:
        values, counts = np.unique(expected[axis], return_counts=True)
        drawn, found_counts = np.unique(getattr(found, f"b_{axis}"), return_counts=True)
        np.testing.assert_array_equal(drawn, values)
        if len(values) > 1:
            assert stats.chisquare(found_counts, counts * 40_000 / counts.sum()).pvalue > 0.001


@pytest.mark.parametrize(
    ("ensemble", "null"),
    [(permutation_ensemble, within_layer_permutation), (shift_ensemble, within_layer_circular_shift)],
)
def test_draws_agree_with_surrogate_rasters(
    ensemble: Callable[..., NullEnsemble], null: Callable[..., tuple]
) -> None:
    """1500 surrogates of a raster whose layers and tokens are all but independent."""
    rate = random_raster((1, 1, 30), 0.5, seed=1) * 0.5 + 0.1
    occupancy = (np.random.default_rng(2).random((6, 5, 30)) < rate).astype(np.uint8)
    rng, counts = np.random.default_rng(4), occupancy.astype(np.uint16)
    drawn = branching(branching_sums(np.array([null(occupancy, counts, rng)[0] for _ in range(1500)])))
    found = ensemble(occupancy[None], draws=1500, seeds=[9])
    for axis in AXES:
        surrogate, law = getattr(drawn, f"b_{axis}"), getattr(found, f"b_{axis}")[0]
        mean, sd = (getattr(found, f"exact_{moment}_b_{axis}")[0] for moment in ("mean", "sd"))
        for sample in (surrogate, law):
            assert sample.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(1500))
            assert sample.std() == pytest.approx(sd, rel=4 / np.sqrt(2 * 1500))
        assert stats.ks_2samp(surrogate, law).pvalue > 0.001


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_condition_depends_on_its_own_raster_and_seed_only(ensemble: Callable[..., NullEnsemble]) -> None:
    occupancy = random_raster((3, 4, 3, 9), 0.5, seed=7)
    together = ensemble(occupancy, draws=20, seeds=[5, 6, 5])
    for cond, seed in enumerate((5, 6, 5)):
        alone = ensemble(occupancy[[cond]], draws=20, seeds=[seed])
        for field in fields(NullEnsemble):
            np.testing.assert_array_equal(getattr(together, field.name)[cond], getattr(alone, field.name)[0])
    assert (together.b_tot[0] != ensemble(occupancy[[0]], draws=20, seeds=[6]).b_tot[0]).any()


def test_shift_draws_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    occupancy = random_raster((1, 4, 3, 9), 0.5, seed=7)
    whole = shift_ensemble(occupancy, draws=20, seeds=[5])
    monkeypatch.setattr(null_ensemble, "SHIFTS_AT_ONCE", 40)
    np.testing.assert_array_equal(shift_ensemble(occupancy, draws=20, seeds=[5]).b_tot, whole.b_tot)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_silent_condition_is_nan_and_a_frozen_one_has_no_spread(
    ensemble: Callable[..., NullEnsemble],
) -> None:
    occupancy = np.zeros((2, 2, 3, 5), dtype=np.uint8)
    occupancy[1] = 1
    before = occupancy.copy()
    found = ensemble(occupancy, draws=7, seeds=[1, 2])
    for field in fields(NullEnsemble):
        assert np.isnan(getattr(found, field.name)[0]).all(), field.name
    assert set(found.b_tot[1]) == {(4 * 3 + 5 * 2) / 15}
    assert found.exact_sd_b_tot[1] == found.exact_sd_b_time[1] == found.exact_sd_b_depth[1] == 0.0
    observed = branching(branching_sums(occupancy)).b_tot
    np.testing.assert_array_equal(exceedance_p(observed, found.b_tot), [np.nan, 1.0])
    np.testing.assert_array_equal(
        z_score(observed, found.exact_mean_b_tot, found.exact_sd_b_tot), [np.nan, np.nan]
    )
    np.testing.assert_array_equal(occupancy, before)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_one_token_leaves_the_raster_as_it_is(ensemble: Callable[..., NullEnsemble]) -> None:
    found = ensemble(np.array([[[[1], [1], [0]]]], dtype=np.uint8), draws=4, seeds=[0])
    np.testing.assert_array_equal(found.b_tot, np.full((1, 4), 0.5))
    assert found.exact_mean_b_tot[0] == 0.5 and found.exact_sd_b_tot[0] == 0.0


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_p_is_uniform_and_z_standard_for_independent_sites(ensemble: Callable[..., NullEnsemble]) -> None:
    occupancy = random_raster((400, 12, 6, 40), 0.3, seed=21)
    found = ensemble(occupancy, draws=199, seeds=range(400))
    observed = branching(branching_sums(occupancy))
    for axis in AXES:
        b, mean, sd = (
            getattr(observed, f"b_{axis}"),
            *(getattr(found, f"exact_{m}_b_{axis}") for m in ("mean", "sd")),
        )
        p = np.asarray(exceedance_p(b, getattr(found, f"b_{axis}")))
        assert stats.kstest(p, "uniform").pvalue > 0.001
        assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.035)
        z = np.asarray(z_score(b, mean, sd))
        assert abs(z.mean()) < 4 / 20 and z.std() == pytest.approx(1.0, abs=4 / np.sqrt(800))


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_p_is_smallest_where_layers_repeat_each_other(ensemble: Callable[..., NullEnsemble]) -> None:
    first = random_raster((1, 12, 1, 40), 0.3, seed=22)
    occupancy = np.repeat(first, 6, axis=2)
    found, observed = ensemble(occupancy, draws=199, seeds=[0]), branching(branching_sums(occupancy))
    assert exceedance_p(observed.b_depth, found.b_depth) == 1 / 200
    assert np.asarray(z_score(observed.b_depth, found.exact_mean_b_depth, found.exact_sd_b_depth)) > 10
    assert exceedance_p(observed.b_time, found.b_time) > 1 / 200


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize("ensemble", ENSEMBLES)
@pytest.mark.parametrize(
    ("shape", "draws", "seeds"), [((2, 3, 4, 5), 9, [1]), ((3, 4, 5), 9, [1, 2, 3]), ((1, 3, 4, 5), 0, [1])]
)
def test_ensembles_reject_what_does_not_fit(
    ensemble: Callable[..., NullEnsemble], shape: tuple[int, ...], draws: int, seeds: list[int]
) -> None:
    with pytest.raises(SchemaError, match=f"got shape .* {len(seeds)} seeds and {draws} draws"):
        ensemble(np.ones(shape, dtype=np.uint8), draws=draws, seeds=seeds)
    with pytest.raises(SchemaError, match="not the counts A"):
        ensemble(np.full((1, 1, 1, 2), 3, dtype=np.uint8), draws=1, seeds=[0])


def remembering(rng: np.random.Generator, *, n_seq: int, n_layers: int, n_tokens: int) -> np.ndarray:
    """Unrelated layers, each a stationary two-state chain along its tokens: occupied stays so with 0.9, empty with 0.95."""
    x = np.zeros((n_seq, n_layers, n_tokens), dtype=np.uint8)
    x[..., 0] = rng.random((n_seq, n_layers)) < 1 / 3
    for token in range(1, n_tokens):
        stays = rng.random((n_seq, n_layers)) < np.where(x[..., token - 1] == 1, 0.9, 0.95)
        x[..., token] = np.where(stays, x[..., token - 1], 1 - x[..., token - 1])
    return x


def test_shifts_are_exceeded_by_memory_along_tokens_in_total_and_not_in_depth() -> None:
    """Why the shift is tested on depth: nothing passes between these layers."""
    rng, p = np.random.default_rng(11), {"b_tot": [], "b_depth": []}
    for repetition in range(80):
        x = remembering(rng, n_seq=16, n_layers=6, n_tokens=48)
        found, point = shift_ensemble(x[None], draws=99, seeds=[repetition]), branching(branching_sums(x))
        for name, values in p.items():
            values.append(float(exceedance_p(float(getattr(point, name)), getattr(found, name)[0])))
    assert sum(value <= 0.05 for value in p["b_tot"]) > stats.binom.ppf(0.9999, 80, 0.05)
    assert sum(value <= 0.05 for value in p["b_depth"]) <= stats.binom.ppf(0.999, 80, 0.05)
    assert stats.kstest(p["b_depth"], "uniform").pvalue > 0.01
