"""The demo's real model through phases 1 and 2, small: a one-pass measurement of it equals the naive one, event for event."""

from pathlib import Path
from typing import Any

import naive
import pytest
import tiny
import yaml
from naive import Naive
from transformers import AutoTokenizer

from avalanche_llm.datasets import SliceRequest, token_slices
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.phases.calibrate import calibrate
from avalanche_llm.phases.gain_grid import gain_grid
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.select_gstar import select_gstar

N_WINDOWS, SEQ_LEN = 4, 128

pytestmark = pytest.mark.demo


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    if not (tiny.DEMO_MODEL / "config.json").is_file():
        pytest.fail(f"{tiny.DEMO_MODEL.relative_to(tiny.REPO)} is missing: `make model` fetches it")
    folder = tmp_path_factory.mktemp("demo")
    values: dict[str, Any] = {
        "extends": str(tiny.REPO / "configs" / "demo.yaml"),
        "pipeline": {"seq_len_tokens": SEQ_LEN, "batch_windows": 2},
        "models": {"INSTRUCT": {"hf_id": str(tiny.DEMO_MODEL)}},
        "datasets": {"A": {"n_windows_calibration": N_WINDOWS, "n_windows_rasters": N_WINDOWS}},
        "gains": {"grid": [1.0, 1.2]},
    }
    (folder / "demo.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    job = tiny.job_of(folder / "demo.yaml", folder / "runs")
    for phase in (calibrate, gain_grid, select_gstar):
        phase(job)
    return job, folder / "runs"


def test_the_demo_model_is_measured_in_complete_runs(measured: tuple[Job, Path]) -> None:
    _, runs = measured
    for tag in ("S01", "S02", "S02B"):
        record = read_record(tiny.run_of(runs, tag))
        assert record["stage_status"] == "complete"
        assert (record["model"]["n_layers"], record["model"]["d_ff"]) == (30, 1536)
    metrics = naive.grid_table(runs, "metrics")
    assert len(metrics) == 2 * 4 * 2
    assert metrics["rate_match_pass"].all()
    assert metrics["b_tot"].between(0, 2).all()


def test_one_pass_over_the_demo_model_keeps_the_naive_events_event_for_event(measured: tuple[Job, Path]) -> None:
    job, runs = measured
    settings = job.settings
    (calibration,) = token_slices(
        settings.datasets.A,
        [SliceRequest("A_CALIBRATION", N_WINDOWS)],
        AutoTokenizer.from_pretrained(tiny.DEMO_MODEL),
        seq_len=SEQ_LEN,
        seed=settings.determinism.seed,
        pool_cap=settings.statistics.bootstrap_reps,
    )
    assert calibration.sha256 == read_record(tiny.run_of(runs, "S01"))["dataset"]["A_CALIBRATION"]["sha256"]
    naive.assert_same_events(job, runs, Naive.of(job, calibration.windows))
