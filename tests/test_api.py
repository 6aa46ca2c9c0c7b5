"""The Python API: it costs nothing to import, gives the pipeline's numbers bit for bit, and says what is wrong with its input."""

import inspect
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import avalanche_llm as av
from avalanche_llm import api
from avalanche_llm.analysis.measures import measure_condition
from avalanche_llm.api.raster import SURROGATES, as_raster, canonical
from avalanche_llm.datasets import ended, token_windows, windows_of
from avalanche_llm.errors import AvalancheError, ConfigError, DataError, DeterminismError, SchemaError, UnsupportedModel
from avalanche_llm.io.store import Upstream
from avalanche_llm.metrics.branching import branching, branching_sums
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.phases.context import CALIBRATION_SLICE, RASTER_SLICE, slices_of_a
from avalanche_llm.phases.extract_rasters import extract_rasters
from avalanche_llm.phases.job import Job
from avalanche_llm.raster.build import occupancy
from avalanche_llm.raster.nulls import draw_null
from avalanche_llm.simulate.cascade import branching_process
from avalanche_llm.simulate.truth import Shape

OPTIONS: dict[str, Any] = {"target_rates": tiny.RATES, "seq_len": tiny.SEQ_LEN, "batch_windows": tiny.BATCH}
KEYS = ["spike_def_id", "target_rate", "g"]


@pytest.fixture(scope="module")
def job(config: Path, pipeline: Path) -> Job:
    return tiny.job_of(config, pipeline)


@pytest.fixture(scope="module")
def windows(job: Job) -> dict[str, np.ndarray]:
    return {role: data.windows for role, data in slices_of_a(job, tiny.model_of(job)).items()}


