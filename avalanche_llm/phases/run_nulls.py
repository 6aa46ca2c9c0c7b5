"""Phase 4: surrogates of the held-out rasters, and the model on token-shuffled input (spec 10, S04).

Raster surrogates need no model. The shuffled input gets one pass a distinct gain, and its own thresholds: every condition
is compared at the same event rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa

from avalanche_llm.analysis.conditions import Condition, conditions_from_frame
from avalanche_llm.analysis.grid_rows import Lattice, match_thresholds, tau_rows
from avalanche_llm.analysis.null_rows import OBSERVED
from avalanche_llm.errors import DeterminismError
from avalanche_llm.events.collect import LayerTail
from avalanche_llm.events.rate_match import Cell, RateTargets, Thresholds, check_rates
from avalanche_llm.events.tail_files import table_to_tails, tails_to_table
from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import npz, parquet, read_npz
from avalanche_llm.io.store import Upstream
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.phases.context import RASTER_SLICE, guard, open_model, slices_of_a, use_slice
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.measure import largest_events
from avalanche_llm.phases.parts import kept_or_made
from avalanche_llm.phases.upstream_files import calibration_stats, frame, rate_targets_of
from avalanche_llm.progress import progress
from avalanche_llm.raster.build import occupancy
from avalanche_llm.raster.nulls import (
    LAYER_NULLS,
    MARGIN_SWAP,
    SEQUENCE_NULLS,
    TOKEN_SHUFFLE,
    MarginalCheck,
    draw_null,
    marginals_exact,
    shuffle_tokens,
)

RASTER_NULLS: Final = (*LAYER_NULLS, *SEQUENCE_NULLS)


def run_nulls(job: Job) -> str:
    """Run phase 4 and return its run id."""
    run = job.begin("PHASE4_RUN_NULLS")
    with guard(job, run):
        s01, s02, _, s03 = (job.upstream(phase) for phase in run.stage.needs)
        conditions = conditions_from_frame(frame(s03, "metrics"))
        rasters = read_npz(s03.artifact("rasters_token_layer"), {"X": 4, "A": 4, "cond_id": 1, "seq_id": 1})
        run.describe(conditions=[condition.columns() for condition in conditions])
        shuffled, matched = shuffled_input(job, run, conditions, s01, s02, s03)
        drawn, marginals = draw_surrogates(conditions, rasters, job.settings.determinism.seed)
        run.save("null_marginals", parquet(pa.Table.from_pandas(marginals, preserve_index=False)))
        taus = pd.concat([frame(s02, "tau_rate_matched").assign(null_id=OBSERVED), matched.assign(null_id=TOKEN_SHUFFLE)])
        run.save("tau_rate_matched", parquet(pa.Table.from_pandas(taus, preserve_index=False)))
        ids = [(null_id, condition.cond_id) for null_id in (*RASTER_NULLS, TOKEN_SHUFFLE) for condition in conditions]
        counts = np.concatenate([*(drawn[null_id] for null_id in RASTER_NULLS), shuffled])
        run.save(
            "rasters_nulls",
            npz(
                {
                    "X": occupancy(counts),
                    "A": counts,
                    "null_id": np.array([null_id for null_id, _ in ids]),
                    "cond_id": np.array([cond_id for _, cond_id in ids], dtype=np.int32),
                    "seq_id": rasters["seq_id"],
                }
            ),
        )
    run.complete()
    return run.run_id


def draw_surrogates(
    conditions: Sequence[Condition], rasters: Mapping[str, np.ndarray], seed: int
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Counts [cond, seq, layer, token] of one draw of every raster null, and whether the marginals of each cell hold.

    A cell is one (condition, sequence, layer). Raises DeterminismError if any cell breaks them.
    """
    drawn: dict[str, list[np.ndarray]] = {null_id: [] for null_id in RASTER_NULLS}
    rows = []
    seq_ids = rasters["seq_id"].tolist()
    with progress("surrogates", len(RASTER_NULLS) * len(conditions), "rasters") as advance:
        for index, condition in enumerate(conditions):
            x, a = rasters["X"][index], rasters["A"][index]
            for null_id in RASTER_NULLS:
                null = draw_null(null_id, x, a, seed=seed, condition=condition.key, seq_ids=seq_ids)
                check = marginals_exact(x, a, null.occupancy, null.counts)
                drawn[null_id].append(null.counts)
                rows.append(_marginal_row(condition, null_id, check, seed))
                advance(1)
    marginals = pd.DataFrame(rows)
    broken = marginals[~marginals["marginals_exact"]]
    if len(broken):
        raise DeterminismError(
            f"{broken.iloc[0]['null_id']} broke the marginals of condition {broken.iloc[0]['cond_id']}; this is a defect"
        )
    return {null_id: np.stack(found) for null_id, found in drawn.items()}, marginals


