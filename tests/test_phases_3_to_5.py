"""Phases 3, 4 and 5 on the tiny model: rasters, surrogates, tables and figures, against naive computations and each other."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from naive import Naive, grid_table, rows_of, stats_of, v_of

from avalanche_llm.analysis.conditions import conditions_from_frame
from avalanche_llm.errors import MissingArtifact, SchemaError
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.phases.ablation_events import ablation_tails
from avalanche_llm.phases.analysis_figures import AnalysisFrames
from avalanche_llm.phases.analysis_inputs import AnalysisInputs
from avalanche_llm.phases.analysis_tables import expected_ablations, tables
from avalanche_llm.phases.analyze import analyze
from avalanche_llm.phases.context import CALIBRATION_SLICE, RASTER_SLICE, slices_of_a
from avalanche_llm.phases.extract_rasters import extract_rasters
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.run_nulls import run_nulls
from avalanche_llm.plotting.export import table_files
from avalanche_llm.plotting.schemas import T06
from avalanche_llm.plotting.tables import validate
from avalanche_llm.settings import GstarMethod

STEPS: tuple[Callable[[Job], str], ...] = (extract_rasters, run_nulls, analyze)
BEFORE = ("S01", "S02", "S02B", "S03", "S04")
"""What the analysis rests on."""


@pytest.fixture(scope="module")
def analysed(pipeline: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A runs folder with phases 1 to 5 complete, and how many windows each of the last three sent through the model."""
    runs = tiny.copied(pipeline, tmp_path_factory.mktemp("analysed") / "runs")
    job = tiny.job_of(config, runs)
    windows = {}
    for step in STEPS:
        with tiny.counted_windows(job) as sizes:
            step(job)
        windows[step.__name__] = sum(sizes)
    return runs, windows


