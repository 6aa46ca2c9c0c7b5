"""Phase 5: from the artifacts of phases 1 to 4 to avalanches, tables T01, T04, T05, T06 and the figures of data set A (S05).

The model runs for the ablations alone, once a distinct (intervention, gain).
"""

from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from avalanche_llm.analysis.ablations import GLOBAL, AblationInputs, Intervention, ablation_rows, needed, plan_of
from avalanche_llm.analysis.measures import ConditionMeasures, measure_condition
from avalanche_llm.analysis.summarize import RowHead, crackling_row, summary_row, tail_row
from avalanche_llm.canon import load_canon
from avalanche_llm.events.collect import LayerTail
from avalanche_llm.events.tail_files import table_to_tails, tails_to_table
from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import json_bytes, parquet, raw
from avalanche_llm.metrics.signatures import signature_alignment, susceptibility_peak
from avalanche_llm.phases.analysis_figures import AnalysisFrames, export_figures
from avalanche_llm.phases.analysis_inputs import AnalysisInputs, keys_of
from avalanche_llm.phases.context import CALIBRATION_SLICE, guard, open_model, slices_of_a, use_slice
from avalanche_llm.phases.gain_grid import calibration_lattice
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.measure import largest_events
from avalanche_llm.phases.parts import kept_or_made
from avalanche_llm.phases.upstream_files import calibration_stats, frame
from avalanche_llm.plotting.export import export_table
from avalanche_llm.plotting.tables import Key
from avalanche_llm.progress import progress


def analyze(job: Job) -> str:
    """Run phase 5 and return its run id."""
    run = job.begin("PHASE5_ANALYZE_AND_EXPORT")
    with guard(job, run):
        inputs = AnalysisInputs(job, *(job.upstream(phase) for phase in run.stage.needs))
        run.describe(model=inputs.s02.record["model"], dataset=inputs.s03.record["dataset"])
        measured = measure_grid(run, inputs)
        summary = export_summaries(run, inputs, measured)
        ablations = export_ablations(run, job, inputs)
        signatures = signature_verdicts(summary, inputs)
        run.save("signatures", raw(json_bytes({"verdicts": signatures})))
        export_figures(run, job.settings, AnalysisFrames.of(inputs, summary, ablations))
    run.complete()
    return run.run_id


def measure_grid(run: Run, inputs: AnalysisInputs) -> list[ConditionMeasures]:
    """Measure every condition of the grid and write its avalanches."""
    settings, measured, tables = inputs.job.settings, [], []
    keys = keys_of(inputs.grid)
    with progress("conditions", len(keys), "conditions") as advance:
        for cond_id, key in enumerate(keys):
            found = measure_condition(
                inputs.counts(key),
                inputs.weights,
                settings.statistics,
                condition="|".join(map(str, key.values())),
                seed=settings.determinism.seed,
            )
            measured.append(found)
            for table in (found.avalanches_4n, found.avalanches_8n):
                columns = table.columns()
                adjacency = pa.DictionaryArray.from_arrays(np.zeros(len(table), np.int8), [table.adjacency_id])
                tables.append(
                    pa.table(
                        {
                            "cond_id": np.full(len(table), cond_id, np.int32),
                            "adjacency_id": adjacency.cast(pa.string()),
                            **columns,
                        }
                    )
                )
            advance(1)
    run.save("avalanches", parquet(pa.concat_tables(tables)))
    return measured


