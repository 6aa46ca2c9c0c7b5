"""Choosing g*: the published rule, its ties, its status, its interval, and what may not enter."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from avalanche_llm.canon import load_canon
from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.branching import branching
from avalanche_llm.metrics.gstar import choose_gstar, crossing_status, nearest_to_one, refuse_task_metrics
from avalanche_llm.phases.select_gstar import choose_all, sums_from_rows
from avalanche_llm.settings import Statistics

GAINS = np.array([0.8, 0.9, 1.0, 1.1, 1.2])
NAN = float("nan")
ROW = {"spike_def_id": "SPIKE_ONE_SIDED_POS", "target_rate": 0.001}


def chosen(b_tot: Sequence[float], gains: np.ndarray = GAINS) -> float:
    index = int(nearest_to_one(gains, np.array(b_tot, dtype=float)))
    return float(gains[index]) if index >= 0 else NAN


def status(b_tot: Sequence[float]) -> str:
    values = np.array(b_tot, dtype=float)
    return crossing_status(values, int(nearest_to_one(GAINS, values)))


@pytest.mark.parametrize(
    ("b_tot", "expected"),
    [
        ([0.2, 0.6, 0.9, 1.3, 1.6], 1.0),
        ([0.2, 0.3, 0.4, 0.5, 0.6], 1.2),
        ([1.9, 1.8, 1.7, 1.6, 1.5], 1.2),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 1.0),  # all tie: the gain nearest 1
        ([0.5, 1.5, 0.2, 0.5, 0.5], 0.9),  # 0.9 and 1.1 tie in distance and in nearness to 1: the smaller
        ([0.5, 0.2, 0.2, 1.5, 0.2], 1.1),
        ([NAN, 0.1, NAN, NAN, NAN], 0.9),  # a silent raster is never chosen
    ],
)
def test_nearest_to_one_is_the_published_rule(b_tot: list[float], expected: float) -> None:
    assert chosen(b_tot) == expected


def test_nearest_to_one_is_minus_one_where_everything_is_silent() -> None:
    assert nearest_to_one(GAINS, np.array([[NAN] * 5, [0.5] * 5])).tolist() == [-1, 2]


@given(st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.25, 1.5, NAN]), min_size=5, max_size=5), st.permutations(range(5)))
def test_nearest_to_one_minimises_and_does_not_depend_on_the_order(b_tot: list[float], order: list[int]) -> None:
    values = np.array(b_tot)
    found = chosen(b_tot)
    if np.isnan(values).all():
        assert np.isnan(found)
        return
    distance = np.abs(values - 1)
    best = GAINS[distance == np.nanmin(distance)]
    nearest = np.abs(best - 1).min()
    assert found == min(gain for gain in best if abs(gain - 1) == nearest)
    assert chosen(values[order].tolist(), GAINS[order]) == found


@pytest.mark.parametrize(
    ("b_tot", "expected"),
    [
        ([0.2, 0.6, 0.9, 1.3, 1.6], "bracketed"),
        ([1.6, 1.3, 0.9, 0.6, 0.2], "bracketed"),
        ([0.2, 0.4, 1.0, 0.4, 0.2], "bracketed"),  # it is one
        ([0.9, 1.5, 1.6, 1.7, 1.8], "bracketed"),  # at the edge, but it crosses inside the grid
        ([0.2, 0.3, 0.4, 0.5, 0.6], "grid_edge"),
        ([1.1, 1.2, 1.3, 1.4, 1.5], "grid_edge"),
        ([0.2, 0.3, 0.8, 0.5, 0.4], "no_crossing"),
        ([0.2, NAN, 0.8, NAN, 1.9], "no_crossing"),  # a silent neighbour proves nothing
    ],
)
def test_crossing_status_says_whether_b_tot_crosses_one_beside_the_choice(b_tot: list[float], expected: str) -> None:
    assert status(b_tot) == expected
    assert expected in load_canon()["ENUM.GSTAR_STATUS"]


def test_choose_gstar_reports_distance_interval_and_shares() -> None:
    b_tot = np.array([0.2, 0.6, 0.9, 1.3, 1.6])
    replicates = np.array([[0.2, 0.6, 0.9, 1.3, 1.6]] * 60 + [[0.2, 0.95, 1.4, 1.8, 2.0]] * 38 + [[NAN] * 5] * 2)
    found = choose_gstar(GAINS, b_tot, replicates)
    assert (found.gstar, found.b_tot, found.status) == (1.0, 0.9, "bracketed")
    assert found.distance == pytest.approx(0.1)
    assert (found.ci_low, found.ci_high) == (0.9, 1.0)
    assert found.n_valid_replicates == 98
    assert found.bootstrap_share == {"0.9": pytest.approx(38 / 98), "1": pytest.approx(60 / 98)}


def test_choose_gstar_interval_holds_gains_of_the_grid_only() -> None:
    rng = np.random.default_rng(0)
    found = choose_gstar(GAINS, np.array([0.5, 0.7, 0.9, 1.2, 1.4]), rng.uniform(0.5, 1.5, (101, 5)))
    assert {found.ci_low, found.ci_high} <= set(GAINS.tolist())
    assert sum(found.bootstrap_share.values()) == pytest.approx(1)


def test_choose_gstar_of_silent_rasters_is_an_error() -> None:
    with pytest.raises(SchemaError, match="b_tot is undefined at every gain") as caught:
        choose_gstar(GAINS, np.full(5, NAN), np.full((3, 5), NAN))
    assert caught.value.exit_code == 2


def sums(n_seq: int = 6, *, seed: int = 0, rates: Sequence[float] = (0.001, 0.002)) -> pd.DataFrame:
    """branching_sums as the grid leaves them, with one-step branching that rises with the gain."""
    rng = np.random.default_rng(seed)
    rows = []
    for rate in rates:
        for gain in GAINS:
            for seq in range(n_seq):
                n_sites = int(rng.integers(40, 60))
                pairs = rng.binomial(n_sites, min(gain - 0.45, 1), 2)
                rows.append(
                    ROW
                    | {"target_rate": rate, "g": gain, "seq_id": seq, "n_sites": n_sites}
                    | {"time_pairs": pairs[0], "depth_pairs": pairs[1]}
                    | {f"{null}_{axis}_pairs": 1.0 for null in ("perm", "shift") for axis in ("time", "depth")}
                )
    return pd.DataFrame(rows)


@pytest.fixture
def statistics(config: Path) -> Statistics:
    return tiny.job_of(config, config.parent).settings.statistics


def test_refuse_task_metrics_lets_branching_pass_and_nothing_else() -> None:
    refuse_task_metrics(sums().columns.tolist())
    for task in ("accuracy", "ppl", "nll_mean"):
        with pytest.raises(
            SchemaError, match=f"g\\* is chosen from branching on data set A alone; remove {task} from its inputs"
        ) as caught:
            refuse_task_metrics([*sums().columns, task])
        assert caught.value.exit_code == 2


def test_choose_all_refuses_a_task_metric_among_its_inputs(statistics: Statistics) -> None:
    with pytest.raises(SchemaError, match="remove accuracy"):
        choose_all(sums().assign(accuracy=0.5), statistics)


def test_choose_all_chooses_in_every_cell_whatever_the_order_of_the_rows(statistics: Statistics) -> None:
    frame = sums()
    found = choose_all(frame, statistics)
    assert [row["target_rate"] for row in found] == [0.001, 0.002]
    assert choose_all(frame.sample(frac=1, random_state=3), statistics) == found
    for row in found:
        cell = frame[frame["target_rate"] == row["target_rate"]]
        totals = cell.groupby("g")[["time_pairs", "depth_pairs", "n_sites"]].sum()
        b_tot = (totals["time_pairs"] + totals["depth_pairs"]) / totals["n_sites"]
        assert row["gstar"] == (b_tot - 1).abs().idxmin()
        assert row["b_tot"] == pytest.approx(b_tot[row["gstar"]])
        assert row["status"] == "bracketed"


def test_choose_all_resamples_the_same_sequences_at_every_gain(statistics: Statistics) -> None:
    """The same rows at every gain give the same b_tot in every replicate, so the tie always goes to the gain nearest 1."""
    one = sums(rates=(0.001,)).query("g == 1.0")
    frame = pd.concat([one.assign(g=gain) for gain in GAINS])
    (found,) = choose_all(frame, statistics)
    assert found["bootstrap_share"] == {"1": 1.0}
    assert (found["ci_low"], found["ci_high"]) == (1.0, 1.0)


def test_sums_from_rows_has_gains_before_sequences() -> None:
    frame = sums(rates=(0.001,)).sort_values(["g", "seq_id"])
    found = sums_from_rows(frame, len(GAINS))
    assert found.n_sites.shape == (5, 6)
    totals = frame.groupby("g")[["time_pairs", "depth_pairs", "n_sites"]].sum()
    expected = (totals["time_pairs"] + totals["depth_pairs"]) / totals["n_sites"]
    np.testing.assert_allclose(branching(found).b_tot, expected)
