"""Phase 5: from the artifacts of phases 1 to 4 to avalanches, tables T01, T04, T05, T06 and the figures of data set A (S05).

The model runs for the ablations alone, once a distinct (intervention, gain).
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from avalanche_llm.analysis.measures import ConditionMeasures
from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import json_bytes, parquet, raw
from avalanche_llm.metrics.avalanches import AvalancheTable
from avalanche_llm.metrics.gstar import CRITERIA
from avalanche_llm.metrics.signatures import signature_alignment, susceptibility_peak
from avalanche_llm.phases.ablation_events import measure_ablations
from avalanche_llm.phases.analysis_figures import AnalysisFrames, export_figures
from avalanche_llm.phases.analysis_inputs import AnalysisInputs
from avalanche_llm.phases.analysis_tables import measure_grid, tables_of
from avalanche_llm.phases.context import guard
from avalanche_llm.phases.job import Job
from avalanche_llm.plotting.export import export_tables

NOT_MEASURED: Final = ("run_id", "config_hash", "code_version")
"""Columns of T01 that name its run and leave metrics.parquet."""


def analyze(job: Job) -> str:
    """Run phase 5 and return its run id."""
    run = job.begin("PHASE5_ANALYZE_AND_EXPORT")
    with guard(job, run):
        inputs = AnalysisInputs.of(job)
        run.describe(model=inputs.s02.record["model"], dataset=inputs.s03.record["dataset"])
        measure_ablations(run, inputs)
        measured = measure_grid(inputs)
        save_avalanches(run, measured)
        tables = tables_of(run, inputs, measured)
        export_tables(run, tables)
        summary = tables["T01_SUMMARY"]
        metrics = summary.drop(columns=list(NOT_MEASURED)).reset_index(names="cond_id")
        run.save("metrics", parquet(pa.Table.from_pandas(metrics, preserve_index=False)))
        run.save("null_comparison", parquet(pa.Table.from_pandas(inputs.nulls, preserve_index=False)))
        run.save("signatures", raw(json_bytes({"verdicts": signature_verdicts(summary, inputs)})))
        export_figures(run, job.settings, AnalysisFrames.of(inputs, summary, tables["T06_ABLATIONS"]))
    run.complete()
    return run.run_id


def save_avalanches(run: Run, measured: Sequence[ConditionMeasures]) -> None:
    """Every component of every condition, 4 and 8 neighbours."""
    tables = [
        _avalanche_rows(cond_id, table)
        for cond_id, found in enumerate(measured)
        for table in (found.avalanches_4n, found.avalanches_8n)
    ]
    run.save("avalanches", parquet(pa.concat_tables(tables)))


def _avalanche_rows(cond_id: int, table: AvalancheTable) -> pa.Table:
    adjacency = pa.DictionaryArray.from_arrays(np.zeros(len(table), np.int8), [table.adjacency_id]).cast(pa.string())
    return pa.table({"cond_id": np.full(len(table), cond_id, np.int32), "adjacency_id": adjacency, **table.columns()})


def signature_verdicts(summary: pd.DataFrame, inputs: AnalysisInputs) -> list[dict[str, Any]]:
    """S1 against S2 in each cell: does chi peak near g*? The verdict may be, and often is, negative."""
    missed = CRITERIA[inputs.job.settings.pipeline.gstar_method].missed
    verdicts = []
    for row in inputs.gstar.to_dict("records"):
        curve = summary[
            (summary["spike_def_id"] == row["spike_def_id"]) & (summary["target_rate"] == row["target_rate"])
        ].sort_values("g")
        gains = curve["g"].to_numpy()
        peak = susceptibility_peak(gains, curve["chi"].to_numpy())
        limit = inputs.job.settings.statistics.signature_alignment_g_diff_max
        located = row["status"] == "bracketed"
        caution = "" if located else f" {missed} at g*, so S1 located nothing."
        verdict = signature_alignment(row["gstar"], peak, gains=gains, max_difference=limit)
        verdicts.append(
            {
                "spike_def_id": row["spike_def_id"],
                "target_rate": row["target_rate"],
                "gstar": row["gstar"],
                "gstar_status": row["status"],
                "chi_peak_g": verdict.chi_peak_g if np.isfinite(verdict.chi_peak_g) else None,
                "distance": verdict.distance if np.isfinite(verdict.distance) else None,
                "peak_at_edge": verdict.peak_at_edge,
                "agrees": verdict.agrees and located,
                "sentence": verdict.sentence + caution,
            }
        )
    return verdicts
