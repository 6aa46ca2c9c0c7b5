"""Phase 5: from the artifacts of phases 1 to 4 to avalanches, tables T01, T04, T05, T06 and the figures of data set A (S05).

The model runs for the ablations alone, once a distinct (intervention, gain).
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from avalanche_llm.analysis.ablations import GLOBAL, AblationInputs, Intervention, ablation_rows, needed, plan_of
from avalanche_llm.analysis.conditions import Condition, conditions_from_frame
from avalanche_llm.analysis.measures import ConditionMeasures, measure_condition
from avalanche_llm.analysis.null_rows import null_rows
from avalanche_llm.analysis.summarize import Row, RowHead, crackling_row, summary_row, tail_row
from avalanche_llm.events.collect import LayerTail
from avalanche_llm.events.rate_match import RateTargets
from avalanche_llm.events.tail_files import read_events, rows_of_gain, table_to_tails, tails_to_table
from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import json_bytes, parquet, raw, read_npz
from avalanche_llm.io.store import Upstream
from avalanche_llm.metrics.signatures import signature_alignment, susceptibility_peak
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.phases.analysis_figures import AnalysisFrames, export_figures
from avalanche_llm.phases.context import CALIBRATION_SLICE, guard, open_model, slices_of_a, use_slice
from avalanche_llm.phases.gain_grid import calibration_lattice
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.measure import largest_events
from avalanche_llm.phases.parts import kept_or_made
from avalanche_llm.phases.upstream_files import calibration_stats, frame, rate_targets_of
from avalanche_llm.plotting.export import export_table
from avalanche_llm.progress import progress
from avalanche_llm.raster.build import count_raster


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


@dataclass(frozen=True)
class AnalysisInputs:
    """The upstream runs of phase 5 and what it reads from them, each artifact once."""

    job: Job
    s01: Upstream
    s02: Upstream
    s02b: Upstream
    s03: Upstream
    s04: Upstream

    @cached_property
    def grid(self) -> pd.DataFrame:
        """The grid's metrics, a row a condition; its index is the cond_id of metrics.parquet and avalanches.parquet."""
        return frame(self.s02, "metrics")

    @cached_property
    def targets(self) -> RateTargets:
        return rate_targets_of(self.s01)

    @cached_property
    def weights(self) -> np.ndarray:
        statistics = self.job.settings.statistics
        n_seq = self.job.settings.datasets.A.n_windows_calibration
        return bootstrap_weights(n_seq, reps=statistics.bootstrap_reps, seed=statistics.bootstrap_seed)

    @cached_property
    def tails(self) -> dict[float, list[LayerTail]]:
        """The candidate events of every gain of the grid."""
        events = read_events(self.s02.artifact("activation_events"))
        n_layers = len(next(iter(self.targets.r_base.values())))
        grid = self.job.settings.gains.grid
        return {gain: table_to_tails(rows_of_gain(events, index), n_layers=n_layers) for index, gain in enumerate(grid)}

    @cached_property
    def taus(self) -> pd.DataFrame:
        return frame(self.s02, "tau_rate_matched").set_index(["spike_def_id", "target_rate", "g"]).sort_index()

    @cached_property
    def gstar(self) -> pd.DataFrame:
        selections = pd.DataFrame(json.loads(self.s02b.artifact("gstar").read_bytes())["selections"])
        return selections.rename(columns={"ci_low": "gstar_ci_low", "ci_high": "gstar_ci_high"})

    @cached_property
    def held_out(self) -> pd.DataFrame:
        return frame(self.s03, "metrics")

    @cached_property
    def conditions(self) -> list[Condition]:
        return conditions_from_frame(self.held_out)

    @cached_property
    def nulls(self) -> pd.DataFrame:
        """Branching of every surrogate of phase 4 beside the held-out rasters."""
        observed = read_npz(self.s03.artifact("rasters_token_layer"), {"X": 4})["X"]
        drawn = read_npz(self.s04.artifact("rasters_nulls"), {"X": 4, "null_id": 1, "cond_id": 1})
        return pd.DataFrame(null_rows(self.conditions, observed, drawn["null_id"], drawn["cond_id"], drawn["X"]))

    def counts(self, key: Row) -> np.ndarray:
        """A [seq, layer, token] of one condition of the grid, rebuilt from its events and thresholds."""
        lattice = calibration_lattice(self.job.settings)
        return count_raster(
            self.tails[key["g"]],
            self.taus.loc[tuple(key.values())].sort_values("layer")["tau"].to_numpy(),
            key["spike_def_id"],
            n_seq=lattice.n_seq,
            first_token=lattice.first_token,
            n_tokens=lattice.n_tokens,
        )


