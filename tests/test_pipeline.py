"""Phases 1 and 2 on the tiny model: equal bytes from equal inputs, one pass a gain, and the naive computation event for event."""

import json
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import naive
import numpy as np
import pytest
import tiny
from naive import Naive, cells_of, grid_table, rows_of, stats_of, v_of
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoTokenizer

from avalanche_llm.datasets import SliceRequest, token_slices
from avalanche_llm.errors import DeterminismError, RateMatchError
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.phases import context
from avalanche_llm.phases.calibrate import calibrate
from avalanche_llm.phases.context import guard
from avalanche_llm.phases.gain_grid import gain_grid
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.select_gstar import select_gstar


def measure(config: Path, runs: Path) -> Path:
    """Phases 1 and 2 by the Python functions alone."""
    job = tiny.job_of(config, runs)
    for phase in (calibrate, gain_grid, select_gstar):
        phase(job)
    return runs


@contextmanager
def counting_calls() -> Iterator[Counter[str]]:
    """How often each kind of module is called inside, wherever the call is made."""
    calls: Counter[str] = Counter()
    handle = register_module_forward_pre_hook(lambda module, arguments: calls.update([type(module).__name__]))
    try:
        yield calls
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def repeated(config: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[Path]]:
    """Two measurements by the Python functions with run ids of their own in one runs folder, as [S01, S02, S02B] each."""
    runs = tmp_path_factory.mktemp("repeated") / "runs"
    made = []
    for _ in range(2):
        ids: list[str] = []
        for phase in (calibrate, gain_grid, select_gstar):
            ids.append(phase(tiny.job_of(config, runs, run_id_mode="timestamp_counter", pinned=tuple(ids))))
        made.append([runs / run_id for run_id in ids])
    return made


def test_equal_inputs_give_equal_bytes_under_different_run_ids(repeated: list[list[Path]]) -> None:
    for first, second in zip(*repeated, strict=True):
        assert first.name != second.name
        assert tiny.result_hashes(first) == tiny.result_hashes(second)
        assert len(tiny.result_hashes(first)) == len(read_record(first)["artifacts"])


def test_the_command_line_and_the_python_functions_give_the_same_artifacts(pipeline: Path, repeated: list[list[Path]]) -> None:
    for folder in repeated[0]:
        tag = folder.name.split("_")[1]
        assert tiny.result_hashes(tiny.run_of(pipeline, tag)) == tiny.result_hashes(folder)


def test_records_say_what_was_measured_with_what(pipeline: Path) -> None:
    s01, s02, s02b = (read_record(tiny.run_of(pipeline, tag)) for tag in ("S01", "S02", "S02B"))
    for record in (s01, s02, s02b):
        assert record["stage_status"] == "complete"
        assert record["model"]["content_sha256"] == s01["model"]["content_sha256"]
        assert record["model"]["n_layers"] == tiny.N_LAYERS
        assert record["dataset"]["A_CALIBRATION"] == s01["dataset"]["A_CALIBRATION"]
    assert s01["hashes"]["dataset_slice_sha256"] == {"A_CALIBRATION": s01["dataset"]["A_CALIBRATION"]["sha256"]}
    assert [entry["run_id"] for entry in s02["dependencies"]] == [s01["run_id"]]
    assert [entry["run_id"] for entry in s02b["dependencies"]] == [s02["run_id"]]
    assert [condition["g"] for condition in s02["conditions"]] == tiny.GAINS
    assert s01["determinism"]["flags"]["torch_deterministic_algorithms"] is True
    assert s01["timings"]["forward_s"] > 0


def test_logs_hold_the_events_of_a_run_in_order(pipeline: Path) -> None:
    for tag in ("S01", "S02", "S02B"):
        folder = tiny.run_of(pipeline, tag)
        lines = tiny.events_of(folder)
        kinds = [line["event_type"] for line in lines]
        expected = ["start", "config_resolved"] + ["model_loaded", "dataset_loaded"] * (tag != "S02B")
        assert [kind for kind in dict.fromkeys(kinds) if kind in expected] == expected
        assert kinds[-2:] == ["stage_complete", "end"]
        assert kinds.count("artifacts_written") == len(read_record(folder)["artifacts"])
        assert {line["run_id"] for line in lines} == {folder.name}
        assert [line["ts_utc"] for line in lines] == sorted(line["ts_utc"] for line in lines)


