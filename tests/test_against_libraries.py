"""The same data through the libraries people trust: `powerlaw` with its reference data sets, and scipy.

`mrestimator` and `cc3d` are not among the locked dependencies and are left out.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, optimize, stats
from scipy.sparse import csgraph, csr_matrix

from avalanche_llm.metrics.avalanches import avalanches
from avalanche_llm.metrics.branching import branching, branching_sums
from avalanche_llm.metrics.null_ensemble import permutation_ensemble
from avalanche_llm.metrics.regression import multistep_regression
from avalanche_llm.metrics.signatures import sequence_totals, susceptibility_bootstrap
from avalanche_llm.metrics.stats import bootstrap_weights, exceedance_p, percentile_interval
from avalanche_llm.metrics.tails import fit_tail
from avalanche_llm.raster.build import occupancy
from avalanche_llm.raster.cc import label_components
from avalanche_llm.simulate.cascade import branching_process
from avalanche_llm.simulate.drive import latent_drive
from avalanche_llm.simulate.lattice import site_percolation
from avalanche_llm.simulate.truth import Shape

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own import warnings are not under test
    import powerlaw

REFERENCE = Path(powerlaw.__file__).parent / "reference_data"
"""Data sets of Clauset, Shalizi and Newman (2009), as the library ships them."""


def reference(name: str) -> np.ndarray:
    return np.loadtxt(REFERENCE / f"{name}.txt").astype(np.int64)


@pytest.mark.parametrize(
    ("name", "n", "alpha", "alpha_error", "xmin", "xmin_error"),
    [
        ("words", 18_855, 1.95, 0.02, 7, 2),
        ("terrorism", 9_101, 2.4, 0.2, 12, 4),
        ("flares", 12_773, 1.79, 0.02, 323, 89),
        ("cities", 19_447, 2.37, 0.08, 52_460, 11_880),
        ("blackouts", 211, 2.3, 0.3, 230_000, 90_000),
    ],
)
def test_fit_tail_gives_the_published_exponents_of_the_reference_data(
    name: str, n: int, alpha: float, alpha_error: float, xmin: float, xmin_error: float
) -> None:
    """Clauset et al. 2009, table 6.1: exponent and xmin within the errors that are printed there."""
    sizes = reference(name)
    assert len(sizes) == n
    found = fit_tail(sizes, xmin_percentile=0.8, min_tail_samples=40)
    assert found.ks_alpha == pytest.approx(alpha, abs=alpha_error)
    assert found.ks_xmin == pytest.approx(xmin, abs=xmin_error)


@pytest.mark.parametrize(("name", "xmin", "alpha", "error"), [("words", 7, 1.95, 0.005), ("terrorism", 12, 2.4, 0.05)])
def test_fit_tail_of_a_reference_tail_agrees_with_the_library(name: str, xmin: int, alpha: float, error: float) -> None:
    """At the published xmin: the exponent to its printed digits, and the library's exponent and likelihood ratio."""
    tail = reference(name)
    tail = tail[tail >= xmin]
    found = fit_tail(tail, xmin_percentile=0.0, min_tail_samples=100)
    assert found.alpha_powerlaw == pytest.approx(alpha, abs=error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = powerlaw.Fit(tail, discrete=True, xmin=xmin, estimate_discrete=False, verbose=0)
        ratio, _ = other.distribution_compare("power_law", "lognormal")
    assert found.alpha_powerlaw == pytest.approx(other.power_law.alpha, abs=1e-3)
    assert found.llr_powerlaw_vs_lognormal == pytest.approx(ratio, abs=0.1)
    assert found.vuong_p_lognormal > 0.3  # table 6.2: no preference between the two laws


@pytest.mark.parametrize(("adjacency_id", "connectivity"), [("ADJ_4N", 1), ("ADJ_8N", 2)])
def test_components_are_those_of_scipy_sequence_by_sequence(adjacency_id: str, connectivity: int) -> None:
    """Number, sizes and boxes of every component, labelled one sequence at a time without our structure."""
    simulated = latent_drive(Shape(12, 20, 60), 0.4, gamma_shape=1.0, persistence=0.7, seed=1)
    counts, x = simulated.counts, occupancy(simulated.counts)
    found = avalanches(x, counts, adjacency_id=adjacency_id, max_per_sequence=1200)
    for seq in range(len(x)):
        labels, n = ndimage.label(x[seq], structure=ndimage.generate_binary_structure(2, connectivity))
        index = np.arange(1, n + 1)
        boxes = ndimage.find_objects(labels)
        expected = sorted(
            zip(
                ndimage.sum_labels(counts[seq], labels, index).astype(int).tolist(),
                ndimage.sum_labels(x[seq], labels, index).astype(int).tolist(),
                [box[1].stop - box[1].start for box in boxes],
                [box[0].stop - box[0].start for box in boxes],
                strict=True,
            )
        )
        mine = found.seq_id == seq
        columns = (found.size, found.n_sites, found.span_tokens, found.span_layers)
        assert sorted(zip(*(column[mine].tolist() for column in columns), strict=True)) == expected


def test_labels_are_the_connected_components_of_the_graph_of_sites() -> None:
    """A second algorithm, scipy.sparse.csgraph, on percolation at its threshold: the same partition of the sites."""
    x = occupancy(site_percolation(Shape(3, 40, 50), "ADJ_4N", seed=2).counts)
    labels, n = label_components(x, "ADJ_4N")
    site = np.arange(x.size).reshape(x.shape)
    edges = []
    for axis in (1, 2):
        first, second = (np.delete(site, end, axis=axis) for end in (-1, 0))
        both = x.ravel()[first].astype(bool) & x.ravel()[second].astype(bool)
        edges.append(np.stack([first[both], second[both]]))
    start, stop = np.concatenate(edges, axis=1)
    graph = csr_matrix((np.ones(len(start)), (start, stop)), shape=(x.size, x.size))
    _, other = csgraph.connected_components(graph, directed=False)
    occupied = x.ravel() > 0
    pairs = np.unique(np.stack([labels.ravel()[occupied], other[occupied]]), axis=1)
    assert pairs.shape[1] == len(np.unique(other[occupied])) == n


@pytest.mark.parametrize("statistic", ["delta_b_tot", "chi"])
def test_bootstrap_interval_is_that_of_scipy(statistic: str) -> None:
    """scipy.stats.bootstrap with its own resamples: bounds agree within the noise of 20000 replicates."""
    simulated = latent_drive(Shape(40, 6, 50), 0.3, gamma_shape=1.0, persistence=0.5, seed=3)
    sums, totals = branching_sums(occupancy(simulated.counts)), sequence_totals(simulated.counts)
    weights = bootstrap_weights(40, reps=20_000, seed=4)
    pairs = sums.time_pairs + sums.depth_pairs - sums.perm_time_pairs - sums.perm_depth_pairs
    if statistic == "chi":
        ours = percentile_interval(susceptibility_bootstrap(totals, weights, eps=0.0))
        data, of = (totals.astype(float),), lambda y, axis: y.var(axis=axis) / y.mean(axis=axis)
    else:
        ours = percentile_interval(branching(sums, weights).delta_b_tot)
        data, of = (pairs, sums.n_sites), lambda p, n, axis: p.sum(axis=axis) / n.sum(axis=axis)
    theirs = stats.bootstrap(
        data, of, paired=True, vectorized=True, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)


def test_permutation_p_is_that_of_scipy() -> None:
    """One layer, so that scipy can permute it: p of the number of neighbouring pairs, 9999 permutations each."""
    layer = (np.random.default_rng(6).random(200) < 0.35).astype(np.uint8)
    x = layer[None, None, None, :]
    observed = branching(branching_sums(x)).b_time
    ours = exceedance_p(observed, permutation_ensemble(x, draws=9999, seeds=[7]).b_time)
    theirs = stats.permutation_test(
        (layer.astype(int),),
        lambda row: float((row[1:] * row[:-1]).sum()),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=9999,
        rng=np.random.default_rng(8),
    ).pvalue
    assert 0.02 < theirs < 0.98
    assert np.asarray(ours) == pytest.approx(theirs, abs=0.025)


def test_multistep_regression_is_the_fit_of_scipy_to_slopes_of_linregress() -> None:
    """Slopes by scipy.stats.linregress on the deviations, then curve_fit of b m^k."""
    simulated = branching_process(Shape(50, 1, 300), 0.9, immigration=50.0, seen=0.2, seed=9)
    activity = simulated.counts.sum(axis=1, dtype=np.int64)
    found = multistep_regression(activity, k_max=20)
    deviation = activity - activity.mean(axis=0)
    slopes = [stats.linregress(deviation[:, :-k].ravel(), deviation[:, k:].ravel()).slope for k in range(1, 21)]
    np.testing.assert_allclose(found.slopes, slopes, atol=1e-10)
    (m, b), _ = optimize.curve_fit(lambda k, m, b: b * m**k, np.arange(1.0, 21.0), slopes, p0=(0.8, 0.5))
    assert (found.m, found.b) == pytest.approx((m, b), abs=1e-5)