@pytest.fixture(scope="module")
def in_memory(model_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def events(in_memory: Any, windows: dict[str, np.ndarray]) -> av.Events:
    return av.measure(in_memory, None, windows[CALIBRATION_SLICE], gains=tiny.GAINS, **OPTIONS)


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    return branching_process(Shape(12, 6, 80), 0.8, immigration=0.1, seen=0.5, seed=3).counts


def written(upstream: Upstream, name: str, *keys: str) -> pd.DataFrame:
    """An artifact's rows by definition, rate and gain."""
    return pd.read_parquet(upstream.artifact(name)).sort_values([*KEYS, *keys], ignore_index=True)


def in_order(frame: pd.DataFrame, *keys: str) -> pd.DataFrame:
    return frame.sort_values([*KEYS, *keys], ignore_index=True)


def test_importing_the_package_brings_in_nothing_heavy() -> None:
    code = (
        "import sys, avalanche_llm as av\n"
        "heavy = {'torch', 'dagster', 'numpy', 'pandas', 'matplotlib', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert av.__version__ and {'measure', 'branching'} <= set(dir(av))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tiny.REPO)


def test_the_package_offers_what_the_api_offers_and_nothing_else() -> None:
    assert av.__all__ == api.__all__ and len(set(av.__all__)) == len(av.__all__)
    for name in av.__all__:
        assert getattr(av, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="no attribute 'criticality'"):
        _ = av.criticality  # type: ignore[attr-defined]
    from avalanche_llm import raster  # a subpackage stays what it is

    assert raster.__name__ == "avalanche_llm.raster"


def test_measure_gives_the_thresholds_rasters_and_branching_of_the_pipeline(job: Job, events: av.Events) -> None:
    grid, reps = job.upstream("PHASE2_GAIN_GRID"), job.settings.statistics.bootstrap_reps
    assert events.gains == tuple(tiny.GAINS)
    for name, ours in (("tau_rate_matched", events.thresholds), ("branching_sums", events.branching_sums)):
        keys = ("layer",) if name == "tau_rate_matched" else ("seq_id",)
        pd.testing.assert_frame_equal(in_order(ours, *keys), written(grid, name, *keys), check_exact=True)
    pd.testing.assert_frame_equal(in_order(events.table(reps=reps)), written(grid, "metrics"), check_exact=True)


def test_gstar_is_the_selection_of_the_pipeline(job: Job, events: av.Events) -> None:
    chosen = av.gstar(events, reps=job.settings.statistics.bootstrap_reps)
    expected = json.loads(job.upstream("PHASE2_SELECT_GSTAR").artifact("gstar").read_bytes())["selections"]
    assert json.loads(json.dumps(chosen.to_dict("records"))) == expected
    with pytest.raises(ConfigError, match="unknown method 'best'; known are btot_near_one, excess_peak, mr_near_one"):
        inspect.unwrap(av.gstar)(events, method="best")  # type: ignore[arg-type]  # types are checked in tests alone
    by_excess = av.gstar(events, method="excess_peak", reps=20)
    table = events.table(reps=20)
    for row in by_excess.to_dict("records"):
        cell = table[(table["spike_def_id"] == row["spike_def_id"]) & (table["target_rate"] == row["target_rate"])]
        assert row["criterion"] == cell["delta_b_tot"].max()


def test_a_raster_of_the_model_is_measured_as_phase_5_measures_it(job: Job, events: av.Events) -> None:
    (raster,) = av.rasters(events, gain=1.1, spike_def="SPIKE_TWO_SIDED_ABS", target_rate=tiny.RATES[1])
    statistics, seed = job.settings.statistics, job.settings.determinism.seed
    weights = bootstrap_weights(tiny.N_WINDOWS, reps=statistics.bootstrap_reps, seed=statistics.bootstrap_seed)
    condition = f"SPIKE_TWO_SIDED_ABS|{tiny.RATES[1]}|1.1"
    expected = measure_condition(raster.counts, weights, statistics, condition=condition, seed=seed)
    limits: dict[str, Any] = {"reps": statistics.bootstrap_reps, "draws": statistics.null_draws}
    found, ratios = av.analyze(raster, **limits), av.branching(raster, **limits)
    assert (found.permutation, found.shift, found.swap_excess) == (expected.permutation, expected.shift, expected.swap_excess)
    assert (ratios.permutation, ratios.shift) == (expected.permutation, expected.shift)
    assert ratios.b_tot.value == float(expected.branching.b_tot)
    assert ratios.delta_b_tot.low <= ratios.delta_b_tot.value <= ratios.delta_b_tot.high
    assert av.susceptibility(raster, reps=statistics.bootstrap_reps) == expected.susceptibility
    row = events.table(reps=statistics.bootstrap_reps).set_index(KEYS).loc[("SPIKE_TWO_SIDED_ABS", tiny.RATES[1], 1.1)]
    assert (ratios.delta_b_tot.low, ratios.delta_b_tot.high) == (row["delta_b_tot_ci_low"], row["delta_b_tot_ci_high"])
    frame = ratios.to_frame()
    assert frame.loc["b_tot", "value"] == row["b_tot"] and np.isnan(frame.loc["b_tot_perm", "low"])
    assert str(ratios).startswith(f"b_tot {row['b_tot']:.3f} [")


def test_calibrated_measures_other_text_with_the_thresholds_of_the_first(
    job: Job, pipeline: Path, events: av.Events, in_memory: Any, windows: dict[str, np.ndarray], config: Path, tmp_path: Path
) -> None:
    later = tiny.job_of(config, tiny.copied(pipeline, tmp_path / "runs"))
    s03 = later.store.get(extract_rasters(later))
    arrays = np.load(s03.artifact("rasters_token_layer"))
    metrics = pd.read_parquet(s03.artifact("metrics"))
    gains = sorted({float(gain) for gain in metrics["g"]})
    other = av.measure(in_memory, None, windows[RASTER_SLICE], gains=gains, calibrated=events, batch_windows=2 * tiny.BATCH)
    assert (other.settings.pipeline.batch_windows, events.settings.pipeline.batch_windows) == (2 * tiny.BATCH, tiny.BATCH)
    reps = job.settings.statistics.bootstrap_reps
    table = other.table(reps=reps).set_index(KEYS)
    for row in metrics.to_dict("records"):
        (raster,) = av.rasters(other, gain=row["g"], spike_def=row["spike_def_id"], target_rate=row["target_rate"])
        np.testing.assert_array_equal(raster.counts, arrays["A"][row["cond_id"]])
        ours = table.loc[(row["spike_def_id"], row["target_rate"], row["g"])]
        for name in ("b_tot", "delta_b_tot", "delta_b_tot_ci_low", "occupancy", "n_events"):
            assert ours[name] == row[name], name
    with pytest.raises(DataError, match="g\\* is chosen on the windows that set the thresholds"):
        av.gstar(other)


def test_texts_become_the_windows_of_a_data_set(job: Job, in_memory: Any, tokenizer: Any) -> None:
    texts = tiny.TEXT.read_text(encoding="utf-8").splitlines()
    expected = token_windows(job.settings.datasets.A, tokenizer, seq_len=tiny.SEQ_LEN, at_most=6)
    np.testing.assert_array_equal(windows_of(ended(texts), tokenizer, seq_len=tiny.SEQ_LEN, at_most=6), expected)
    lines = texts[:200]
    measured = av.measure(in_memory, tokenizer, lines, **OPTIONS)
    np.testing.assert_array_equal(measured.windows, windows_of(ended(lines), tokenizer, seq_len=tiny.SEQ_LEN))
    one = av.measure(in_memory, tokenizer, "\n".join(line for line in lines if line.strip()), **OPTIONS)
    np.testing.assert_array_equal(one.windows, measured.windows)
    assert repr(one).startswith("Events(") and "gains 1, 4 cells" in repr(one)


def test_measure_takes_a_loaded_model_and_leaves_every_model_as_it_was(job: Job, in_memory: Any, events: av.Events) -> None:
    loaded = tiny.model_of(job)
    assert isinstance(loaded, LoadedModel)
    again = av.measure(loaded, None, events.windows, gains=[1.0], **OPTIONS)
    pd.testing.assert_frame_equal(
        again.thresholds, events.thresholds[events.thresholds["g"] == 1.0].reset_index(drop=True), check_exact=True
    )
    before = {name: tensor.clone() for name, tensor in in_memory.state_dict().items()}
    flags = [parameter.requires_grad for parameter in in_memory.parameters()]
    av.measure(in_memory, None, events.windows, gains=[0.8], **OPTIONS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in in_memory.state_dict().items())
    assert flags == [parameter.requires_grad for parameter in in_memory.parameters()] and any(flags)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in in_memory.modules())


def test_burn_in_and_spike_definitions_are_options(in_memory: Any, windows: dict[str, np.ndarray]) -> None:
    measured = av.measure(in_memory, None, windows[CALIBRATION_SLICE], burn_in=8, spike_defs=["SPIKE_ONE_SIDED_POS"], **OPTIONS)
    assert measured.cells == [("SPIKE_ONE_SIDED_POS", rate) for rate in tiny.RATES]
    assert {raster.counts.shape for raster in av.rasters(measured)} == {(tiny.N_WINDOWS, tiny.N_LAYERS, tiny.SEQ_LEN - 8)}


def test_hooks_name_the_modules_of_an_unknown_family(windows: dict[str, np.ndarray]) -> None:
    model = tiny.codegen()
    ids = windows[CALIBRATION_SLICE]
    with pytest.raises(UnsupportedModel, match="no MLP is known for model type 'codegen'"):
        av.measure(model, None, ids, **OPTIONS)
    hooks = {"layers": "h", "mlp": "mlp", "attn": "attn", "down": "mlp.fc_out"}
    measured = av.measure(model, None, ids, hooks=hooks, target_rates=[5e-2], seq_len=tiny.SEQ_LEN)
    assert measured.stats.mu.shape == (2, 128)


WRONG: dict[str, tuple[dict[str, Any], type[AvalancheError], str]] = {
    "no text": ({"texts": []}, DataError, "the text gives 0 tokens, not one window of 64"),
    "blank text": ({"texts": ["  ", "\n"]}, DataError, "the text gives 0 tokens"),
    "short text": ({"texts": "avalanche"}, DataError, "not one window of 64; use a longer text"),
    "few windows": ({"texts": np.zeros((2, 64), dtype=int)}, DataError, "at least 20000 are needed"),
    "ids beyond the embedding": ({"texts": np.full((16, 64), tiny.VOCABULARY)}, DataError, "gives token id 320, the model embeds 320"),
    "negative ids": ({"texts": np.full((16, 64), -1)}, DataError, "gives token id -1, the model embeds 320"),
    "ragged windows": ({"texts": [[1, 2, 3], [1, 2]]}, DataError, "found ragged ones: cut them to seq_len"),
    "fractions": ({"texts": np.zeros((2, 64))}, DataError, "found float64 values of shape \\(2, 64\\)"),
    "other length": ({"texts": np.zeros((2, 32), dtype=int)}, DataError, "found 32: pass seq_len=32"),
    "no such rate": ({"target_rates": [2.0]}, ConfigError, "events.target_rates.0: Input should be less than 1, found 2.0"),
    "negative gain": ({"gains": [-1.0]}, ConfigError, "gains.grid.0: Input should be greater than 0"),
    "no gain": ({"gains": []}, ConfigError, "expected at least one gain, found none"),
    "few hooks": ({"hooks": {"layers": "h"}}, ConfigError, "models.INSTRUCT.hooks.mlp: Field required"),
    "training": ({"training": True}, DeterminismError, "training mode, where dropout changes every pass; call model.eval"),
    "no tokenizer": ({"texts": "a text", "tokenizer": None}, DataError, "texts need a tokenizer"),
    "no model": ({"model": torch.nn.Linear(2, 2).eval()}, UnsupportedModel, "expected a transformers model, found Linear"),
}


@pytest.mark.parametrize("case", WRONG)
def test_measure_says_what_is_wrong(case: str, in_memory: Any, tokenizer: Any, windows: dict[str, np.ndarray]) -> None:
    changes, error, message = WRONG[case]
    given = {"model": in_memory, "tokenizer": tokenizer, "texts": windows[CALIBRATION_SLICE], **OPTIONS, **changes}
    if given.pop("training", False):
        given["model"] = tiny.llama().train()
    with pytest.raises(error, match=message):
        av.measure(given.pop("model"), given.pop("tokenizer"), given.pop("texts"), **given)


def test_measure_refuses_weights_that_are_not_finite(windows: dict[str, np.ndarray]) -> None:
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(DeterminismError, match="LlamaForCausalLM has NaN or infinite weights in model.layers.1.mlp.up_proj"):
        av.measure(model, None, windows[CALIBRATION_SLICE], **OPTIONS)


def test_calibrated_refuses_other_options_gains_and_models(
    events: av.Events, in_memory: Any, windows: dict[str, np.ndarray]
) -> None:
    ids = windows[RASTER_SLICE]
    with pytest.raises(ConfigError, match="no thresholds at g = 2"):
        av.measure(in_memory, None, ids, gains=[2.0], calibrated=events)
    with pytest.raises(ConfigError, match="with `calibrated` the rates, definitions"):
        av.measure(in_memory, None, ids, seq_len=32, calibrated=events)
    with pytest.raises(ConfigError, match="expected at least one gain"):
        av.measure(in_memory, None, ids, gains=[], calibrated=events)
    with pytest.raises(ConfigError, match="pipeline.batch_windows: Input should be greater than or equal to 1, found 0"):
        av.measure(in_memory, None, ids, batch_windows=0, calibrated=events)
    hooks = {"layers": "h", "mlp": "mlp", "attn": "attn", "down": "mlp.fc_out"}
    with pytest.raises(DataError, match="2 layers of 128 units, `calibrated` measured 3 of 64"):
        av.measure(tiny.codegen(), None, ids, hooks=hooks, calibrated=events)


def test_rasters_name_what_there_is(events: av.Events) -> None:
    assert len(av.rasters(events)) == 2 * len(tiny.RATES) * len(tiny.GAINS)
    with pytest.raises(
        DataError, match=r"no raster at g = 0\.9, None, rate None: measured were gains \[0\.8, 1\.0, 1\.1, 1\.3\]"
    ):
        av.rasters(events, gain=0.9)


@pytest.mark.parametrize("make", [np.asarray, np.ndarray.tolist, lambda a: a.astype(float), lambda a: a.astype(np.int8)])
def test_every_kind_of_count_array_is_the_same_raster(make: Any, recording: np.ndarray) -> None:
    given = make(recording)
    kept = np.array(given, copy=True)
    np.testing.assert_array_equal(av.avalanches(given).size, av.avalanches(av.Raster(recording)).size)
    assert av.branching(given, draws=19) == av.branching(av.Raster(recording), draws=19)
    np.testing.assert_array_equal(given, kept)


def test_branching_of_a_recording_is_that_of_the_metrics(recording: np.ndarray) -> None:
    found, point = av.branching(recording > 0), branching(branching_sums(occupancy(recording)))
    for name in ("b_time", "b_depth", "b_tot", "delta_b_time", "delta_b_depth", "delta_b_tot", "delta_b_tot_shift"):
        assert getattr(found, name).value == float(getattr(point, name)), name
    for name in ("b_time_perm", "b_depth_perm", "b_tot_perm", "b_tot_shift"):
        assert getattr(found, name) == float(getattr(point, name)), name
    assert (found.n_sequences, found.n_sites) == (12, int((recording > 0).sum()))


def test_memory_finds_the_m_of_a_subsampled_process() -> None:
    counts = branching_process(Shape(60, 6, 120), 0.9, immigration=0.3, seen=0.3, seed=4).counts
    found = av.memory(counts)
    assert found.m.low < 0.9 < found.m.high and found.n_sequences == 60
    nothing = av.memory(counts[0])
    assert np.isnan(nothing.m.value) and nothing.reason == "1 trials, 2 needed to remove their mean"
    with pytest.raises(SchemaError, match="expected along to be token"):
        av.memory(counts, along="time")


def test_one_sequence_has_values_and_no_interval(recording: np.ndarray) -> None:
    found = av.branching(recording[0], draws=19)
    assert found.b_tot.value > 0.0 and np.isnan([found.b_tot.low, found.b_tot.high]).all() and found.n_sequences == 1
    for function in (av.susceptibility, av.analyze):
        with pytest.raises(SchemaError, match="at least 2 sequences"):
            function(recording[0])
    assert av.crackling(recording[0]).reason


def test_a_silent_raster_has_no_ratio_and_no_component() -> None:
    silent = np.zeros((3, 4, 10), dtype=bool)
    found = av.branching(silent, draws=19)
    assert np.isnan(found.b_tot.value) and found.occupancy == 0.0
    assert len(av.avalanches(silent)) == 0 and av.tail(silent).reason == "no avalanches"


def test_avalanches_as_a_frame_and_their_tail(recording: np.ndarray) -> None:
    table = av.avalanches(recording, adjacency="ADJ_8N")
    frame = table.to_frame()
    assert frame["size"].sum() == recording.sum() and list(frame)[:2] == ["seq_id", "size"]
    np.testing.assert_equal(asdict(av.tail(table)), asdict(av.tail(recording, adjacency="ADJ_8N")))  # NaN is NaN
    with pytest.raises(SchemaError, match="unknown adjacency 'ADJ_6N'"):
        av.avalanches(recording, adjacency="ADJ_6N")


def test_cut_keeps_channels_and_order(recording: np.ndarray) -> None:
    long = np.concatenate(list(recording), axis=-1)
    np.testing.assert_array_equal(av.cut(long, 80).counts, recording)
    assert av.cut(long, 70).counts.shape == (960 // 70, 6, 70)
    np.testing.assert_array_equal(av.cut(recording, 40).counts[1], recording[0, :, 40:])
    for length in (0, 961):
        with pytest.raises(SchemaError, match="expected a length between 1 and the 960 bins"):
            av.cut(long, length)


@pytest.mark.parametrize("kind", SURROGATES)
def test_surrogate_is_a_draw_of_that_null(kind: str, recording: np.ndarray) -> None:
    x, seed = occupancy(recording), canonical().determinism.seed
    expected = draw_null(SURROGATES[kind], x, recording, seed=seed, condition="", seq_ids=range(len(x)))
    np.testing.assert_array_equal(av.surrogate(recording, kind).counts, expected.counts)
    assert (av.surrogate(recording, kind, seed=seed + 1).counts != expected.counts).any()
    with pytest.raises(SchemaError, match="unknown surrogate 'jitter'; known are permutation"):
        av.surrogate(recording, "jitter")


BAD: dict[str, tuple[Any, str]] = {
    "one axis": (np.ones(5, dtype=int), r"expected \[channel, time\] or \[trial, channel, time\].*found shape \(5,\)"),
    "no token": (np.ones((2, 3, 0), dtype=int), r"found shape \(2, 3, 0\)"),
    "negative": (np.array([[0, -1]]), "expected counts of 0 or more, found -1"),
    "not a number": (np.array([[0.0, np.nan]]), "holds NaN or infinite values"),
    "fractions": (np.array([[0.0, 0.5]]), "expected whole numbers, found fractions: threshold the signal"),
    "ragged": ([[[0, 1], [1, 0]], [[0, 1, 1], [1, 0, 1]]], "found ragged ones: cut them to one length with av.cut"),
    "text": (np.array([["a", "b"]]), "expected a raster of 0/1 or counts, found <U1"),
    "too many": (np.array([[0, 70_000]]), "expected at most 65535 events a site, found 70000: use smaller bins"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_array_that_is_no_raster_is_refused(case: str) -> None:
    raster, message = BAD[case]
    for function in (as_raster, av.branching, av.avalanches, av.memory):
        with pytest.raises(SchemaError, match=message):
            function(raster)
