"""Phase 2: the grid of gains, one forward pass each (spec 08, S02).

Three steps that may run in one process or in many: plan, measure one gain, publish. Each measured gain is a part file in
the run's cache, so that a resumed run measures only what is missing.
"""

from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pandas as pd
import pyarrow as pa

from avalanche_llm.analysis.grid_rows import Lattice, rows_of_gain
from avalanche_llm.events.tail_files import read_events, table_to_tails, tails_to_table
from avalanche_llm.io.files import parquet
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.phases.context import CALIBRATION_SLICE, guard, open_model, slices_of_a, use_slice
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.measure import largest_events
from avalanche_llm.phases.parts import is_kept, keep, part_path
from avalanche_llm.phases.upstream_files import calibration_stats, rate_targets_of
from avalanche_llm.settings import Settings

CALIBRATE = "PHASE1_CALIBRATE"


@dataclass(frozen=True)
class GridPlan:
    """A begun grid run and the gains that are still to be measured."""

    run_id: str
    missing: tuple[float, ...]


def gain_grid(job: Job) -> str:
    """Run phase 2's grid in this process and return its run id."""
    plan = plan_grid(job)
    for gain in plan.missing:
        measure_gain(job, plan.run_id, gain)
    publish_grid(job, plan.run_id)
    return plan.run_id


def plan_grid(job: Job) -> GridPlan:
    """Begin the run and say which gains have no readable part file yet."""
    run = job.begin("PHASE2_GAIN_GRID")
    with guard(job, run):
        run.describe(conditions=[{"gain_id": index, "g": gain} for index, gain in enumerate(job.settings.gains.grid)])
        missing = tuple(gain for gain in job.settings.gains.grid if not is_kept(run, part_name(gain)))
    return GridPlan(run.run_id, missing)


def measure_gain(job: Job, run_id: str, gain: float) -> Path:
    """One forward pass over the calibration slice at `gain`; the path of the part file with its candidate events.

    A part that is there already is kept.
    """
    run = job.store.open_run(run_id)
    part = part_path(run, part_name(gain))
    if is_kept(run, part_name(gain)):
        return part
    with guard(job, run):
        upstream = job.upstream(CALIBRATE)
        model = open_model(job, run, upstream)
        calibration = slices_of_a(job, model, upstream)[CALIBRATION_SLICE]
        if CALIBRATION_SLICE not in run.record["dataset"]:
            use_slice(job, run, calibration)
        targets, settings = rate_targets_of(upstream), job.settings
        plan = GainPlan.uniform("MLP", gain, model.n_layers)
        stats = calibration_stats(upstream)
        tails, report = largest_events(model, calibration.windows, plan, stats, targets, settings, f"gain {gain:g}")
        gain_id = settings.gains.grid.index(gain)
        keep(run, part_name(gain), tails_to_table(tails, gain_id=gain_id, gain=gain))
        run.time("forward_s", report.seconds)
        run.log("gain_measured", g=gain, seconds=round(report.seconds, 3), windows=report.n_windows, batches=report.n_batches)
    return part


def publish_grid(job: Job, run_id: str) -> None:
    """Thresholds, branching and metrics of every gain from the part files; checks; the run becomes complete."""
    run = job.store.open_run(run_id)
    with guard(job, run):
        began = monotonic()
        grid = job.settings.gains.grid
        parts = [read_events(part_path(run, part_name(gain))) for gain in grid]
        targets, lattice = rate_targets_of(job.upstream(CALIBRATE)), calibration_lattice(job.settings)
        weights = bootstrap_weights(
            lattice.n_seq, reps=job.settings.statistics.bootstrap_reps, seed=job.settings.statistics.bootstrap_seed
        )
        n_layers = len(next(iter(targets.r_base.values())))
        rows = [
            rows_of_gain(table_to_tails(part, n_layers=n_layers), targets, lattice, weights, job.settings.events, g=gain)
            for part, gain in zip(parts, grid, strict=True)
        ]
        run.save("activation_events", parquet(pa.concat_tables(parts)))
        for name, frames in (
            ("tau_rate_matched", [row.tau for row in rows]),
            ("branching_sums", [row.sums for row in rows]),
            ("metrics", [row.metrics for row in rows]),
        ):
            run.save(name, parquet(pa.Table.from_pandas(_in_order(pd.concat(frames)), preserve_index=False)))
        run.time("publish_s", monotonic() - began)
    run.complete()


def calibration_lattice(settings: Settings) -> Lattice:
    """Shape of the rasters of the calibration slice."""
    return Lattice.of(settings, settings.datasets.A.n_windows_calibration)


def part_name(gain: float) -> str:
    """Name of the part file with one gain's candidate events."""
    return f"gain_{gain!r}"


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    keys = [key for key in ("spike_def_id", "target_rate", "g", "layer", "seq_id") if key in rows]
    return rows.sort_values(keys, kind="stable", ignore_index=True)
