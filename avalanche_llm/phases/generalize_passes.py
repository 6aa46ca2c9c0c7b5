"""The model's part of phase 6 on data set B: one pass a gain gives events and next-token likelihood together (S06B; spec 17).

sequence_nll.parquet: gain_id (place of g in the grid), g, seq_id, nll_sum (nats), n_predicted (positions). A gain waits in
the run's cache as two parts and counts as measured only with both.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avalanche_llm.analysis.conditions import ThresholdTable
from avalanche_llm.errors import MissingArtifact
from avalanche_llm.events.collect import LayerTail
from avalanche_llm.events.standardize import CalibrationStats
from avalanche_llm.events.tail_files import read_events, rows_of_gain, table_to_tails, tails_to_table
from avalanche_llm.io.artifacts import Run, RunArtifacts
from avalanche_llm.io.files import parquet, read_parquet
from avalanche_llm.io.store import Upstream
from avalanche_llm.metrics.likelihood import SequenceNll
from avalanche_llm.model.forward import first_predicted
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.phases.context import open_model, slice_of_b, use_slice
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.measure import events_over
from avalanche_llm.phases.parts import is_kept, keep, part_path
from avalanche_llm.phases.upstream_files import calibration_stats, frame
from avalanche_llm.settings import SpikeDef

NLL_SCHEMA: Final = pa.schema(
    [
        ("gain_id", pa.int16()),
        ("g", pa.float64()),
        ("seq_id", pa.int32()),
        ("nll_sum", pa.float64()),
        ("n_predicted", pa.int64()),
    ]
)


def measure_gains(job: Job, run: Run, gains: list[float], s01: Upstream, s02: Upstream) -> None:
    """Run each gain once over data set B and write its events and likelihoods. Calibration and thresholds are upstream's."""
    missing = [gain for gain in gains if not _is_measured(run, gain)]
    if missing:
        model = open_model(job, run, s01, s02)
        windows = use_slice(job, run, slice_of_b(job, model)).windows
        stats, taus = calibration_stats(s01), ThresholdTable(frame(s02, "tau_rate_matched"))
        for gain in missing:
            _measure(job, run, gain, model, windows, stats, taus.bounds(gain))
    run.save("activation_events", parquet(pa.concat_tables([read_events(part_path(run, _events(gain))) for gain in gains])))
    run.save("sequence_nll", parquet(pa.concat_tables([_read_nll(part_path(run, _likelihood(gain))) for gain in gains])))


def tails_of(run: RunArtifacts, gain_ids: dict[float, int], n_layers: int) -> dict[float, list[LayerTail]]:
    """The events of each gain, as measured."""
    events = read_events(run.artifact("activation_events"))
    return {gain: table_to_tails(rows_of_gain(events, index), n_layers=n_layers) for gain, index in gain_ids.items()}


def nll_of(run: RunArtifacts, gain_ids: dict[float, int], n_seq: int) -> dict[float, SequenceNll]:
    """The likelihoods of each gain in the order of the sequences. MissingArtifact if one has not a row for each of them."""
    path = run.artifact("sequence_nll")
    table, found = _read_nll(path), {}
    for gain, index in gain_ids.items():
        rows = table.filter(pc.field("gain_id") == index)
        if rows["seq_id"].to_pylist() != list(range(n_seq)):
            raise MissingArtifact(f"{path} has {len(rows)} rows at gain {gain:g}, one for each of {n_seq} sequences was expected")
        found[gain] = SequenceNll(rows["nll_sum"].to_numpy(), rows["n_predicted"].to_numpy())
    return found


def _measure(
    job: Job,
    run: Run,
    gain: float,
    model: LoadedModel,
    windows: np.ndarray,
    stats: CalibrationStats,
    bounds: Sequence[Mapping[SpikeDef, float]],
) -> None:
    plan, predicted = GainPlan.uniform("MLP", gain, model.n_layers), first_predicted(job.settings.pipeline.burn_in_tokens)
    label = f"data set B, gain {gain:g}"
    tails, report = events_over(model, windows, plan, stats, bounds, job.settings, label, predicted)
    gain_id, nll = job.settings.gains.grid.index(gain), report.nll
    columns = [np.full(len(windows), gain_id), np.full(len(windows), gain), np.arange(len(windows)), nll.nll_sum, nll.n_predicted]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, NLL_SCHEMA, strict=True)]
    keep(run, _likelihood(gain), pa.table(arrays, schema=NLL_SCHEMA))
    keep(run, _events(gain), tails_to_table(tails, gain_id=gain_id, gain=gain))
    run.time("forward_s", report.seconds)
    run.log("gain_measured", g=gain, seconds=round(report.seconds, 3), windows=report.n_windows, batches=report.n_batches)


def _is_measured(run: Run, gain: float) -> bool:
    return is_kept(run, _likelihood(gain), _read_nll) and is_kept(run, _events(gain))


def _read_nll(path: Path) -> pa.Table:
    return read_parquet(path, NLL_SCHEMA)


def _events(gain: float) -> str:
    return f"events_{gain!r}"


def _likelihood(gain: float) -> str:
    return f"nll_{gain!r}"
