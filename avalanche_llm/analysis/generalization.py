"""Rows of data set B: every cell at g = 1 and at its g*, with the paired difference of the two (SCIENCE section 7; spec 17).

Thresholds are those of data set A at the same gain, so the achieved rate is a result. Branching in pairs/site, chi in events,
nll_mean in nats/token, rates in events per (unit, token).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Int64, UInt16

from avalanche_llm.analysis.conditions import Condition
from avalanche_llm.analysis.grid_rows import branching_columns, raster_columns
from avalanche_llm.analysis.summarize import Row, RowHead, with_interval
from avalanche_llm.metrics.branching import branching, branching_sums, held, scale_of
from avalanche_llm.metrics.likelihood import Sampled, SequenceNll, mean_nll
from avalanche_llm.metrics.susceptibility import (
    sequence_totals,
    susceptibility,
    susceptibility_bootstrap,
    susceptibility_interval,
)
from avalanche_llm.raster.build import occupancy

COMPARED: Final = ("b_tot", "delta_b_tot", "chi", "nll_mean")
"""Measures whose difference between g* and g = 1 is reported."""
SILENT: Final = "no event of data set B reaches the thresholds of data set A"


@dataclass(frozen=True)
class Measured:
    """One condition: its columns, and each measure that is compared with its replicates."""

    condition: Condition
    columns: Mapping[str, Any]
    compared: Mapping[str, Sampled]


def measure(
    condition: Condition,
    counts: UInt16[np.ndarray, "seq layer token"],
    nll: SequenceNll,
    rates: Mapping[str, float],
    weights: Int64[np.ndarray, "reps seq"],
    *,
    chi_eps: float,
) -> Measured:
    """Measure the raster A and the likelihood of one condition; a silent raster gives NaN. `rates`: its achieved rates."""
    sums, totals = branching_sums(occupancy(counts)), sequence_totals(counts)
    point, drawn = branching(sums), branching(sums, weights)
    chi_drawn = susceptibility_bootstrap(totals, weights, eps=chi_eps)
    chi = Sampled(float(susceptibility(totals, eps=chi_eps)), chi_drawn, weights)
    likelihood = mean_nll(nll, weights)
    columns = {
        **condition.columns(),
        **raster_columns(counts),
        **rates,
        **branching_columns(sums, weights),
        **with_interval("chi", chi, susceptibility_interval(totals, weights, eps=chi_eps)),
        "n_predicted": int(nll.n_predicted.sum()),
        **with_interval("nll_mean", likelihood),
        **with_interval("ppl", likelihood.exponential()),
    }
    ratios = {
        name: Sampled(
            float(getattr(point, name)),
            np.where(held(name, sums), getattr(drawn, name), np.nan),  # as `branching_interval`: few pairs, no interval
            weights,
            scale_of(name),
        )
        for name in ("b_tot", "delta_b_tot")
    }
    compared = {
        **ratios,
        "chi": chi,
        "nll_mean": likelihood,
    }
    return Measured(condition, columns, compared)


def paired_rows(measured: Sequence[Measured]) -> list[Row]:
    """A row a condition; in gstar rows also gstar minus g1 of the same cell, over the same resampled sequences."""
    reference = {found.condition.cell: found for found in measured if found.condition.g_condition == "g1"}
    return [{**found.columns, **_differences(found, reference[found.condition.cell])} for found in measured]


def generalization_row(head: RowHead, row: Row) -> Row:
    """A row of T02 from a row of metrics.parquet."""
    key = ("spike_def_id", "target_rate", "g_condition", "g")
    intervals = [f"{name}_ci_{end}" for name in (*COMPARED, "ppl") for end in ("low", "high")]
    differences = [name for name in row if name.startswith(("diff_", "ppl_ratio"))]
    return head.row(
        **{name: row[name] for name in (*key, "b_time", "b_depth", *COMPARED, "n_sequences", "ppl")},
        **{f"opt_{name}": row[name] for name in ("occupancy", "heldout_rate_max_rel_err", *intervals, *differences)},
        opt_note=_note(row),
    )


def _differences(found: Measured, reference: Measured) -> Row:
    at_gstar = found.condition.g_condition == "gstar"
    differences = {
        name: found.compared[name].minus(reference.compared[name]) if at_gstar else found.compared[name].unavailable()
        for name in COMPARED
    }
    columns: Row = {}
    for name, difference in differences.items():
        columns |= with_interval(f"diff_{name}", difference)
    return columns | with_interval("ppl_ratio", differences["nll_mean"].exponential())


def _note(row: Row) -> str | None:
    """Why a row holds no branching, or no difference of it."""
    if row["silent"]:
        return SILENT
    if row["g_condition"] == "gstar" and np.isnan(row["diff_b_tot"]):
        return f"no difference: at g1 {SILENT}"
    return None
