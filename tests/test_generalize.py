"""Phase 6 on data set B with the tiny model: the thresholds of A on the text of B, pairs, resumption, and what it costs."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from naive import Naive, grid_table, rows_of, stats_of, v_of
from PIL import Image

from avalanche_llm import datasets
from avalanche_llm.analysis.conditions import Condition, raster_conditions
from avalanche_llm.analysis.generalization import SILENT, measure, paired_rows
from avalanche_llm.errors import DeterminismError, MissingArtifact
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.io.hashing import sha256_file
from avalanche_llm.metrics.branching import branching, branching_sums
from avalanche_llm.metrics.likelihood import SequenceNll
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.model.hooks import ScaleOutput
from avalanche_llm.phases import context, generalize_passes
from avalanche_llm.phases.calibrate import calibrate
from avalanche_llm.phases.gain_grid import gain_grid
from avalanche_llm.phases.generalize import generalize, tables
from avalanche_llm.phases.generalize_passes import nll_of
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.select_gstar import select_gstar
from avalanche_llm.plan import plan_phase
from avalanche_llm.plotting.export import table_files
from avalanche_llm.stages import stages

PHASE, TABLE = "PHASE6_GENERALIZE_B_METRICS", "T02_GENERALIZATION"
N_EVAL = 4
CHOSEN = [0.8, 1.0, 1.3, 1.1]
"""A g* for each cell of the tiny config, one of them the baseline."""
GAINS = sorted({1.0, *CHOSEN})


def upstream(pipeline: Path, runs: Path, gains: list[float] = CHOSEN) -> Path:
    """A runs folder of our own with phases 1 and 2 complete and these g*."""
    tiny.copied(pipeline, runs)
    tiny.rewritten(tiny.run_of(runs, "S02B"), "gstar", tiny.choosing(gains))
    return runs


@pytest.fixture(scope="module")
def generalized(pipeline: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A runs folder with phase 6 on B complete, and how many windows it sent through the model. Read only."""
    runs = upstream(pipeline, tmp_path_factory.mktemp("generalized") / "runs")
    job = tiny.job_of(config, runs)
    with tiny.counted_windows(job) as sizes:
        generalize(job)
    return runs, sum(sizes)