def _marginal_row(condition: Condition, null_id: str, check: MarginalCheck, seed: int) -> dict[str, object]:
    return {
        "null_id": null_id,
        **condition.columns(),
        "seed": seed,
        "seed_name": f"{seed}|{null_id}|{condition.key}|seq_id|layer",
        "cells": int(check.sites.size),
        "cells_sites_equal": int(check.sites.sum()),
        "cells_counts_equal": int(check.counts.sum()),
        "tokens_equal": int(check.tokens.sum()),
        "marginals_exact": check.layers_exact and (check.tokens_exact or null_id != MARGIN_SWAP),
    }


def shuffled_input(
    job: Job, run: Run, conditions: Sequence[Condition], s01: Upstream, s02: Upstream, s03: Upstream
) -> tuple[np.ndarray, pd.DataFrame]:
    """Counts [cond, seq, layer, token] on token-shuffled windows at matched rates, and the thresholds' rows."""
    settings = job.settings
    model = open_model(job, run, s01, s02, s03)
    held_out = use_slice(job, run, slices_of_a(job, model, s01, s02, s03)[RASTER_SLICE])
    special = list(model.tokenizer.all_special_ids)
    windows = shuffle_tokens(
        held_out.windows, special, seed=settings.determinism.seed, condition=held_out.role, seq_ids=range(len(held_out.windows))
    )
    lattice = Lattice.of(settings, len(windows))
    stats = calibration_stats(s01)
    targets = replace(rate_targets_of(s01), n_samples=lattice.n_seq * lattice.n_tokens * model.d_ff)

    def measure(gain: float) -> pa.Table:
        plan = GainPlan.uniform("MLP", gain, model.n_layers)
        tails, report = largest_events(model, windows, plan, stats, targets, settings, f"shuffled input, gain {gain:g}")
        run.time("forward_s", report.seconds)
        return tails_to_table(tails, gain_id=settings.gains.grid.index(gain), gain=gain)

    tails, matched, rows = {}, {}, []
    for gain in sorted({condition.g for condition in conditions}):
        tails[gain] = table_to_tails(kept_or_made(run, f"shuffled_{gain!r}", partial(measure, gain)), n_layers=model.n_layers)
        matched[gain], of_gain = _match(tails[gain], targets, gain, job)
        rows.append(of_gain)
    counts = [
        lattice.raster(tails[condition.g], matched[condition.g][condition.cell].tau, condition.spike_def)
        for condition in conditions
    ]
    return np.stack(counts), pd.concat(rows)


def _match(tails: list[LayerTail], targets: RateTargets, gain: float, job: Job) -> tuple[dict[Cell, Thresholds], pd.DataFrame]:
    events = job.settings.events
    matched = match_thresholds(tails, targets)
    check_rates(matched, targets, events, gain=gain)
    rows = [
        tau_rows({"spike_def_id": cell[0], "target_rate": cell[1], "g": gain}, found, targets.r_star[cell], events)
        for cell, found in matched.items()
    ]
    return matched, pd.concat(rows)
