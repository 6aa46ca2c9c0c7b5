"""The same data through the libraries people trust: `powerlaw` with its reference data sets, scipy, cc3d and mrestimator.

The ARC scores are compared elsewhere, with a loop over single choices on the plain model (test_choices.py, test_arc.py):
lm-evaluation-harness brings ten packages that nothing else needs.
"""

import warnings
from pathlib import Path

import cc3d
import mrestimator
import numpy as np
import pytest
from jaxtyping import Int64
from scipy import ndimage, optimize, stats
from scipy.sparse import csgraph, csr_matrix

from avalanche_llm.metrics.avalanches import avalanches
from avalanche_llm.metrics.branching import branching, branching_interval, branching_sums
from avalanche_llm.metrics.null_ensemble import permutation_ensemble
from avalanche_llm.metrics.regression import multistep_regression
from avalanche_llm.metrics.stats import bootstrap_weights, exceedance_p
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


@pytest.mark.parametrize(("adjacency_id", "connectivity"), [("ADJ_4N", 4), ("ADJ_8N", 8)])
def test_component_statistics_are_those_of_cc3d(adjacency_id: str, connectivity: int) -> None:
    """Sites and corners of every component, from a two-pass union-find that shares no code with scipy."""
    counts = site_percolation(Shape(8, 30, 50), adjacency_id, seed=11).counts
    x = occupancy(counts)
    found = avalanches(x, counts, adjacency_id=adjacency_id, max_per_sequence=1200)
    for seq in range(len(x)):
        statistics = cc3d.statistics(cc3d.connected_components(x[seq], connectivity=connectivity))
        expected = sorted(
            (int(sites), layers.start, layers.stop - 1, tokens.start, tokens.stop - 1)
            for sites, (layers, tokens) in zip(statistics["voxel_counts"][1:], statistics["bounding_boxes"][1:], strict=True)
        )  # entry 0 is the empty sites
        columns = (found.n_sites, found.l_min, found.l_max, found.t_min, found.t_max)
        mine = found.seq_id == seq
        assert sorted(zip(*(column[mine].tolist() for column in columns), strict=True)) == expected
        assert len(expected) > 20


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


@pytest.mark.parametrize("statistic", ["delta_b_tot", "b_tot"])
def test_interval_has_the_bias_and_standard_error_of_scipy_s_bootstrap(statistic: str) -> None:
    """scipy.stats.bootstrap with its own resamples, 20000 of them, each scaled up by n / (n - 1) as in `metrics.stats`."""
    simulated = latent_drive(Shape(40, 6, 50), 0.3, gamma_shape=1.0, persistence=0.5, seed=3)
    sums, weights = branching_sums(occupancy(simulated.counts)), bootstrap_weights(40, reps=20_000, seed=4)
    found = branching_interval(statistic, sums, branching(sums), branching(sums, weights), weights)
    ours, value = np.array([found.low, found.high]), float(getattr(branching(sums), statistic))
    pairs, scale = sums.time_pairs + sums.depth_pairs, np.log
    if statistic == "delta_b_tot":
        pairs, scale = pairs - sums.perm_time_pairs - sums.perm_depth_pairs, np.asarray
    theirs = stats.bootstrap(
        (pairs, sums.n_sites),
        lambda p, n, axis: scale(p.sum(axis=axis) / n.sum(axis=axis)),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(5),
    )
    ours, value = scale(ours), float(scale(value))
    few = 40 / 39
    half = stats.t.ppf(0.975, 39) * np.sqrt(few) * theirs.standard_error
    middle = value - few * (theirs.bootstrap_distribution.mean() - value)
    np.testing.assert_allclose(ours, [middle - half, middle + half], atol=0.03 * half)


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


def activity_of(m: float, *, seen: float, seed: int) -> Int64[np.ndarray, "trial time"]:
    """Branching with immigration, subsampled: 50 trials of 300 steps."""
    simulated = branching_process(Shape(50, 1, 300), m, immigration=50.0, seen=seen, seed=seed)
    return simulated.counts.sum(axis=1, dtype=np.int64)


def library_fit(activity: np.ndarray, method: str) -> mrestimator.FitResult:
    """mrestimator over lags 1 to 20 with its own bootstrap over trials, and 95 % intervals."""
    slopes = mrestimator.coefficients(activity.astype(float), method=method, steps=(1, 20), numboot=300, seed=12)
    return mrestimator.fit(
        slopes, fitfunc=mrestimator.f_exponential, numboot=300, quantiles=np.array([0.025, 0.975]), seed=13
    )


@pytest.mark.parametrize(("m", "seen"), [(0.6, 1.0), (0.9, 0.2), (0.98, 0.1)])
def test_m_lies_in_the_interval_of_mrestimator(m: float, seen: float) -> None:
    """Stationary activity, so that the library's one mean and ours at every time are the same: m to a part in a thousand."""
    activity = activity_of(m, seen=seen, seed=9)
    found = multistep_regression(activity, k_max=20)
    other = library_fit(activity, "stationarymean")
    low, high = other.mrequantiles
    assert low < found.m < high
    assert high - low < 0.1
    assert found.m == pytest.approx(other.mre, abs=1e-3)


def test_slopes_are_those_of_mrestimator_on_deviations() -> None:
    """Given what is left of the activity when the mean of every time is gone: the library's regressions, lag by lag."""
    activity = activity_of(0.9, seen=0.2, seed=9)
    slopes = mrestimator.coefficients(activity - activity.mean(axis=0), method="stationarymean", steps=(1, 20), numboot=0)
    np.testing.assert_allclose(multistep_regression(activity, k_max=20).slopes, slopes.coefficients, atol=2e-3)


def test_m_differs_on_purpose_where_all_trials_share_a_profile() -> None:
    """We remove the mean over trials at every time, the library one mean (stationarymean) or one a trial (trialseparated).

    A profile that all trials share, as after the first token, is no memory; one mean leaves it in and takes it for slow decay.
    One mean a trial is the bias of short trials, towards smaller m (Marriott and Pope 1954, Biometrika 41, 390). Both
    methods of the library are those of Spitzner et al. 2021, PLOS ONE 16, e0249447. m is 0.8 here.
    """
    plain = activity_of(0.8, seen=0.2, seed=10)
    profile = np.rint(100 * np.exp(-np.arange(300) / 100)).astype(np.int64)
    ours = [multistep_regression(activity, k_max=20) for activity in (plain, plain + profile)]
    assert ours[0].m == pytest.approx(ours[1].m, abs=1e-9)
    assert ours[0].m == pytest.approx(0.8, abs=0.02)
    assert library_fit(plain + profile, "stationarymean").mre > 0.9
    short = plain[:, :60]
    assert library_fit(short, "trialseparated").mre < multistep_regression(short, k_max=20).m - 0.05
