"""Phase 2, selection: g* for every spike definition and target rate, from branching on data set A alone (spec 08, S02B)."""

from dataclasses import asdict

import numpy as np
import pandas as pd

from avalanche_llm.io.files import json_bytes, raw
from avalanche_llm.metrics.branching import BranchingSums, branching
from avalanche_llm.metrics.gstar import choose_gstar, refuse_task_metrics
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.phases.context import guard
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.upstream_files import frame
from avalanche_llm.settings import Statistics

GRID = "PHASE2_GAIN_GRID"


def select_gstar(job: Job) -> str:
    """Run the selection and return its run id. The model is not needed."""
    run = job.begin("PHASE2_SELECT_GSTAR")
    with guard(job, run):
        upstream = job.upstream(GRID)
        run.describe(model=upstream.record["model"], dataset=upstream.record["dataset"])
        sums = frame(upstream, "branching_sums")
        selections = choose_all(sums, job.settings.statistics)
        run.describe(
            conditions=[{key: row[key] for key in ("spike_def_id", "target_rate", "gstar", "status")} for row in selections]
        )
        chosen = {
            "method": job.settings.pipeline.gstar_method,
            "dataset_role": "A",
            "inputs": sorted(sums.columns),
            "grid": sorted(float(gain) for gain in sums["g"].unique()),
            "bootstrap_reps": job.settings.statistics.bootstrap_reps,
            "selections": selections,
        }
        run.save("gstar", raw(json_bytes(chosen)))
    run.complete()
    return run.run_id


def choose_all(sums: pd.DataFrame, statistics: Statistics) -> list[dict[str, object]]:
    """A selection for each cell of the branching sums; the same resampled sequences at every gain, so they are paired."""
    refuse_task_metrics(list(sums.columns))
    weights = bootstrap_weights(sums["seq_id"].nunique(), reps=statistics.bootstrap_reps, seed=statistics.bootstrap_seed)
    selections = []
    for (spike_def, rate), cell in sums.groupby(["spike_def_id", "target_rate"], sort=True):
        cell = cell.sort_values(["g", "seq_id"])
        gains = cell["g"].unique()
        by_gain = sums_from_rows(cell, len(gains))
        choice = choose_gstar(gains, branching(by_gain).b_tot, branching(by_gain, weights).b_tot.T)
        selections.append({"spike_def_id": spike_def, "target_rate": rate, **asdict(choice)})
    return selections


def sums_from_rows(rows: pd.DataFrame, n_gains: int) -> BranchingSums:
    """Rows sorted by gain and sequence as sums of shape [gain, seq]."""

    def column(name: str) -> np.ndarray:
        return rows[name].to_numpy().reshape(n_gains, -1)

    return BranchingSums(
        n_sites=column("n_sites"),
        time_pairs=column("time_pairs"),
        depth_pairs=column("depth_pairs"),
        perm_time_pairs=column("perm_time_pairs"),
        perm_depth_pairs=column("perm_depth_pairs"),
        shift_time_pairs=column("shift_time_pairs"),
        shift_depth_pairs=column("shift_depth_pairs"),
    )
