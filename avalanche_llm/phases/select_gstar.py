"""Phase 2, selection: g* for every spike definition and target rate, from events on data set A alone (spec 08, S02B)."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import cast

import numpy as np
import pandas as pd

from avalanche_llm.analysis.activity import TAU_COLUMNS, activity_of_cells, m_over_gains
from avalanche_llm.errors import SchemaError
from avalanche_llm.events.rate_match import Cell
from avalanche_llm.events.tail_files import read_events
from avalanche_llm.io.files import json_bytes, raw
from avalanche_llm.metrics.branching import BranchingSums, branching, branching_interval
from avalanche_llm.metrics.gstar import CRITERIA, choose_gstar, refuse_task_metrics
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.phases.context import guard
from avalanche_llm.phases.gain_grid import calibration_lattice
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.upstream_files import frame
from avalanche_llm.settings import GstarMethod, Statistics

GRID = "PHASE2_GAIN_GRID"


def select_gstar(job: Job) -> str:
    """Run the selection and return its run id. The model is not needed."""
    run = job.begin("PHASE2_SELECT_GSTAR")
    with guard(job, run):
        upstream = job.upstream(GRID)
        run.describe(model=upstream.record["model"], dataset=upstream.record["dataset"])
        method = job.settings.pipeline.gstar_method
        sums = frame(upstream, "branching_sums")
        inputs = set(sums.columns)
        activity: Mapping[Cell, np.ndarray] = {}
        if method == "mr_near_one":
            events = read_events(upstream.artifact("activation_events"))
            tau = frame(upstream, "tau_rate_matched")[list(TAU_COLUMNS)]
            inputs |= {*events.column_names, *tau.columns}
            activity = activity_of_cells(events, tau, calibration_lattice(job.settings))
        selections = choose_all(sums, job.settings.statistics, method, activity)
        run.describe(
            conditions=[{key: row[key] for key in ("spike_def_id", "target_rate", "gstar", "status")} for row in selections]
        )
        chosen = {
            "method": method,
            "dataset_role": "A",
            "inputs": sorted(inputs),
            "grid": sorted(float(gain) for gain in sums["g"].unique()),
            "bootstrap_reps": job.settings.statistics.bootstrap_reps,
            "selections": selections,
        }
        run.save("gstar", raw(json_bytes(chosen)))
    run.complete()
    return run.run_id


def choose_all(
    sums: pd.DataFrame, statistics: Statistics, method: GstarMethod, activity: Mapping[Cell, np.ndarray]
) -> list[dict[str, object]]:
    """A selection for each cell of the branching sums; the same resampled sequences at every gain, so they are paired.

    `activity` [gain, seq, token] of each cell is what mr_near_one reads; the other methods need none.
    """
    refuse_task_metrics(list(sums.columns))
    weights = bootstrap_weights(sums["seq_id"].nunique(), reps=statistics.bootstrap_reps, seed=statistics.bootstrap_seed)
    selections = []
    for (spike_def, rate), cell in sums.groupby(["spike_def_id", "target_rate"], sort=True):
        cell = cell.sort_values(["g", "seq_id"])
        gains = cell["g"].unique()
        by_gain = sums_from_rows(cell, len(gains))
        point = branching(by_gain)
        if method == "mr_near_one":
            values, replicates, interval = m_over_gains(activity[cast(Cell, (spike_def, rate))], weights)
        else:
            quantity, resampled = CRITERIA[method].quantity, branching(by_gain, weights)
            values, replicates = getattr(point, quantity), getattr(resampled, quantity).T
            interval = branching_interval(quantity, by_gain, point, resampled, weights)
        try:
            choice = choose_gstar(gains, point.b_tot, values, replicates, interval, method)
        except SchemaError as error:
            raise SchemaError(f"{spike_def} at target rate {rate}: {error}") from error
        selections.append({"spike_def_id": spike_def, "target_rate": rate, **asdict(choice)})
    return selections


def sums_from_rows(rows: pd.DataFrame, n_gains: int) -> BranchingSums:
    """Rows sorted by gain and sequence as sums of shape [gain, seq]."""
    return BranchingSums(**{field.name: rows[field.name].to_numpy().reshape(n_gains, -1) for field in fields(BranchingSums)})