def result(runs: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(tiny.run_of(runs, "S06B") / "results" / f"{name}.parquet")


def table(runs: Path) -> pd.DataFrame:
    return pd.read_parquet(tiny.run_of(runs, "S06B") / "tables" / "table_T02_GENERALIZATION.parquet")


def outputs(runs: Path) -> dict[str, str]:
    return tiny.outputs(tiny.run_of(runs, "S06B"))


def test_generalize_applies_the_thresholds_of_a_to_the_text_of_b(generalized: tuple[Path, int], config: Path) -> None:
    runs, _ = generalized
    job = tiny.job_of(config, runs)
    windows = windows_of_b(job)
    long_way, taus = Naive.of(job, windows), grid_table(runs, "tau_rate_matched")
    rows = result(runs, "metrics")
    assert len(rows) == 2 * len(CHOSEN)
    for row in rows.to_dict("records"):
        of_row = rows_of(taus, (row["spike_def_id"], row["target_rate"], row["g"])).sort_values("layer")
        v = v_of(long_way.z(row["g"], *stats_of(runs)), row["spike_def_id"])
        counts = (v > of_row["tau"].to_numpy()[:, None, None, None]).sum(axis=-1).transpose(1, 0, 2)  # seq, layer, token
        found = branching(branching_sums((counts > 0).astype(np.uint8)))
        assert (row["n_events"], row["b_tot"], row["delta_b_tot"]) == (counts.sum(), found.b_tot, found.delta_b_tot)
        achieved = counts.sum(axis=(0, 2)) / (windows.size * tiny.D_FF)
        relative = np.abs(achieved / of_row["r_star"].to_numpy() - 1)
        assert row["heldout_rate_max_rel_err"] == pytest.approx(relative.max())
        assert relative.max() > 0.02  # a refitted threshold would have met its rate


def windows_of_b(job: Job) -> np.ndarray:
    return context.slice_of_b(job, tiny.model_of(job)).windows


def test_every_distinct_gain_is_one_pass_of_events_and_likelihood(generalized: tuple[Path, int]) -> None:
    runs, windows = generalized
    assert windows == len(GAINS) * N_EVAL
    nll, events = result(runs, "sequence_nll"), result(runs, "activation_events")
    assert nll["g"].tolist() == [gain for gain in GAINS for _ in range(N_EVAL)]
    assert nll["seq_id"].tolist() == list(range(N_EVAL)) * len(GAINS)
    assert nll["n_predicted"].unique().tolist() == [tiny.SEQ_LEN - 1]
    assert events["g"].drop_duplicates().tolist() == GAINS
    assert {tiny.GAINS[index] for index in events["gain_id"]} == set(GAINS)
    log = tiny.events_of(tiny.run_of(runs, "S06B"))
    assert [line["payload"]["g"] for line in log if line["event_type"] == "gain_measured"] == GAINS


def test_likelihoods_are_the_models_own_loss_on_the_windows_of_b(generalized: tuple[Path, int], config: Path) -> None:
    runs, _ = generalized
    job = tiny.job_of(config, runs)
    model, nll = tiny.model_of(job), result(runs, "sequence_nll")
    for gain in GAINS:
        rows = nll[nll["g"] == gain]
        for window, summed in zip(windows_of_b(job), rows["nll_sum"] / rows["n_predicted"], strict=True):
            ids = torch.from_numpy(window[None])
            with torch.inference_mode(), ScaleOutput(model.modules("mlp"), (gain,) * model.n_layers):
                assert summed == pytest.approx(float(model.causal(input_ids=ids, labels=ids).loss), abs=1e-5)


def test_metrics_and_t02_hold_the_same_numbers(generalized: tuple[Path, int]) -> None:
    runs, _ = generalized
    metrics, exported = result(runs, "metrics"), table(runs)
    compared = 0
    for name in exported:
        source = name.removeprefix("opt_")
        if source in metrics:
            pd.testing.assert_series_equal(exported[name], metrics[source], check_names=False, check_exact=True)
            compared += 1
    assert compared == len(exported.columns) - 8  # seven columns of the row head, and opt_note
    nll = result(runs, "sequence_nll").groupby("g")[["nll_sum", "n_predicted"]].sum()
    np.testing.assert_allclose(exported["nll_mean"], (nll["nll_sum"] / nll["n_predicted"]).loc[exported["g"]])
    np.testing.assert_allclose(np.log(exported["ppl"]), exported["nll_mean"])
    csv = pd.read_csv(
        tiny.run_of(runs, "S06B") / "tables" / "table_T02_GENERALIZATION.csv", keep_default_na=False, na_values=[""]
    )
    np.testing.assert_array_equal(csv["opt_diff_chi_ci_low"], exported["opt_diff_chi_ci_low"])


def test_differences_are_gstar_minus_g1_and_empty_at_g1(generalized: tuple[Path, int]) -> None:
    rows = table(generalized[0])
    first, second = (rows[rows["g_condition"] == name].reset_index() for name in ("g1", "gstar"))
    assert second["g"].tolist() == CHOSEN and set(first["g"]) == {1.0}
    assert first.filter(like="opt_diff_").isna().all(axis=None) and first.filter(like="opt_ppl_ratio").isna().all(axis=None)
    for name in ("b_tot", "delta_b_tot", "chi", "nll_mean"):
        np.testing.assert_array_equal(second[f"opt_diff_{name}"], second[name] - first[name])
        low, high = (second[f"opt_diff_{name}_ci_{end}"] for end in ("low", "high"))
        assert second[f"opt_diff_{name}"].between(low, high).all()
    np.testing.assert_allclose(second["opt_ppl_ratio"], second["ppl"] / first["ppl"])
    away = second[second["g"] != 1.0]
    assert (away["opt_diff_nll_mean"] != 0).all()
    width = {stem: away[f"opt_{stem}_ci_high"] - away[f"opt_{stem}_ci_low"] for stem in ("nll_mean", "diff_nll_mean")}
    assert (width["diff_nll_mean"] < width["nll_mean"]).all()  # pairing takes out what the sequences differ by


def test_a_gstar_of_one_is_its_g1_row_with_no_difference_at_all(generalized: tuple[Path, int]) -> None:
    rows = table(generalized[0])
    pair = rows[(rows["spike_def_id"] == "SPIKE_ONE_SIDED_POS") & (rows["target_rate"] == tiny.RATES[1])]
    assert pair["g"].tolist() == [1.0, 1.0]
    first, second = pair.drop(columns="g_condition").to_dict("records")
    for name in first:
        stem = name.removesuffix("_ci_low").removesuffix("_ci_high")
        if stem.startswith("opt_diff_"):
            assert second[name] == 0.0
        elif stem == "opt_ppl_ratio":
            assert second[name] == 1.0
        elif stem == "opt_chi" and name != stem:
            assert np.isnan([first[name], second[name]]).all()  # too few sequences for an interval
        elif name != "opt_note":
            assert second[name] == first[name]


def test_tables_of_a_complete_run_need_no_model_and_give_the_same_bytes(
    generalized: tuple[Path, int], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, _ = generalized
    job = tiny.job_of(config, runs)
    monkeypatch.setattr(context, "_loaded", lambda *_: pytest.fail("the model was asked for"))
    found = tables(job, job.upstream(PHASE))
    assert list(found) == [TABLE]
    folder = tiny.run_of(runs, "S06B")
    written = read_record(folder)["artifacts"]
    for name, data in table_files(TABLE, found[TABLE]).items():
        assert (folder / written[name]).read_bytes() == data


def test_a_run_in_another_runs_folder_has_the_same_id_and_the_same_bytes(
    generalized: tuple[Path, int], pipeline: Path, config: Path, tmp_path: Path
) -> None:
    other = upstream(pipeline, tmp_path / "runs")
    generalize(tiny.job_of(config, other))
    assert tiny.run_of(other, "S06B").name == tiny.run_of(generalized[0], "S06B").name
    assert outputs(other) == outputs(generalized[0])
    assert len(outputs(other)) == 3 + 2 + 2


def test_the_figure_carries_its_provenance(generalized: tuple[Path, int]) -> None:
    data = (tiny.run_of(generalized[0], "S06B") / "figs" / "fig_F06_GENERALIZATION_B.png").read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        stamped = dict(image.text)  # type: ignore[attr-defined]  # only PNG images have it
    assert (stamped["dataset_role"], stamped["run_id"]) == ("B", tiny.run_of(generalized[0], "S06B").name)
    assert set(stamped["g"].split(",")) == {str(gain) for gain in GAINS}


def test_the_record_names_the_slice_of_b_and_the_runs_it_read(generalized: tuple[Path, int]) -> None:
    runs, _ = generalized
    record = read_record(tiny.run_of(runs, "S06B"))
    (role,) = record["dataset"]
    assert role == "B_EVAL" and record["dataset"][role]["id"] == tiny.SHIPPED["B"]
    assert record["hashes"]["dataset_slice_sha256"] == {role: record["dataset"][role]["sha256"]}
    assert [entry["run_id"] for entry in record["dependencies"]] == [tiny.run_of(runs, tag).name for tag in ("S01", "S02", "S02B")]
    assert len(record["conditions"]) == 2 * len(CHOSEN)


def interrupted_after(job: Job, n_gains: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin the phase and stop it before its pass number `n_gains` + 1."""
    real, calls = generalize_passes.events_over, 0

    def stop(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > n_gains:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generalize_passes, "events_over", stop)
        generalize(job)


@pytest.mark.parametrize("lost", [None, "nll_0.8.parquet", "events_0.8.parquet"])
def test_a_resumed_run_skips_gains_that_have_both_parts_and_ends_in_the_same_bytes(
    lost: str | None, generalized: tuple[Path, int], pipeline: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = upstream(pipeline, tmp_path / "runs")
    interrupted_after(tiny.job_of(config, other), 2, monkeypatch)
    folder = tiny.run_of(other, "S06B")
    if lost:
        part = folder / "cache" / lost
        part.write_bytes(part.read_bytes()[:50])
    resumed = tiny.job_of(config, other, allow_resume=True)
    with tiny.counted_windows(resumed) as sizes:
        generalize(resumed)
    assert sum(sizes) == (len(GAINS) - 2 + bool(lost)) * N_EVAL
    assert outputs(other) == outputs(generalized[0])
    assert not (folder / "cache").exists()


def test_a_run_with_every_gain_kept_is_finished_without_the_model(
    generalized: tuple[Path, int], pipeline: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = upstream(pipeline, tmp_path / "runs")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("avalanche_llm.phases.generalize.metric_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        generalize(tiny.job_of(config, other))
    monkeypatch.setattr(context, "_loaded", lambda *_: pytest.fail("the model was asked for"))
    generalize(tiny.job_of(config, other, allow_resume=True))
    assert outputs(other) == outputs(generalized[0])


def test_a_text_that_changed_between_two_attempts_stops_the_resumed_one(
    pipeline: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = upstream(pipeline, tmp_path / "runs")
    interrupted_after(tiny.job_of(config, other), 1, monkeypatch)
    monkeypatch.setattr(datasets, "_windows_of_files", datasets._windows_of_files.__wrapped__)
    monkeypatch.setattr(datasets, "read_texts", lambda data: iter([tiny.TEXT.read_text(encoding="utf-8")]))
    with pytest.raises(DeterminismError, match="slice B_EVAL is not the one that RUN_S06B_"):
        generalize(tiny.job_of(config, other, allow_resume=True))


def relinked(folder: Path, upstream: Path) -> None:
    """Let a run's record name an upstream run as it is now."""

    def change(record: dict[str, Any]) -> None:
        for dependency in record["dependencies"]:
            if dependency["run_id"] == upstream.name:
                dependency["record_sha256"] = sha256_file(upstream / "run_record.json")

    tiny.edited(folder, change)


def test_a_cell_that_is_silent_on_b_is_a_row_without_branching_and_says_why(
    pipeline: Path, config: Path, tmp_path: Path
) -> None:
    runs = upstream(pipeline, tmp_path / "runs")
    silent = ("SPIKE_ONE_SIDED_POS", tiny.RATES[0])

    def unreachable(data: bytes) -> bytes:
        frame = pq.read_table(io.BytesIO(data)).to_pandas()
        of_cell = (frame["spike_def_id"] == silent[0]) & (frame["target_rate"] == silent[1]) & (frame["g"] == 1.0)
        assert of_cell.sum() == tiny.N_LAYERS
        frame.loc[of_cell, "tau"] = 1e6
        sink = io.BytesIO()
        frame.to_parquet(sink)
        return sink.getvalue()

    tiny.rewritten(tiny.run_of(runs, "S02"), "tau_rate_matched", unreachable)
    relinked(tiny.run_of(runs, "S02B"), tiny.run_of(runs, "S02"))
    generalize(tiny.job_of(config, runs))
    rows = table(runs)
    first, second = rows[(rows["spike_def_id"] == silent[0]) & (rows["target_rate"] == silent[1])].to_dict("records")
    assert np.isnan([first[name] for name in ("b_time", "b_depth", "b_tot", "delta_b_tot", "chi", "opt_b_tot_ci_low")]).all()
    assert (first["opt_occupancy"], first["opt_note"]) == (0.0, SILENT)
    assert np.isfinite(first["nll_mean"]) and np.isfinite(second["opt_diff_nll_mean"]) and np.isfinite(second["b_tot"])
    assert np.isnan(second["opt_diff_b_tot"]) and second["opt_note"] == f"no difference: at g1 {SILENT}"
    assert rows["opt_note"].notna().sum() == 2


def test_burn_in_leaves_the_first_positions_out_of_events_and_likelihood(model_folder: Path, tmp_path: Path) -> None:
    burn_in = 6
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, pipeline__burn_in_tokens=burn_in)
    job = tiny.job_of(config, tmp_path / "runs")
    for phase in (calibrate, gain_grid, select_gstar, generalize):
        phase(job)
    runs = job.store.root
    assert result(runs, "activation_events")["token"].min() >= burn_in
    nll = result(runs, "sequence_nll")
    assert set(nll["n_predicted"]) == {tiny.SEQ_LEN - burn_in}
    ids = torch.from_numpy(windows_of_b(job))
    labels = ids.clone()
    labels[:, :burn_in] = -100
    with torch.inference_mode():
        loss = float(tiny.model_of(job).causal(input_ids=ids, labels=labels).loss)
    plain = nll[nll["g"] == 1.0]
    assert plain["nll_sum"].sum() / plain["n_predicted"].sum() == pytest.approx(loss, abs=1e-5)
    assert table(runs)["nll_mean"][0] == pytest.approx(loss, abs=1e-5)


def test_plan_counts_each_distinct_gain_once_and_the_head(
    generalized: tuple[Path, int], config: Path, tmp_path: Path
) -> None:
    stage = stages()[PHASE]
    plan = plan_phase(tiny.job_of(config, generalized[0]), stage)
    assert (plan.cost.n_passes, plan.cost.n_windows) == (len(GAINS), len(GAINS) * N_EVAL)
    same_windows = plan_phase(tiny.job_of(config, generalized[0]), stages()["PHASE3_EXTRACT_RASTERS"])
    assert plan.cost.flops is not None and same_windows.cost.flops is not None and plan.cost.memory_gib is not None
    head = 2 * 32 * tiny.VOCABULARY * tiny.SEQ_LEN  # FLOP a window: d_model times vocabulary, each token
    without = same_windows.cost.flops * plan.cost.n_windows / same_windows.cost.n_windows
    assert plan.cost.flops == pytest.approx(without + head * plan.cost.n_windows)
    assert plan.cost.memory_gib > (same_windows.cost.memory_gib or 0.0)
    unknown = plan_phase(tiny.job_of(config, tmp_path / "none"), stage)
    assert (unknown.cost.n_passes, unknown.cost.n_windows) == (4, 4 * N_EVAL)  # as many as the grid has, until g* is chosen


def test_generalize_needs_its_upstream_and_begins_nothing_without_it(
    pipeline: Path, config: Path, tmp_path: Path
) -> None:
    runs = tiny.copied(pipeline, tmp_path / "runs", "S01")
    with pytest.raises(MissingArtifact, match="run phase2_gain_grid first"):
        generalize(tiny.job_of(config, runs))
    assert not list(runs.glob("RUN_S06B_*"))


def test_nll_of_refuses_a_table_that_lacks_a_sequence(generalized: tuple[Path, int], config: Path) -> None:
    run = tiny.job_of(config, generalized[0]).upstream(PHASE)
    assert nll_of(run, {1.0: 1}, N_EVAL)[1.0].nll_sum.shape == (N_EVAL,)
    with pytest.raises(MissingArtifact, match="has 4 rows at gain 1, one for each of 5 sequences was expected"):
        nll_of(run, {1.0: 1}, 5)


def test_paired_rows_of_a_constant_shift_give_that_difference_without_spread() -> None:
    weights = bootstrap_weights(4, reps=40, seed=9)
    counts = np.random.default_rng(2).integers(0, 3, size=(4, 3, 16)).astype(np.uint16)
    positions = np.full(4, 64)
    sums = np.array([128.0, 200.5, 96.125, 300.75])  # eighths: every sum is exact

    def measured(condition: Condition, shift: float) -> Any:
        return measure(condition, counts, SequenceNll(sums + shift * positions, positions), {}, weights, chi_eps=1e-8)

    selection = {"spike_def_id": "SPIKE_ONE_SIDED_POS", "target_rate": 1e-3, "gstar": 1.3}
    first, second = raster_conditions([selection], 1.0)
    g1, gstar = paired_rows([measured(first, 0.0), measured(second, -0.25)])
    assert np.isnan(g1["diff_nll_mean"])
    ends = ("", "_ci_low", "_ci_high")
    assert [gstar[f"diff_nll_mean{end}"] for end in ends] == [-0.25] * 3
    assert [gstar[f"ppl_ratio{end}"] for end in ends] == [np.exp(-0.25)] * 3
    assert [gstar[f"diff_{name}{end}"] for name in ("b_tot", "delta_b_tot", "chi") for end in ends] == [0.0] * 9
    assert g1["nll_mean_ci_high"] > g1["nll_mean_ci_low"]
