"""Rows of data set B: every cell at g = 1 and at its g*, with the paired difference of the two (SCIENCE section 7; spec 17).

Thresholds are those of data set A at the same gain, so the achieved rate is a result. Branching in pairs/site, chi in events,
nll_mean in nats/token, rates in events per (unit, token).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float64, Int64, UInt16

from avalanche_llm.analysis.conditions import Condition
from avalanche_llm.analysis.grid_rows import branching_columns, raster_columns
from avalanche_llm.analysis.summarize import Row, RowHead
from avalanche_llm.metrics.branching import branching, branching_sums
from avalanche_llm.metrics.likelihood import Estimate, SequenceNll, estimate, mean_nll, paired_difference
from avalanche_llm.metrics.signatures import sequence_totals, susceptibility, susceptibility_bootstrap
from avalanche_llm.raster.build import occupancy

COMPARED: Final = ("b_tot", "delta_b_tot", "chi", "nll_mean")
"""Measures whose difference between g* and g = 1 is reported."""
SILENT: Final = "no event of data set B reaches the thresholds of data set A"
SILENT_REFERENCE: Final = f"no difference at g1: {SILENT}"


@dataclass(frozen=True)
class Measured:
    """One condition: its columns, and the value and bootstrap replicates of each measure that is compared."""

    condition: Condition
    columns: Mapping[str, Any]
    values: Mapping[str, float]
    replicates: Mapping[str, Float64[np.ndarray, " reps"]]


def measure(
    condition: Condition,
    counts: UInt16[np.ndarray, "seq layer token"],
    nll: SequenceNll,
    rates: Mapping[str, Any],
    weights: Int64[np.ndarray, "reps seq"],
    *,
    chi_eps: float,
) -> Measured:
    """Measure the raster A and the likelihood of one condition; a silent raster gives NaN. `rates`: its held-out rates."""
    sums, totals = branching_sums(occupancy(counts)), sequence_totals(counts)
    point, drawn = branching(sums), branching(sums, weights)
    values = {
        "b_tot": float(point.b_tot),
        "delta_b_tot": float(point.delta_b_tot),
        "chi": float(susceptibility(totals, eps=chi_eps)),
        "nll_mean": float(nll.nll_sum.sum() / nll.n_predicted.sum()),
    }
    replicates = {
        "b_tot": drawn.b_tot,
        "delta_b_tot": drawn.delta_b_tot,
        "chi": susceptibility_bootstrap(totals, weights, eps=chi_eps),
        "nll_mean": mean_nll(nll, weights),
    }
    likelihood = estimate(values["nll_mean"], replicates["nll_mean"])
    columns = {
        **condition.columns(),
        **raster_columns(counts),
        **rates,
        **branching_columns(sums, weights),
        **_with_interval("chi", estimate(values["chi"], replicates["chi"])),
        "n_predicted": int(nll.n_predicted.sum()),
        **_with_interval("nll_mean", likelihood),
        **_with_interval("ppl", likelihood.exponential()),
    }
    return Measured(condition, columns, values, replicates)


def paired_rows(measured: Sequence[Measured]) -> list[Row]:
    """A row a condition; in gstar rows also gstar minus g1 of the same cell, over the same resampled sequences."""
    reference = {found.condition.cell: found for found in measured if found.condition.g_condition == "g1"}
    return [{**found.columns, **_differences(reference[found.condition.cell], found)} for found in measured]


def generalization_row(head: RowHead, row: Row) -> Row:
    """A row of T02 from a row of metrics.parquet."""
    intervals = {f"opt_{name}_ci_{end}": row[f"{name}_ci_{end}"] for name in (*COMPARED, "ppl") for end in ("low", "high")}
    paired = {f"opt_{name}": row[name] for name in row if name.startswith(("diff_", "ppl_ratio"))}
    return head.row(
        **{name: row[name] for name in ("spike_def_id", "target_rate", "g_condition", "g", "b_time", "b_depth")},
        **{name: row[name] for name in (*COMPARED, "ppl", "n_sequences")},
        **intervals,
        opt_occupancy=row["occupancy"],
        opt_heldout_rate_max_rel_err=row["heldout_rate_max_rel_err"],
        **paired,
        opt_note=_note(row),
    )


def _differences(reference: Measured, found: Measured) -> Row:
    columns: Row = {}
    for name in COMPARED:
        if found.condition.g_condition == "g1":
            difference = None
        else:
            pair = (reference, found)
            first, second = (one.values[name] for one in pair), (one.replicates[name] for one in pair)
            difference = paired_difference(tuple(first), tuple(second))  # type: ignore[arg-type]  # two each
        columns |= _with_interval(f"diff_{name}", difference)
        if name == "nll_mean":
            columns |= _with_interval("ppl_ratio", difference and difference.exponential())
    return columns


def _with_interval(name: str, found: Estimate | None) -> Row:
    """A number and its interval as columns, empty for None."""
    if found is None:
        return dict.fromkeys((name, f"{name}_ci_low", f"{name}_ci_high"), None)
    return {name: found.value, f"{name}_ci_low": float(found.interval.low), f"{name}_ci_high": float(found.interval.high)}


def _note(row: Row) -> str | None:
    """Why a row holds no branching, or no difference of it."""
    if row["silent"]:
        return SILENT
    if row["diff_b_tot"] is not None and np.isnan(row["diff_b_tot"]):
        return SILENT_REFERENCE
    return None