def table(runs: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(tiny.run_of(runs, "S05") / name)


def distinct_gains(runs: Path) -> set[float]:
    chosen = json.loads((tiny.run_of(runs, "S02B") / "results" / "gstar.json").read_bytes())["selections"]
    return {row["gstar"] for row in chosen} | {1.0}


def test_extract_rasters_equals_thresholding_the_whole_activations(analysed: tuple[Path, dict[str, int]], config: Path) -> None:
    runs, _ = analysed
    job = tiny.job_of(config, runs)
    long_way = Naive.of(job, slices_of_a(job, tiny.model_of(job))[RASTER_SLICE].windows)
    taus = grid_table(runs, "tau_rate_matched")
    rasters = np.load(tiny.run_of(runs, "S03") / "results" / "rasters_token_layer.npz")
    conditions = conditions_from_frame(pd.read_parquet(tiny.run_of(runs, "S03") / "results" / "metrics.parquet"))
    assert len(conditions) == 8
    for condition in conditions:
        tau = rows_of(taus, (condition.spike_def, condition.target_rate, condition.g)).sort_values("layer")["tau"].to_numpy()
        v = v_of(long_way.z(condition.g, *stats_of(runs)), condition.spike_def)
        expected = (v > tau[:, None, None, None]).sum(axis=-1).transpose(1, 0, 2)  # seq, layer, token
        np.testing.assert_array_equal(rasters["A"][condition.cond_id], expected)
    np.testing.assert_array_equal(rasters["X"], rasters["A"] > 0)


@pytest.mark.parametrize(
    ("method", "criteria", "expected"),
    [("btot_near_one", [0.4, 0.6, 1.1, 1.3], 2), ("excess_peak", [0.4, 0.6, 1.1, 1.3], 3), ("mr_near_one", [0.8, 0.9, 0.2, 0.1], 1)],
)
def test_f01_shows_the_cell_that_fits_the_rule_best(
    method: GstarMethod, criteria: list[float], expected: int, analysed: tuple[Path, dict[str, int]], config: Path
) -> None:
    runs, job = analysed[0], tiny.job_of(config, analysed[0])
    pipeline = job.settings.pipeline.model_copy(update={"gstar_method": method})
    found = AnalysisInputs.of(job)
    inputs = replace(found, job=replace(job, settings=job.settings.model_copy(update={"pipeline": pipeline})))
    inputs.__dict__["gstar"] = chosen = found.gstar.assign(criterion=criteria)  # what the cached property would have read
    frames = AnalysisFrames.of(inputs, table(runs, "tables/table_T01_SUMMARY.parquet"), pd.DataFrame())
    shown = {key: frames.example_of[key] for key in ("spike_def_id", "target_rate", "g_condition")}
    assert shown == {**chosen.iloc[expected][["spike_def_id", "target_rate"]], "g_condition": "gstar"}
    assert frames.method == method
    rasters = np.load(tiny.run_of(runs, "S03") / "results" / "rasters_token_layer.npz")["X"]
    np.testing.assert_array_equal(frames.example > 0, rasters[frames.example_of["cond_id"], 0] > 0)


def test_slices_of_calibration_and_rasters_are_disjoint(analysed: tuple[Path, dict[str, int]], config: Path) -> None:
    job = tiny.job_of(config, analysed[0])
    slices = slices_of_a(job, tiny.model_of(job))
    assert not set(slices[CALIBRATION_SLICE].chunk_index) & set(slices[RASTER_SLICE].chunk_index)


def test_every_distinct_gain_and_intervention_runs_once(analysed: tuple[Path, dict[str, int]]) -> None:
    runs, windows = analysed
    gains = distinct_gains(runs)
    assert windows["extract_rasters"] == len(gains) * tiny.N_WINDOWS
    assert windows["run_nulls"] == len(gains) * tiny.N_WINDOWS
    assert windows["analyze"] == 4 * len(gains - {1.0}) * tiny.N_WINDOWS


def test_run_nulls_keeps_every_marginal_and_matches_the_shuffled_rate(analysed: tuple[Path, dict[str, int]]) -> None:
    runs, _ = analysed
    folder = tiny.run_of(runs, "S04") / "results"
    observed = np.load(tiny.run_of(runs, "S03") / "results" / "rasters_token_layer.npz")
    drawn = np.load(folder / "rasters_nulls.npz")
    assert len(set(drawn["null_id"].tolist())) == 5
    for null_id, cond_id, x, a in zip(drawn["null_id"], drawn["cond_id"], drawn["X"], drawn["A"], strict=True):
        if null_id == "NULL_TOKEN_SHUFFLE_INPUT":
            continue
        np.testing.assert_array_equal(x.sum(axis=-1), observed["X"][cond_id].sum(axis=-1))
        np.testing.assert_array_equal(np.sort(a, axis=-1), np.sort(observed["A"][cond_id], axis=-1))
        if null_id == "NULL_RASTER_MARGIN_SWAP":
            np.testing.assert_array_equal(x.sum(axis=-2), observed["X"][cond_id].sum(axis=-2))
    taus = pd.read_parquet(folder / "tau_rate_matched.parquet")
    shuffled = taus[taus.null_id == "NULL_TOKEN_SHUFFLE_INPUT"]
    assert set(shuffled.g) == distinct_gains(runs)
    assert shuffled.rate_match_pass.all()
    assert (shuffled.kept_events == shuffled.wanted_events).all()
    assert set(taus[taus.null_id == "NULL_NONE"].g) == set(tiny.GAINS)


def test_summary_agrees_with_the_grid_it_was_computed_from(analysed: tuple[Path, dict[str, int]]) -> None:
    runs, _ = analysed
    summary = table(runs, "tables/table_T01_SUMMARY.parquet")
    grid = pd.read_parquet(tiny.run_of(runs, "S02") / "results" / "metrics.parquet")
    assert len(summary) == 2 * len(tiny.RATES) * len(tiny.GAINS)
    for name in ("spike_def_id", "target_rate", "g", "b_time", "b_depth", "b_tot", "delta_b_tot", "achieved_rate_mean"):
        pd.testing.assert_series_equal(summary[name], grid[name], check_dtype=False)
    np.testing.assert_allclose(summary["opt_b_tot_ci_low"], grid["b_tot_ci_low"])
    csv = pd.read_csv(tiny.run_of(runs, "S05") / "tables/table_T01_SUMMARY.csv", keep_default_na=False, na_values=[""])
    np.testing.assert_array_equal(csv["chi"], summary["chi"])


def test_avalanches_cover_every_event_once_under_both_adjacencies(analysed: tuple[Path, dict[str, int]]) -> None:
    runs, _ = analysed
    found = table(runs, "results/avalanches.parquet")
    grid = pd.read_parquet(tiny.run_of(runs, "S02") / "results" / "metrics.parquet")
    for _, rows in found.groupby("adjacency_id"):
        np.testing.assert_array_equal(rows.groupby("cond_id")["size"].sum().to_numpy(), grid["n_events"].to_numpy())
        np.testing.assert_array_equal(rows.groupby("cond_id")["n_sites"].sum().to_numpy(), grid["n_sites"].to_numpy())
    components = found.groupby(["adjacency_id", "cond_id"]).size().unstack(0)
    assert (components["ADJ_8N"] <= components["ADJ_4N"]).all()


def test_ablations_of_the_whole_mlp_are_the_grid_and_the_bands_differ(analysed: tuple[Path, dict[str, int]]) -> None:
    runs, _ = analysed
    rows = table(runs, "tables/appendix/table_T06_ABLATIONS.parquet")
    summary = table(runs, "tables/table_T01_SUMMARY.parquet")
    assert (rows["opt_status"] == "measured").all()
    key = ["spike_def_id", "target_rate", "g"]
    joined = rows[rows["intervention_id"] == "MLP_GLOBAL"].merge(summary, on=key, suffixes=("", "_t01"))
    np.testing.assert_array_equal(joined["b_tot"], joined["b_tot_t01"])
    np.testing.assert_array_equal(joined["chi"], joined["chi_t01"])
    away = rows[(rows["g_condition"] == "gstar") & (rows["g"] != 1.0)]
    assert len(away), "the tiny model's g* must leave the baseline for this test to say anything"
    assert away.groupby(key)["b_tot"].nunique().min() > 1


def test_ablation_tails_are_the_rows_of_each_intervention_wherever_row_groups_end(
    analysed: tuple[Path, dict[str, int]], config: Path, tmp_path: Path
) -> None:
    runs = tiny.copied(analysed[0], tmp_path / "runs")
    inputs, path = AnalysisInputs.of(tiny.job_of(config, runs)), tiny.run_of(runs, "S05") / "results" / "ablation_events.parquet"
    run: Any = SimpleNamespace(run_id="", record={}, artifact=lambda name: path)
    whole = pq.read_table(path)
    events = whole.to_pandas()
    for size in (7, len(whole)):
        pq.write_table(whole, path, row_group_size=size)
        found = dict(ablation_tails(run, inputs))
        assert len(found) == 4 * len(distinct_gains(runs) - {1.0})
        for (intervention, gain), tails in found.items():
            rows = events[(events["intervention_id"] == intervention) & (events["g"] == gain)].sort_values("layer", kind="stable")
            assert np.concatenate([tail.unit for tail in tails]).tolist() == rows["unit"].tolist()
            assert np.concatenate([tail.z for tail in tails]).tolist() == rows["z"].tolist()
        assert sum(len(tail) for tails in found.values() for tail in tails) == len(whole)
    pq.write_table(whole.take(list(range(len(whole)))[::-1]), path, row_group_size=7)
    with pytest.raises(MissingArtifact, match=r"ablation_events\.parquet has \d+ rows where none was expected, or out of order"):
        list(ablation_tails(run, inputs))
    nameless = pa.array([None, *whole["intervention_id"].to_pylist()[1:]], pa.string())
    pq.write_table(whole.set_column(whole.schema.get_field_index("intervention_id"), "intervention_id", nameless), path)
    with pytest.raises(MissingArtifact, match=rf"has {len(whole)} rows where none was expected"):
        list(ablation_tails(run, inputs))


def test_common_shift_moves_branching_less_than_the_within_layer_nulls(analysed: tuple[Path, dict[str, int]]) -> None:
    rows = table(analysed[0], "results/null_comparison.parquet")
    size = rows.assign(size=rows["delta_b_tot"].abs()).groupby("null_id")["size"].mean()
    assert size["NULL_RASTER_COMMON_CIRC_SHIFT"] < 0.5 * size["NULL_RASTER_WITHIN_LAYER_TIME_PERM"]


def test_signatures_have_a_verdict_for_every_cell(analysed: tuple[Path, dict[str, int]]) -> None:
    verdicts = json.loads((tiny.run_of(analysed[0], "S05") / "results" / "signatures.json").read_bytes())["verdicts"]
    assert len(verdicts) == 2 * len(tiny.RATES)
    assert all(verdict["gstar_status"] == "bracketed" for verdict in verdicts if verdict["agrees"])
    assert all(("S1 located nothing" in verdict["sentence"]) == (verdict["gstar_status"] != "bracketed") for verdict in verdicts)
    assert all(isinstance(verdict["agrees"], bool) and verdict["sentence"].endswith(".") for verdict in verdicts)


def test_interrupted_analysis_of_the_same_upstream_resumes_where_it_stopped_and_ends_in_the_same_bytes(
    analysed: tuple[Path, dict[str, int]], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured anew in another folder, and exported in a second attempt: no byte is another."""
    runs, windows = analysed
    other = tiny.copied(runs, tmp_path / "resumed", *BEFORE)
    job = tiny.job_of(config, other)
    with monkeypatch.context() as patch, tiny.counted_windows(job) as before:
        patch.setattr("avalanche_llm.phases.analyze.export_figures", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            analyze(job)
    assert sum(before) == windows["analyze"]
    assert read_record(tiny.run_of(other, "S05"))["stage_status"] == "started"
    resumed = tiny.job_of(config, other, allow_resume=True)
    with tiny.counted_windows(resumed) as after:
        analyze(resumed)
    assert sum(after) == 0
    first, second = (tiny.outputs(tiny.run_of(folder, "S05")) for folder in (runs, other))
    assert len(first) == 5 + 2 * 4 + 2 * 9
    assert first == second


def test_changed_upstream_raster_stops_the_analysis(analysed: tuple[Path, dict[str, int]], config: Path, tmp_path: Path) -> None:
    runs, _ = analysed
    other = tiny.copied(runs, tmp_path / "tampered", *BEFORE)
    tiny.flip_a_byte(tiny.run_of(other, "S03") / "results" / "rasters_token_layer.npz")
    with pytest.raises(MissingArtifact, match=r"rasters_token_layer\.npz changed since it was recorded"):
        analyze(tiny.job_of(config, other))
    assert not list(other.glob("RUN_S05_*"))


def test_expected_ablations_do_not_follow_from_the_measured_rows(analysed: tuple[Path, dict[str, int]]) -> None:
    rows = table(analysed[0], "tables/appendix/table_T06_ABLATIONS.parquet")
    gstar = pd.DataFrame(json.loads((tiny.run_of(analysed[0], "S02B") / "results" / "gstar.json").read_bytes())["selections"])
    expected = expected_ablations(gstar, 1.0)
    assert len(expected) == len(rows) == 2 * len(tiny.RATES) * 6
    frame = rows.astype({column.name: "str" for column in T06.columns if column.dtype == "string"})
    with pytest.raises(SchemaError, match="T06_ABLATIONS"):
        validate(frame.drop(index=3), T06, expected)


def test_every_failing_crackling_row_says_why(analysed: tuple[Path, dict[str, int]]) -> None:
    rows = table(analysed[0], "tables/appendix/table_T05_CRACKLING_DIAGNOSTICS.parquet")
    np.testing.assert_array_equal(rows["pass"], rows["opt_reason"].isna())


def test_tables_made_again_from_the_artifacts_are_the_bytes_on_record(config: Path, analysed: tuple[Path, dict[str, int]]) -> None:
    job = tiny.job_of(config, analysed[0])
    run = job.upstream("PHASE5_ANALYZE_AND_EXPORT")
    again = tables(job, run)
    assert sorted(again) == ["T01_SUMMARY", "T04_TAIL_FITS", "T05_CRACKLING_DIAGNOSTICS", "T06_ABLATIONS"]
    for table_id, frame in again.items():
        for name, data in table_files(table_id, frame).items():
            assert run.artifact(name).read_bytes() == data, name


def test_raster_tokens_are_the_windows_with_their_text(config: Path, analysed: tuple[Path, dict[str, int]]) -> None:
    job = tiny.job_of(config, analysed[0])
    model = tiny.model_of(job)
    windows = slices_of_a(job, model)[RASTER_SLICE].windows
    stored = pd.read_parquet(tiny.run_of(analysed[0], "S03") / "results" / "raster_tokens.parquet")
    np.testing.assert_array_equal(stored["token_id"].to_numpy().reshape(windows.shape), windows)
    row = stored[(stored["seq_id"] == 3) & (stored["token"] == 17)].iloc[0]
    assert row["text"] == model.tokenizer.decode([int(windows[3, 17])])