def keys_of(grid: pd.DataFrame) -> list[Row]:
    """The conditions of the grid in its order."""
    return [{"spike_def_id": row.spike_def_id, "target_rate": float(row.target_rate), "g": float(row.g)} for row in grid.itertuples()]


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
                tables.append(pa.table({"cond_id": np.full(len(table), cond_id, np.int32), "adjacency_id": adjacency.cast(pa.string()), **columns}))
            advance(1)
    run.save("avalanches", parquet(pa.concat_tables(tables)))
    return measured


def export_summaries(run: Run, inputs: AnalysisInputs, measured: list[ConditionMeasures]) -> pd.DataFrame:
    """Write metrics.parquet, T01, T04 and T05; return T01."""
    events = inputs.job.settings.events
    head = row_head(run)
    keys = keys_of(inputs.grid)
    expected = [tuple(key.values()) for key in keys]
    marginals = frame(inputs.s04, "null_marginals")
    fixed = {"tau0_baseline": events.tau0_baseline, "rate_match_tol_abs": events.rate_match_tol_abs}
    rows = [
        summary_row(head, key, found, grid, marginals, inputs.held_out, fixed)
        for key, found, grid in zip(keys, measured, inputs.grid.to_dict("records"), strict=True)
    ]
    summary = export_table(run, "T01_SUMMARY", rows, expected)
    export_table(run, "T04_TAIL_FITS", [tail_row(head, key, found) for key, found in zip(keys, measured, strict=True)], expected)
    export_table(run, "T05_CRACKLING_DIAGNOSTICS", [crackling_row(head, key, found) for key, found in zip(keys, measured, strict=True)], expected)
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
            part = kept_or_made(run, f"{intervention}_{gain!r}", lambda pair=(intervention, gain): measure(*pair))  # type: ignore[misc]  # late binding on purpose
            tails[intervention, gain] = table_to_tails(part, n_layers=model.n_layers)
    data = AblationInputs(
        tails, inputs.targets, calibration_lattice(settings), inputs.weights, settings.events, settings.statistics, settings.gains.baseline
    )
    rows = list(ablation_rows(inputs.conditions, data))
    key = ("spike_def_id", "target_rate", "g_condition", "g", "intervention_id")
    head = row_head(run)
    return export_table(run, "T06_ABLATIONS", [head.row(**row) for row in rows], [tuple(row[name] for name in key) for row in rows])


def signature_verdicts(summary: pd.DataFrame, inputs: AnalysisInputs) -> list[dict[str, Any]]:
    """S1 against S2 in each cell: does chi peak near g*? The verdict may be, and often is, negative."""
    verdicts = []
    for row in inputs.gstar.itertuples():
        curve = summary[(summary["spike_def_id"] == row.spike_def_id) & (summary["target_rate"] == row.target_rate)].sort_values("g")
        gains = curve["g"].to_numpy()
        peak = susceptibility_peak(gains, curve["chi"].to_numpy())
        limit = inputs.job.settings.statistics.signature_alignment_g_diff_max
        verdict = signature_alignment(float(row.gstar), peak, gains=gains, max_difference=limit)
        verdicts.append(
            {
                "spike_def_id": row.spike_def_id,
                "target_rate": row.target_rate,
                "gstar": row.gstar,
                "gstar_status": row.status,
                "chi_peak_g": verdict.chi_peak_g if np.isfinite(verdict.chi_peak_g) else None,
                "distance": verdict.distance if np.isfinite(verdict.distance) else None,
                "peak_at_edge": verdict.peak_at_edge,
                "agrees": verdict.agrees,
                "sentence": verdict.sentence,
            }
        )
    return verdicts