@pytest.mark.parametrize("batch", [4, 5])
def test_one_pass_a_gain_and_two_to_calibrate(batch: int, model_folder: Path, tmp_path: Path) -> None:
    """Every forward pass of the model is counted, wherever it is made; the language-model head never runs."""
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, pipeline__batch_windows=batch)
    job = tiny.job_of(config, tmp_path / "runs")
    per_pass = -(-tiny.N_WINDOWS // batch)
    tiny.model_of(job)  # loading makes a pass of its own
    for phase, passes, more in ((calibrate, 2, 1), (gain_grid, len(tiny.GAINS), 0), (select_gstar, 0, 0)):  # 1: the hook check's window
        with counting_calls() as calls:
            phase(job)
        assert calls["LlamaModel"] == passes * per_pass + more
        assert not calls["LlamaForCausalLM"]


def branching_by_hand(x: np.ndarray) -> tuple[float, float]:
    """b_time and b_depth of X[seq, layer, token]."""
    x = x.astype(np.int64)
    total = x.sum()
    return (x[:, :, :-1] * x[:, :, 1:]).sum() / total, (x[:, :-1] * x[:, 1:]).sum() / total


@pytest.fixture(scope="module", params=[(4, 0, "fp32"), (1, 3, "fp32"), (5, 1, "fp32"), (4, 0, "bf16")], ids=str)
def both(request: pytest.FixtureRequest, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path, Naive]:
    """A measured runs folder and the naive computation, at one batch size, burn-in and precision."""
    batch, burn_in, dtype = request.param
    folder = tmp_path_factory.mktemp("naive")
    config = tiny.write_config(
        folder / "c.yaml", model_folder, pipeline__batch_windows=batch, pipeline__burn_in_tokens=burn_in, run__dtype=dtype
    )
    runs = measure(config, folder / "runs")
    job = tiny.job_of(config, runs)
    wanted = [SliceRequest("A_CALIBRATION", tiny.N_WINDOWS), SliceRequest("A_RASTERS", tiny.N_WINDOWS)]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    calibration, _ = token_slices(job.settings.datasets.A, wanted, tokenizer, seq_len=tiny.SEQ_LEN, seed=1337, pool_cap=100)
    return job, runs, Naive.of(job, calibration.windows)


def test_calibration_is_the_naive_one(both: tuple[Job, Path, Naive]) -> None:
    _, runs, long_way = both
    mu, sigma = stats_of(runs)
    u = long_way.u[1.0][:, :, long_way.burn_in :].numpy().astype(np.float64).reshape(tiny.N_LAYERS, -1, tiny.D_FF)
    np.testing.assert_allclose(mu, u.mean(axis=1), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(sigma, u.std(axis=1), rtol=1e-6)
    stored = json.loads((tiny.run_of(runs, "S01") / "results" / "rate_targets.json").read_text(encoding="utf-8"))
    z = long_way.z(1.0, mu, sigma)
    assert stored["n_samples_per_layer"] == z[0].size
    for entry in stored["spike_defs"]:
        r_base = (v_of(z, entry["spike_def_id"]) > 2.5).reshape(tiny.N_LAYERS, -1).mean(axis=1)
        assert entry["r_base"] == r_base.tolist()
        for target in entry["targets"]:
            np.testing.assert_allclose(target["r_star"], r_base * target["target_rate"] / r_base.mean(), rtol=1e-12)


def test_one_pass_keeps_the_naive_events_event_for_event(both: tuple[Job, Path, Naive]) -> None:
    naive.assert_same_events(*both)


def test_metrics_are_those_of_the_naive_rasters(both: tuple[Job, Path, Naive]) -> None:
    job, runs, long_way = both
    mu, sigma = stats_of(runs)
    metrics, sums, taus = grid_table(runs, "metrics"), grid_table(runs, "branching_sums"), grid_table(runs, "tau_rate_matched")
    assert len(metrics) == len(list(cells_of(job)))
    for cell in cells_of(job):
        spike_def, _, gain = cell
        cut = rows_of(taus, cell)["tau"].to_numpy()[:, None, None, None]
        counts = (v_of(long_way.z(gain, mu, sigma), spike_def) > cut).sum(axis=-1).transpose(1, 0, 2)  # seq, layer, token
        x = counts > 0
        row = rows_of(metrics, cell).iloc[0]
        b_time, b_depth = branching_by_hand(x)
        assert row["b_time"] == pytest.approx(b_time, rel=1e-12)
        assert row["b_depth"] == pytest.approx(b_depth, rel=1e-12)
        assert row["b_tot"] == pytest.approx(b_time + b_depth, rel=1e-12)
        assert (row["n_events"], row["n_sites"], row["n_sequences"]) == (counts.sum(), x.sum(), tiny.N_WINDOWS)
        assert row["occupancy"] == pytest.approx(x.mean())
        assert row["token0_event_share"] == pytest.approx(counts[:, :, 0].sum() / counts.sum())
        k = x.sum(axis=2).astype(np.float64)  # seq, layer
        n_tokens = x.shape[2]
        permuted = ((k * (k - 1)).sum() + (k[:, :-1] * k[:, 1:]).sum()) / n_tokens / x.sum()
        assert row["delta_b_tot"] == pytest.approx(row["b_tot"] - permuted, rel=1e-9)
        assert row["delta_b_tot_ci_low"] < row["delta_b_tot"] < row["delta_b_tot_ci_high"]
        assert rows_of(sums, cell)["n_sites"].tolist() == x.sum(axis=(1, 2)).tolist()


def test_gain_changes_the_measurement(pipeline: Path) -> None:
    """The tiny model is not a trivial one: every gain gives thresholds of its own beyond the first layer."""
    taus = grid_table(pipeline, "tau_rate_matched")
    for layer in range(1, tiny.N_LAYERS):
        assert taus[taus["layer"] == layer].groupby(["spike_def_id", "target_rate"])["tau"].nunique().eq(len(tiny.GAINS)).all()
    first = taus[taus["layer"] == 0].groupby(["spike_def_id", "target_rate"])["tau"].nunique()
    assert first.eq(1).all()  # u of the first layer comes before any scaled MLP


def test_gstar_is_the_gain_of_the_grid_nearest_one(pipeline: Path) -> None:
    """The published rule with its ties: three gains of one cell tie here, and of those the nearest to 1 is taken."""
    metrics = grid_table(pipeline, "metrics")
    chosen = json.loads((tiny.run_of(pipeline, "S02B") / "results" / "gstar.json").read_text(encoding="utf-8"))
    assert chosen["method"] == "btot_near_one"
    assert chosen["dataset_role"] == "A"
    assert len(chosen["selections"]) == 4
    for selection in chosen["selections"]:
        of_cell = metrics[
            (metrics["spike_def_id"] == selection["spike_def_id"]) & (metrics["target_rate"] == selection["target_rate"])
        ]
        distance = (of_cell["b_tot"] - 1).abs()
        nearest = of_cell.loc[distance == distance.min(), "g"]
        assert selection["gstar"] == min(nearest, key=lambda gain: (abs(gain - 1), gain))
        assert selection["distance"] == pytest.approx(distance.min())
        assert selection["status"] in ("bracketed", "grid_edge", "no_crossing")


def test_rates_beyond_the_tolerances_end_the_grid_without_a_complete_run(model_folder: Path, tmp_path: Path) -> None:
    """A whole number of events misses a rate by up to half an event; tolerances below that cannot be met."""
    config = tiny.write_config(
        tmp_path / "c.yaml", model_folder, events__rate_match_tol_rel=1e-9, events__rate_match_tol_abs=1e-9
    )
    job = tiny.job_of(config, tmp_path / "runs")
    calibrate(job)
    with pytest.raises(RateMatchError, match=r"rate matching failed at g = 0\.8, SPIKE_ONE_SIDED_POS, target 0\.002, layer \d"):
        gain_grid(job)
    assert read_record(tiny.run_of(tmp_path / "runs", "S02"))["stage_status"] == "started"


def test_grid_refuses_a_model_that_is_not_the_calibrated_one(tmp_path: Path) -> None:
    """The same path, other weights: the config and its hash cannot tell, the content can."""
    folder = tiny.save_model(tiny.llama(), tmp_path / "model")
    own = tiny.write_config(tmp_path / "c.yaml", folder)
    calibrate(tiny.job_of(own, tmp_path / "runs"))
    tiny.save_model(tiny.llama(seed=1), folder)
    context._loaded.cache_clear()  # a later process would load anew
    with pytest.raises(DeterminismError, match=r"model is not the one that RUN_S01_\w+ measured \(content_sha256: "):
        gain_grid(tiny.job_of(own, tmp_path / "runs"))


def test_a_resumed_calibration_refuses_a_model_that_is_not_the_one_it_began_with(tmp_path: Path) -> None:
    folder = tiny.save_model(tiny.llama(), tmp_path / "model")
    own = tiny.write_config(tmp_path / "c.yaml", folder)
    with tiny.stopped_before("rate_targets"):
        calibrate(tiny.job_of(own, tmp_path / "runs"))
    tiny.save_model(tiny.llama(seed=1), folder)
    context._loaded.cache_clear()
    with pytest.raises(DeterminismError, match=r"model is not the one that RUN_S01_\w+ measured \(content_sha256: "):
        calibrate(tiny.job_of(own, tmp_path / "runs", allow_resume=True))
    assert read_record(tiny.run_of(tmp_path / "runs", "S01"))["stage_status"] == "started"


def test_guard_keeps_on_record_what_was_not_deterministic_in_any_step(config: Path, tmp_path: Path) -> None:
    job = tiny.job_of(config, tmp_path / "runs")
    run = job.begin("PHASE1_CALIBRATE")
    with guard(job, run):
        warnings.warn("scatter_cuda does not have a deterministic implementation, but you set ...", UserWarning, stacklevel=1)
    with guard(job, run):
        pass
    run.release()
    (unavailable,) = read_record(run.folder)["determinism"]["unavailable"]
    assert unavailable.startswith("scatter_cuda does not have")
