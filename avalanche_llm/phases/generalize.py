"""Phase 6, data set B: does what g* was chosen for on data set A hold on other text? (S06B; spec 17).

Every distinct gain is one forward pass. Calibration statistics and thresholds are those of data set A at the same gain and are
never refitted.
"""

from functools import partial

import pandas as pd
import pyarrow as pa

from avalanche_llm.analysis.conditions import Condition, ThresholdTable, keys_at_both_gains, raster_conditions
from avalanche_llm.analysis.generalization import generalization_row, measure, paired_rows
from avalanche_llm.analysis.grid_rows import Lattice
from avalanche_llm.analysis.summarize import Row, RowHead
from avalanche_llm.io.artifacts import RunArtifacts
from avalanche_llm.io.files import parquet
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.phases.context import guard
from avalanche_llm.phases.extract_rasters import held_out_rates
from avalanche_llm.phases.generalize_passes import measure_gains, nll_of, tails_of
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.upstream_files import frame, gstar_rows
from avalanche_llm.plotting import figures
from avalanche_llm.plotting.export import checked_table, export_figure, export_tables
from avalanche_llm.plotting.style import provenance_of
from avalanche_llm.stages import stages

PHASE = "PHASE6_GENERALIZE_B_METRICS"
TABLE = "T02_GENERALIZATION"


def generalize(job: Job) -> str:
    """Run the phase and return its run id: one pass a distinct gain over data set B."""
    run = job.begin(PHASE)
    with guard(job, run):
        s01, s02 = job.upstream("PHASE1_CALIBRATE"), job.upstream("PHASE2_GAIN_GRID")
        conditions = _conditions(job)
        run.describe(conditions=[condition.columns() for condition in conditions])
        measure_gains(job, run, sorted({condition.g for condition in conditions}), s01, s02)
        rows = metric_rows(job, run)
        run.save("metrics", parquet(pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False)))
        exported = tables_of(job, run, rows)
        export_tables(run, exported)
        table = exported[TABLE]
        export_figure(run, "F06_GENERALIZATION_B", partial(figures.generalization, table), provenance_of(table))
    run.complete()
    return run.run_id


def tables(job: Job, run: RunArtifacts) -> dict[str, pd.DataFrame]:
    """T02 from the run's own events and likelihoods and the thresholds and g* before it."""
    return tables_of(job, run, metric_rows(job, run))


def metric_rows(job: Job, run: RunArtifacts) -> list[Row]:
    """The rows of metrics.parquet, from which T02 takes its own."""
    settings, conditions = job.settings, _conditions(job)
    grid, n_seq = settings.gains.grid, settings.datasets.B.n_windows_eval
    gain_ids = {condition.g: grid.index(condition.g) for condition in conditions}
    model = run.record["model"]
    tails, nll = tails_of(run, gain_ids, model["n_layers"]), nll_of(run, gain_ids, n_seq)
    taus = ThresholdTable(frame(job.upstream("PHASE2_GAIN_GRID"), "tau_rate_matched"))
    weights = bootstrap_weights(n_seq, reps=settings.statistics.bootstrap_reps, seed=settings.statistics.bootstrap_seed)
    lattice, measured = Lattice.of(settings, n_seq), []
    for condition in conditions:
        thresholds = taus.of(condition.cell, condition.g)
        counts = lattice.raster(tails[condition.g], thresholds["tau"].to_numpy(), condition.spike_def)
        rates = held_out_rates(counts, thresholds["r_star"].to_numpy(), model["d_ff"])
        measured.append(
            measure(condition, counts, nll[condition.g], rates, weights, chi_eps=settings.statistics.chi_eps)
        )
    return paired_rows(measured)


def tables_of(job: Job, run: RunArtifacts, rows: list[Row]) -> dict[str, pd.DataFrame]:
    """Rows to the checked table: every configured cell at both gain conditions, whatever was measured."""
    head = RowHead.of(run.record, stages()[PHASE].tag, "B")
    written = [generalization_row(head, row) for row in rows]
    return {TABLE: checked_table(TABLE, written, keys_at_both_gains(job.settings.events))}


def _conditions(job: Job) -> list[Condition]:
    return raster_conditions(gstar_rows(job.upstream("PHASE2_SELECT_GSTAR")), job.settings.gains.baseline)