def export_summaries(run: Run, inputs: AnalysisInputs, measured: list[ConditionMeasures]) -> pd.DataFrame:
    """Write metrics.parquet, T01, T04 and T05; return T01."""
    events = inputs.job.settings.events
    head = row_head(run)
    keys = keys_of(inputs.grid)
    grid_gains = inputs.job.settings.gains.grid
    expected = list(product(sorted(events.spike_defs), sorted(events.target_rates), grid_gains))
    marginals = frame(inputs.s04, "null_marginals")
    fixed = {"tau0_baseline": events.tau0_baseline, "rate_match_tol_abs": events.rate_match_tol_abs}
    rows = [
        summary_row(head, key, found, grid, marginals, inputs.held_out, fixed)
        for key, found, (_, grid) in zip(keys, measured, inputs.grid.iterrows(), strict=True)
    ]
    summary = export_table(run, "T01_SUMMARY", rows, expected)
    export_table(run, "T04_TAIL_FITS", [tail_row(head, key, found) for key, found in zip(keys, measured, strict=True)], expected)
    export_table(
        run,
        "T05_CRACKLING_DIAGNOSTICS",
        [crackling_row(head, key, found) for key, found in zip(keys, measured, strict=True)],
        expected,
    )
    metrics = summary.drop(columns=["run_id", "config_hash", "code_version"]).reset_index(names="cond_id")
    run.save("metrics", parquet(pa.Table.from_pandas(metrics, preserve_index=False)))
    run.save("null_comparison", parquet(pa.Table.from_pandas(inputs.nulls, preserve_index=False)))
    return summary


def row_head(run: Run) -> RowHead:
    """What every row of this run's tables begins and ends with."""
    model, hashes = run.record["model"], run.record["hashes"]
    return RowHead(run.run_id, run.stage.tag, model["id"], model["role"], "A", hashes["config_sha256"], hashes["code_version"])


def export_ablations(run: Run, job: Job, inputs: AnalysisInputs) -> pd.DataFrame:
    """Run each distinct intervention once at its gain and write T06."""
    settings = job.settings
    tails: dict[Intervention, list[LayerTail]] = {(GLOBAL, gain): found for gain, found in inputs.tails.items()}
    wanted = needed(inputs.conditions, settings.gains.baseline)
    if wanted:
        model = open_model(job, run, inputs.s01, inputs.s02)
        calibration = use_slice(job, run, slices_of_a(job, model, inputs.s01, inputs.s02)[CALIBRATION_SLICE])
        stats = calibration_stats(inputs.s01)

        def measure(intervention: str, gain: float) -> pa.Table:
            label = f"{intervention}, gain {gain:g}"
            plan = plan_of(intervention, gain, model.n_layers)
            found, report = largest_events(model, calibration.windows, plan, stats, inputs.targets, settings, label)
            run.time("forward_s", report.seconds)
            return tails_to_table(found, gain_id=settings.gains.grid.index(gain), gain=gain)

        for intervention, gain in wanted:
            part = kept_or_made(run, f"{intervention}_{gain!r}", partial(measure, intervention, gain))
            tails[intervention, gain] = table_to_tails(part, n_layers=model.n_layers)
    data = AblationInputs(
        tails,
        inputs.targets,
        calibration_lattice(settings),
        inputs.weights,
        settings.events,
        settings.statistics,
        settings.gains.baseline,
    )
    head = row_head(run)
    rows = [head.row(**row) for row in ablation_rows(inputs.conditions, data)]
    return export_table(run, "T06_ABLATIONS", rows, expected_ablations(inputs.gstar, settings.gains.baseline))


def expected_ablations(gstar: pd.DataFrame, baseline: float) -> list[Key]:
    """The keys that T06 must have, from the selections and the registry alone: what was measured does not enter."""
    return [
        (row["spike_def_id"], row["target_rate"], *key)
        for row in gstar.to_dict("records")
        for key in (
            ("g1", baseline, GLOBAL),
            *(("gstar", row["gstar"], intervention) for intervention in load_canon()["ENUM.INTERVENTION_ID"]),
        )
    ]


def signature_verdicts(summary: pd.DataFrame, inputs: AnalysisInputs) -> list[dict[str, Any]]:
    """S1 against S2 in each cell: does chi peak near g*? The verdict may be, and often is, negative."""
    verdicts = []
    for row in inputs.gstar.to_dict("records"):
        curve = summary[
            (summary["spike_def_id"] == row["spike_def_id"]) & (summary["target_rate"] == row["target_rate"])
        ].sort_values("g")
        gains = curve["g"].to_numpy()
        peak = susceptibility_peak(gains, curve["chi"].to_numpy())
        limit = inputs.job.settings.statistics.signature_alignment_g_diff_max
        located = row["status"] == "bracketed"
        caution = "" if located else " b_tot does not cross one at g*, so S1 located nothing."
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
