"""Phase 3: rasters at g = 1 and g* on windows that calibration never saw (spec 07, S03).

Thresholds come from the calibration slice; on the held-out slice the achieved rate is a result, reported with its binomial
z = (events - n r) / sqrt(n r (1 - r)), and no longer a matter of matching.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from avalanche_llm.analysis.conditions import Condition, ThresholdTable, raster_conditions
from avalanche_llm.analysis.grid_rows import Lattice, branching_columns, raster_columns
from avalanche_llm.datasets import TokenSlice
from avalanche_llm.events.collect import LayerTail
from avalanche_llm.events.tail_files import table_to_tails, tails_to_table
from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import npz, parquet
from avalanche_llm.metrics.branching import branching_sums
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.phases.context import RASTER_SLICE, guard, open_model, slices_of_a, use_slice
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.measure import events_over
from avalanche_llm.phases.parts import kept_or_made
from avalanche_llm.phases.upstream_files import calibration_stats, frame, gstar_rows
from avalanche_llm.raster.build import occupancy
from avalanche_llm.settings import Settings


def extract_rasters(job: Job) -> str:
    """Run phase 3 and return its run id: one pass a distinct gain over the raster slice."""
    run = job.begin("PHASE3_EXTRACT_RASTERS")
    with guard(job, run):
        s01, s02, s02b = (job.upstream(phase) for phase in run.stage.needs)
        model = open_model(job, run, s01, s02)
        slices = slices_of_a(job, model, s01, s02)
        held_out = use_slice(job, run, slices[RASTER_SLICE])
        conditions = raster_conditions(gstar_rows(s02b), job.settings.gains.baseline)
        run.describe(conditions=[condition.columns() for condition in conditions])
        run.save("raster_tokens", parquet(token_table(held_out, model.tokenizer)))
        taus, stats = ThresholdTable(frame(s02, "tau_rate_matched")), calibration_stats(s01)

        def measure(gain: float) -> pa.Table:
            plan = GainPlan.uniform("MLP", gain, model.n_layers)
            bounds = taus.bounds(gain)
            tails, report = events_over(model, held_out.windows, plan, stats, bounds, job.settings, f"rasters, gain {gain:g}")
            run.time("forward_s", report.seconds)
            return tails_to_table(tails, gain_id=job.settings.gains.grid.index(gain), gain=gain)

        gains = sorted({condition.g for condition in conditions})
        tails = {
            gain: table_to_tails(kept_or_made(run, f"raster_{gain!r}", partial(measure, gain)), n_layers=model.n_layers)
            for gain in gains
        }
        publish(run, conditions, tails, taus, len(held_out.windows), model.d_ff, job.settings)
    run.complete()
    return run.run_id


def token_table(held_out: TokenSlice, tokenizer: Any) -> pa.Table:
    """The tokens below the rasters, a row a (seq_id, token): id and text, for readers of rasters without the tokenizer."""
    n_seq, n_tokens = held_out.windows.shape
    known, place = np.unique(held_out.windows, return_inverse=True)
    texts = np.array([tokenizer.decode([token_id]) for token_id in known.tolist()], dtype=object)
    return pa.table(
        {
            "seq_id": np.repeat(np.arange(n_seq, dtype=np.int32), n_tokens),
            "token": np.tile(np.arange(n_tokens, dtype=np.int32), n_seq),
            "token_id": held_out.windows.ravel().astype(np.int32),
            "text": pa.array(texts[place.ravel()], pa.string()),
        }
    )


def publish(
    run: Run,
    conditions: list[Condition],
    tails: Mapping[float, list[LayerTail]],
    taus: ThresholdTable,
    n_seq: int,
    d_ff: int,
    settings: Settings,
) -> None:
    """Write rasters_token_layer.npz and the condition map with held-out rates and branching."""
    lattice = Lattice.of(settings, n_seq)
    weights = bootstrap_weights(n_seq, reps=settings.statistics.bootstrap_reps, seed=settings.statistics.bootstrap_seed)
    counts, rows = [], []
    for condition in conditions:
        thresholds = taus.of(condition.cell, condition.g)
        raster = lattice.raster(tails[condition.g], thresholds["tau"].to_numpy(), condition.spike_def)
        counts.append(raster)
        held_out = held_out_rates(raster, thresholds["r_star"].to_numpy(), d_ff)
        branching = branching_columns(branching_sums(occupancy(raster)), weights)
        rows.append({**condition.columns(), **raster_columns(raster), **held_out, **branching})
    run.save("metrics", parquet(pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False)))
    stacked = np.stack(counts)
    run.save(
        "rasters_token_layer",
        npz(
            {
                "X": occupancy(stacked),
                "A": stacked,
                "cond_id": np.array([condition.cond_id for condition in conditions], dtype=np.int32),
                "seq_id": np.arange(n_seq, dtype=np.int32),
            }
        ),
    )


def held_out_rates(raster: np.ndarray, r_star: np.ndarray, d_ff: int) -> dict[str, Any]:
    """Achieved rates on the held-out slice against the targets: relative errors and binomial z, worst layer and mean."""
    n_samples = raster.shape[0] * raster.shape[2] * d_ff
    events = raster.sum(axis=(0, 2), dtype=np.int64)
    z = (events - n_samples * r_star) / np.sqrt(n_samples * r_star * (1 - r_star))
    relative = events / n_samples / r_star - 1
    return {
        "heldout_rate_mean": float(events.mean() / n_samples),
        "heldout_rate_max_rel_err": float(np.abs(relative).max()),
        "heldout_rate_z_max": float(np.abs(z).max()),
        "heldout_rate_z_rms": float(np.sqrt((z**2).mean())),
    }
