"""Choosing g*: the published rule, its ties, its status, its interval, and what may not enter."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from avalanche_llm.canon import load_canon
from avalanche_llm.cli import GSTAR_METHODS, main
from avalanche_llm.errors import SchemaError
from avalanche_llm.io.files import json_bytes
from avalanche_llm.metrics.branching import branching
from avalanche_llm.metrics.gstar import (
    CRITERIA,
    GstarChoice,
    choose_gstar,
    crossing_status,
    least,
    peak_status,
    refuse_task_metrics,
    shown_first,
)
from avalanche_llm.metrics.regression import multistep_regression
from avalanche_llm.metrics.stats import Interval
from avalanche_llm.phases.select_gstar import choose_all, sums_from_rows
from avalanche_llm.settings import GstarMethod, Statistics
from avalanche_llm.simulate.cascade import branching_process
from avalanche_llm.simulate.truth import Shape

GAINS = np.array([0.8, 0.9, 1.0, 1.1, 1.2])
NO_INTERVAL = Interval(np.full(5, np.nan), np.full(5, np.nan), np.zeros(5, np.int64))
NAN = float("nan")
ROW = {"spike_def_id": "SPIKE_ONE_SIDED_POS", "target_rate": 0.001}


def best(values: Sequence[Any], method: GstarMethod = "btot_near_one", gains: np.ndarray = GAINS) -> np.ndarray:
    return least(gains, CRITERIA[method].misfit(np.array(values, dtype=float)))


def chosen(b_tot: Sequence[float], gains: np.ndarray = GAINS) -> float:
    index = int(best(b_tot, gains=gains))
    return float(gains[index]) if index >= 0 else NAN


def status(b_tot: Sequence[float]) -> str:
    return crossing_status(np.array(b_tot, dtype=float), int(best(b_tot)))


def by_b_tot(b_tot: np.ndarray, replicates: np.ndarray) -> GstarChoice:
    return choose_gstar(GAINS, b_tot, b_tot, replicates, NO_INTERVAL, "btot_near_one")


def by_rule(frame: pd.DataFrame, statistics: Statistics, method: GstarMethod = "btot_near_one") -> list[dict[str, Any]]:
    return choose_all(frame, statistics, method, {})


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
    assert best([[NAN] * 5, [0.5] * 5]).tolist() == [-1, 2]


@pytest.mark.parametrize(("lower", "upper"), [(0.7, 1.3), (0.8, 1.2), (0.85, 1.15), (0.9, 1.1), (0.95, 1.05)])
@pytest.mark.parametrize("method", get_args(GstarMethod))
def test_a_tie_of_gains_equally_near_one_goes_to_the_smaller(lower: float, upper: float, method: GstarMethod) -> None:
    """In floats 1.15 is nearer to one than 0.85: a choice by rounding."""
    gains = np.array([lower, 1.0, upper])
    assert gains[best([1.0, 0.5, 1.0], method, gains)] == lower


@given(st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.25, 1.5, NAN]), min_size=5, max_size=5), st.permutations(range(5)))
def test_nearest_to_one_minimises_and_does_not_depend_on_the_order(b_tot: list[float], order: list[int]) -> None:
    values = np.array(b_tot)
    found = chosen(b_tot)
    if np.isnan(values).all():
        assert np.isnan(found)
        return
    distance = np.abs(values - 1)
    tied = GAINS[distance == np.nanmin(distance)]
    nearest = np.abs(tied - 1).min()
    assert found == min(gain for gain in tied if abs(gain - 1) == nearest)
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
    found = by_b_tot(b_tot, replicates)
    assert (found.gstar, found.b_tot, found.status) == (1.0, 0.9, "bracketed")
    assert found.distance == pytest.approx(0.1)
    assert found.criterion == 0.9
    assert (found.ci_low, found.ci_high) == (0.9, 1.0)
    assert found.n_valid_replicates == 98
    assert found.bootstrap_share == {"0.9": pytest.approx(38 / 98), "1": pytest.approx(60 / 98)}


def test_choose_gstar_interval_holds_gains_of_the_grid_only() -> None:
    rng = np.random.default_rng(0)
    found = by_b_tot(np.array([0.5, 0.7, 0.9, 1.2, 1.4]), rng.uniform(0.5, 1.5, (101, 5)))
    assert {found.ci_low, found.ci_high} <= set(GAINS.tolist())
    assert sum(found.bootstrap_share.values()) == pytest.approx(1)


def test_choose_gstar_of_silent_rasters_is_an_error() -> None:
    with pytest.raises(SchemaError, match="b_tot is undefined at every gain") as caught:
        by_b_tot(np.full(5, NAN), np.full((3, 5), NAN))
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
        by_rule(sums().assign(accuracy=0.5), statistics)


def test_choose_all_chooses_in_every_cell_whatever_the_order_of_the_rows(statistics: Statistics) -> None:
    frame = sums()
    found = by_rule(frame, statistics)
    assert [row["target_rate"] for row in found] == [0.001, 0.002]
    assert by_rule(frame.sample(frac=1, random_state=3), statistics) == found
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
    (found,) = by_rule(frame, statistics)
    assert found["bootstrap_share"] == {"1": 1.0}
    assert (found["ci_low"], found["ci_high"]) == (1.0, 1.0)


def test_sums_from_rows_has_gains_before_sequences() -> None:
    frame = sums(rates=(0.001,)).sort_values(["g", "seq_id"])
    found = sums_from_rows(frame, len(GAINS))
    assert found.n_sites.shape == (5, 6)
    totals = frame.groupby("g")[["time_pairs", "depth_pairs", "n_sites"]].sum()
    expected = (totals["time_pairs"] + totals["depth_pairs"]) / totals["n_sites"]
    np.testing.assert_allclose(branching(found).b_tot, expected)


# --- the other methods


def test_every_method_of_the_registry_is_one_of_the_config_and_of_the_command_line() -> None:
    assert load_canon()["ENUM.GSTAR_METHOD"] == GSTAR_METHODS == get_args(GstarMethod) == tuple(CRITERIA)


@pytest.mark.parametrize(
    ("excess", "expected", "status"),
    [
        ([0.1, 0.2, 0.3, 0.2, 0.1], 1.0, "bracketed"),
        ([0.1, 0.4, 0.3, 0.2, 0.1], 0.9, "bracketed"),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 1.2, "grid_edge"),
        ([0.2, 0.2, 0.2, 0.2, 0.2], 1.0, "no_crossing"),  # flat: the gain nearest 1, but no peak
        ([0.1, 0.3, 0.1, 0.3, 0.1], 0.9, "bracketed"),  # a tie of two peaks: the smaller
        ([-0.3, -0.2, -0.1, -0.2, -0.3], 1.0, "no_crossing"),  # less than chance everywhere
        ([NAN, NAN, 0.3, 0.2, 0.1], 1.0, "no_crossing"),  # a silent neighbour proves nothing
    ],
)
def test_largest_is_the_peak_and_its_status_says_whether_it_is_one(excess: list[float], expected: float, status: str) -> None:
    chosen = int(best(excess, "excess_peak"))
    assert GAINS[chosen] == expected
    assert peak_status(np.array(excess), chosen) == status


@pytest.mark.parametrize(
    ("replicates", "expected", "interval"),
    [
        ([[0.1, 0.2, 0.3, 0.2, 0.1]] * 100, "bracketed", (1.0, 1.0)),
        ([[0.1, 0.2, 0.3, 0.2, 0.1]] * 50 + [[0.1, 0.3, 0.2, 0.2, 0.1]] * 50, "bracketed", (0.9, 1.0)),
        ([[0.1, 0.2, 0.3, 0.2, 0.1]] * 90 + [[0.4, 0.3, 0.2, 0.2, 0.1]] * 10, "no_crossing", (0.8, 1.0)),
        ([[NAN] * 5] * 4, "no_crossing", (None, None)),
    ],
)
def test_a_peak_is_bracketed_only_where_resampled_sequences_have_it_inside_the_grid(
    replicates: list[list[float]], expected: str, interval: tuple[float | None, float | None]
) -> None:
    values = np.array([0.1, 0.2, 0.3, 0.2, 0.1])
    found = choose_gstar(GAINS, values + 0.5, values, np.array(replicates), NO_INTERVAL, "excess_peak")
    assert (found.gstar, found.status) == (1.0, expected)
    assert (found.ci_low, found.ci_high) == interval


def test_a_flat_excess_with_noise_is_seldom_a_peak() -> None:
    """Without the look at resampled sequences three of five such curves would be bracketed."""
    rng, seen = np.random.default_rng(0), []
    for _ in range(200):
        of_sequence = 0.2 + rng.normal(0.0, 0.01, (16, 5))
        replicates = rng.multinomial(16, np.full(16, 1 / 16), size=200) @ of_sequence / 16
        excess = of_sequence.mean(axis=0)
        seen.append(choose_gstar(GAINS, excess, excess, replicates, NO_INTERVAL, "excess_peak").status)
    assert 0.0 < np.mean([status == "bracketed" for status in seen]) < 0.15


def test_choose_gstar_without_a_replicate_can_be_written() -> None:
    """Few sequences hold the quantity, and no resample does: null in gstar.json, which holds no NaN."""
    values = np.array([0.1, 0.4, 1.0, 0.4, 0.1])
    found = choose_gstar(GAINS, values, values, np.full((20, 5), NAN), NO_INTERVAL, "btot_near_one")
    assert (found.gstar, found.ci_low, found.ci_high, found.bootstrap_share) == (1.0, None, None, {})
    assert b'"ci_low": null' in json_bytes({"selections": [asdict(found)]})


def test_choose_gstar_holds_the_whole_curve_with_its_intervals() -> None:
    b_tot = np.array([NAN, 0.6, 0.9, 1.3, 1.6])
    interval = Interval(b_tot - 0.1, b_tot + 0.1, np.array([0, 99, 100, 100, 100]))
    found = choose_gstar(GAINS, b_tot, b_tot, b_tot[None], interval, "btot_near_one").curve
    assert [point.g for point in found] == GAINS.tolist()
    assert (found[0].criterion, found[0].ci_low, found[0].n_valid_replicates) == (None, None, 0)
    assert (found[1].criterion, found[1].n_valid_replicates) == (0.6, 99)
    assert (found[3].ci_low, found[3].ci_high) == pytest.approx((1.2, 1.4))


@pytest.mark.parametrize(
    ("method", "criteria", "expected"),
    [
        ("btot_near_one", [0.5, 0.97, 1.02, 1.2], 2),
        ("btot_near_one", [1.02, 0.98, 0.5, 0.5], 0),  # equally near: the first
        ("mr_near_one", [0.9, 0.5, 0.93, 0.2], 2),
        ("excess_peak", [0.1, 0.3, 0.2, -1.0], 1),
    ],
)
def test_shown_first_is_the_cell_that_fits_its_rule_best(method: GstarMethod, criteria: list[float], expected: int) -> None:
    """Whatever b_tot is there: by the published rule it is what is looked at, by the others it is not."""
    rows = [{"place": place, "criterion": value, "distance": 1.0 / (place + 1)} for place, value in enumerate(criteria)]
    assert shown_first(rows, method)["place"] == expected


def test_largest_is_minus_one_where_everything_is_silent() -> None:
    assert best([[NAN] * 5, [NAN, 0.1, 0.2, 0.1, NAN]], "excess_peak").tolist() == [-1, 2]


def test_choose_all_by_the_peak_of_the_excess(statistics: Statistics) -> None:
    """b_tot rises with the gain, its null more steeply beyond 1.1: the excess peaks where b_tot is not nearest one."""
    frame = sums(n_seq=8)
    frame["perm_time_pairs"] = frame["n_sites"] * (4 * (frame["g"] - 1.1).clip(lower=0))
    for row in by_rule(frame, statistics, "excess_peak"):
        cell = frame[frame["target_rate"] == row["target_rate"]].groupby("g").sum()
        excess = (cell["time_pairs"] + cell["depth_pairs"] - cell["perm_time_pairs"] - cell["perm_depth_pairs"]) / cell["n_sites"]
        b_tot = (cell["time_pairs"] + cell["depth_pairs"]) / cell["n_sites"]
        assert row["gstar"] == excess.idxmax() == 1.1
        assert row["criterion"] == pytest.approx(excess.max())
        assert row["status"] == "bracketed"
        assert (row["b_tot"], row["distance"]) == pytest.approx((b_tot[1.1], abs(b_tot[1.1] - 1)))
        assert row["gstar"] != (b_tot - 1).abs().idxmin()
        assert row["ci_low"] <= 1.1 <= row["ci_high"]


def test_choose_all_by_m_takes_the_gain_of_the_process_nearest_one(statistics: Statistics) -> None:
    """Branching processes of known m, whose activity the sums know nothing of."""
    truth = dict(zip(GAINS, (0.5, 0.7, 0.8, 0.95, 0.6), strict=True))
    activity = np.stack(
        [
            branching_process(Shape(20, 1, 300), m, immigration=20.0, seen=0.3, seed=5).counts.sum(axis=1, dtype=np.int64)
            for m in truth.values()
        ]
    )
    (row,) = choose_all(sums(n_seq=20, rates=(0.001,)), statistics, "mr_near_one", {tuple(ROW.values()): activity})
    assert row["gstar"] == 1.1
    assert row["criterion"] == pytest.approx(multistep_regression(activity[3], k_max=20).m)
    assert row["criterion"] == pytest.approx(0.95, abs=0.02)
    assert row["status"] == "no_crossing"  # m stays below one on both sides
    assert (row["ci_low"], row["ci_high"]) == (1.1, 1.1)
    assert row["n_valid_replicates"] == statistics.bootstrap_reps


def test_choose_all_by_m_stops_where_no_gain_has_a_memory(statistics: Statistics) -> None:
    activity = np.random.default_rng(0).poisson(1.0, size=(5, 6, 300)).astype(np.int64)
    with pytest.raises(SchemaError, match=r"^SPIKE_ONE_SIDED_POS at target rate 0.001: m is not available at any gain: no memory along tokens .*; use btot_near_one") as caught:
        choose_all(sums(rates=(0.001,)), statistics, "mr_near_one", {tuple(ROW.values()): activity})
    assert caught.value.exit_code == 2


def selections_of(runs: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tiny.run_of(runs, "S02B") / "results" / "gstar.json").read_bytes())
    return found


def test_the_peak_of_the_excess_is_chosen_on_the_same_grid_and_measured(pipeline: Path, model_folder: Path, tmp_path: Path) -> None:
    runs = tiny.copied(pipeline, tmp_path / "runs", "S01", "S02")
    config = tiny.write_config(tmp_path / "c.yaml", model_folder)
    arguments = ["--config", str(config), "--runs_dir", str(runs)]
    assert main(["phase2_select_gstar", *arguments, "--gstar_method", "excess_peak"]) == 0
    chosen, published = selections_of(runs), selections_of(pipeline)
    assert chosen["method"] == "excess_peak"
    assert chosen["inputs"] == published["inputs"]
    metrics = pd.read_parquet(tiny.run_of(runs, "S02") / "results" / "metrics.parquet").set_index("g")
    assert len(chosen["selections"]) == 4
    for row, other in zip(chosen["selections"], published["selections"], strict=True):
        assert row.keys() == other.keys()
        cell = metrics[(metrics["spike_def_id"] == row["spike_def_id"]) & (metrics["target_rate"] == row["target_rate"])]
        assert row["gstar"] == cell["delta_b_tot"].idxmax()
        assert row["criterion"] == pytest.approx(cell["delta_b_tot"].max())
        assert row["b_tot"] == pytest.approx(cell.loc[row["gstar"], "b_tot"])
        curve = pd.DataFrame(row["curve"]).set_index("g")
        pd.testing.assert_series_equal(curve["criterion"], cell["delta_b_tot"], check_names=False)
        pd.testing.assert_series_equal(curve["ci_low"], cell["delta_b_tot_ci_low"], check_names=False)
    assert main(["phase3_extract_rasters", "--config", str(config), "--runs_dir", str(runs)]) == 3  # another method: another run
    again = tiny.write_config(tmp_path / "peak.yaml", model_folder, pipeline__gstar_method="excess_peak")
    assert main(["phase3_extract_rasters", "--config", str(again), "--runs_dir", str(runs)]) == 0
    conditions = pd.read_parquet(tiny.run_of(runs, "S03") / "results" / "metrics.parquet")
    assert {row["gstar"] for row in chosen["selections"]} <= set(conditions["g"])


def test_m_nearest_one_is_chosen_from_the_events_of_the_grid(model_folder: Path, tmp_path: Path) -> None:
    """m of every gain counted a second time, from the events and thresholds as they are stored."""
    changes: dict[str, Any] = {"events__target_rates": [0.05, 0.2], "pipeline__gstar_method": "mr_near_one"}
    config, runs = tiny.write_config(tmp_path / "c.yaml", model_folder, **changes), tmp_path / "runs"
    for phase in (*tiny.PHASES, "phase3_extract_rasters"):
        assert main([phase, "--config", str(config), "--runs_dir", str(runs)]) == 0
    grid = tiny.run_of(runs, "S02") / "results"
    events = pd.read_parquet(grid / "activation_events.parquet").merge(pd.read_parquet(grid / "tau_rate_matched.parquet"))
    size = events["z"].where(events["spike_def_id"] == "SPIKE_ONE_SIDED_POS", events["z"].abs())
    counted = events[size > events["tau"]].groupby(["spike_def_id", "target_rate", "g", "seq_id", "token"]).size()
    chosen = selections_of(runs)
    assert chosen["method"] == "mr_near_one"
    assert {"z", "tau"} < set(chosen["inputs"])
    assert {"accuracy", "nll_mean", "ppl", "achieved_rate"}.isdisjoint(chosen["inputs"])
    index = pd.MultiIndex.from_product([range(tiny.N_WINDOWS), range(tiny.SEQ_LEN)])
    for row in chosen["selections"]:
        of_cell = counted[row["spike_def_id"], row["target_rate"]]
        m = {}
        for gain in tiny.GAINS:
            activity = of_cell[gain].reindex(index, fill_value=0).to_numpy().reshape(tiny.N_WINDOWS, tiny.SEQ_LEN)
            m[gain] = multistep_regression(activity, k_max=20).m
        distance = {gain: abs(value - 1) for gain, value in m.items() if not np.isnan(value)}
        assert row["gstar"] == min(distance, key=distance.__getitem__)
        assert row["criterion"] == pytest.approx(m[row["gstar"]], rel=1e-9)
        assert [point["g"] for point in row["curve"]] == tiny.GAINS
        curve = [NAN if point["criterion"] is None else point["criterion"] for point in row["curve"]]
        assert curve == pytest.approx(list(m.values()), rel=1e-9, nan_ok=True)


def test_selection_by_m_stops_where_the_events_hold_no_memory(
    pipeline: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No event passes its threshold, so nothing is remembered; the grid is left as it is for another method."""

    def unreachable(data: bytes) -> bytes:
        sink = io.BytesIO()
        pd.read_parquet(io.BytesIO(data)).assign(tau=1e6).to_parquet(sink)
        return sink.getvalue()

    runs = tiny.copied(pipeline, tmp_path / "runs", "S01", "S02")
    tiny.rewritten(tiny.run_of(runs, "S02"), "tau_rate_matched", unreachable)
    arguments = ["--config", str(tiny.write_config(tmp_path / "c.yaml", model_folder)), "--runs_dir", str(runs)]
    assert main(["phase2_select_gstar", *arguments, "--gstar_method", "mr_near_one"]) == 2
    assert "at target rate 0.002: m is not available at any gain" in capsys.readouterr().err
    assert main(["phase2_select_gstar", *arguments]) == 0
