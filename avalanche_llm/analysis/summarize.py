"""From measurements to the rows of T01, T04 and T05: one row a condition of the gain grid (SCIENCE section 7; spec 18)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from avalanche_llm.analysis.measures import ConditionMeasures
from avalanche_llm.metrics.avalanches import AvalancheTable
from avalanche_llm.metrics.likelihood import Sampled
from avalanche_llm.metrics.stats import Interval
from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, PERMUTATION

INTERVALS: Final = ("b_time", "b_depth", "b_tot", "delta_b_time", "delta_b_depth", "delta_b_tot")
Row = dict[str, Any]


@dataclass(frozen=True)
class RowHead:
    """What every row of a run's tables begins and ends with."""

    run_id: str
    stage_id: str
    model_id: str
    model_role: str
    dataset_role: str
    config_hash: str
    code_version: str

    @classmethod
    def of(cls, record: Mapping[str, Any], stage_id: str, dataset_role: str) -> "RowHead":
        """The head that a run's record gives to its tables, when they are written and when they are made again."""
        model, hashes = record["model"], record["hashes"]
        return cls(
            record["run_id"],
            stage_id,
            model["id"],
            model["role"],
            dataset_role,
            hashes["config_sha256"],
            hashes["code_version"],
        )

    def row(self, **columns: Any) -> Row:
        """These columns between the head and the end of a row."""
        start = {name: getattr(self, name) for name in ("run_id", "stage_id", "model_id", "model_role", "dataset_role")}
        return {**start, **columns, "config_hash": self.config_hash, "code_version": self.code_version}


def summary_row(
    head: RowHead,
    key: Row,
    measured: ConditionMeasures,
    grid: pd.Series,
    marginals: pd.DataFrame,
    held_out: pd.DataFrame,
    events: Row,
) -> Row:
    """A row of T01. `grid` is the condition's row of the grid's metrics; `marginals` and `held_out` are phase 4's and 3's."""
    point = measured.branching
    found = measured.avalanches_4n
    branching = {name: float(getattr(point, name)) for name in INTERVALS}
    perm = {name: float(getattr(point, name)) for name in ("b_time_perm", "b_depth_perm", "b_tot_perm")}
    return head.row(
        **key,
        **events,
        achieved_rate_mean=float(grid["achieved_rate_mean"]),
        achieved_rate_max_abs_err=float(grid["achieved_rate_max_abs_err"]),
        **branching,
        **perm,
        chi=measured.susceptibility.chi,
        **_crackling(measured),
        n_sequences=measured.n_sequences,
        n_avalanches=len(found),
        **_sizes(found),
        **_optional(key, measured, grid, marginals, held_out),
    )


def _optional(key: Row, measured: ConditionMeasures, grid: pd.Series, marginals: pd.DataFrame, held_out: pd.DataFrame) -> Row:
    point, chi = measured.branching, measured.susceptibility
    columns: Row = {}
    for name in INTERVALS:
        interval = measured.intervals[name]
        columns |= {f"opt_{name}_ci_low": float(interval.low), f"opt_{name}_ci_high": float(interval.high)}
    depth_shift, shift = measured.intervals["delta_b_depth_shift"], measured.intervals["delta_b_tot_shift"]
    return columns | {
        "opt_chi_ci_low": float(chi.interval.low),
        "opt_chi_ci_high": float(chi.interval.high),
        "opt_b_tot_shift": float(point.b_tot_shift),
        "opt_delta_b_tot_shift": float(point.delta_b_tot_shift),
        "opt_delta_b_tot_shift_ci_low": float(shift.low),
        "opt_delta_b_tot_shift_ci_high": float(shift.high),
        "opt_delta_b_depth_shift": float(point.delta_b_depth_shift),
        "opt_delta_b_depth_shift_ci_low": float(depth_shift.low),
        "opt_delta_b_depth_shift_ci_high": float(depth_shift.high),
        "opt_phase4_perm_null_marginals_exact": _exact(marginals, PERMUTATION, key),
        "opt_phase4_shift_null_marginals_exact": _exact(marginals, CIRCULAR_SHIFT, key),
        "opt_occupancy": measured.density_4n.occupancy,
        "opt_occupancy_over_pc_4n": measured.density_4n.over_threshold,
        "opt_occupancy_over_pc_8n": measured.density_8n.over_threshold,
        "opt_largest_component_share": measured.density_4n.largest_share,
        "opt_border_share": measured.density_4n.border_share,
        "opt_b_tot_over_perm": float(point.b_tot / point.b_tot_perm) if point.b_tot_perm else float("nan"),
        "opt_m_tokens": measured.m_tokens.m,
        "opt_m_layers": measured.m_layers.m,
        "opt_chi_ddof1": chi.chi_ddof1,
        "opt_token0_event_share": float(grid["token0_event_share"]),
        "opt_perm_z_b_tot": measured.permutation.z,
        "opt_perm_p_b_tot": measured.permutation.p,
        "opt_shift_z_b_depth": measured.shift.z,
        "opt_shift_p_b_depth": measured.shift.p,
        "opt_n_avalanches_8n": float(len(measured.avalanches_8n)),
        "opt_avalanche_size_mean_8n": _mean(measured.avalanches_8n.size),
        "opt_swap_delta_b_tot": measured.swap_excess,
        "opt_swap_delta_b_tot_ci_low": float(measured.swap_interval.low),
        "opt_swap_delta_b_tot_ci_high": float(measured.swap_interval.high),
        "opt_rate_z_max": _held_out_z(held_out, key),
    }


def tail_row(head: RowHead, key: Row, measured: ConditionMeasures) -> Row:
    """A row of T04; where no fit is available the reason stands in opt_reason."""
    fit = measured.tail
    binding = (
        "xmin",
        "n_tail",
        "alpha_powerlaw",
        "lambda_exponential",
        "lognorm_mu",
        "lognorm_sigma",
        "ll_powerlaw",
        "ll_exponential",
        "ll_lognormal",
        "llr_powerlaw_vs_lognormal",
        "llr_powerlaw_vs_exponential",
    )
    return head.row(
        **key,
        **{name: getattr(fit, name) for name in binding},
        opt_vuong_p_lognormal=fit.vuong_p_lognormal,
        opt_vuong_p_exponential=fit.vuong_p_exponential,
        opt_xmin_ks=fit.ks_xmin,
        opt_alpha_ks=fit.ks_alpha,
        opt_reason=fit.reason or None,
    )


def crackling_row(head: RowHead, key: Row, measured: ConditionMeasures) -> Row:
    """A row of T05: a gate that fails is a row that says so."""
    fit = measured.crackling
    return head.row(
        **key,
        **_crackling(measured),
        crackling_ci_width=fit.ci_width,
        n_duration_points=fit.n_duration_points,
        n_avalanches_used=fit.n_avalanches_used,
        r2=fit.r2,
        **{"pass": fit.passed},
        opt_reason=fit.reason or None,
    )


def with_interval(name: str, sampled: Sampled, interval: Interval | None = None) -> Row:
    """A value and the bounds of its interval as columns; `interval` where it is not that of the replicates."""
    interval = interval or sampled.interval
    return {name: sampled.value, f"{name}_ci_low": interval.low, f"{name}_ci_high": interval.high}


def _crackling(measured: ConditionMeasures) -> Row:
    fit = measured.crackling
    return {"crackling_gamma": fit.gamma, "crackling_ci_low": fit.ci_low, "crackling_ci_high": fit.ci_high}


def _sizes(found: AvalancheTable) -> Row:
    return {
        "avalanche_size_mean": _mean(found.size),
        "avalanche_size_median": float(np.median(found.size)) if len(found) else float("nan"),
        "avalanche_span_tokens_mean": _mean(found.span_tokens),
        "avalanche_span_layers_mean": _mean(found.span_layers),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _exact(marginals: pd.DataFrame, null_id: str, key: Row) -> bool:
    """Whether every draw of a null that phase 4 made for this definition and rate keeps its marginals."""
    rows = marginals[
        (marginals["null_id"] == null_id)
        & (marginals["spike_def_id"] == key["spike_def_id"])
        & (marginals["target_rate"] == key["target_rate"])
    ]
    return bool(len(rows)) and bool(rows["marginals_exact"].all())


def _held_out_z(held_out: pd.DataFrame, key: Row) -> float | None:
    """The largest held-out rate z of the condition; None for a gain that phase 3 did not run for this cell."""
    rows = held_out[
        (held_out["spike_def_id"] == key["spike_def_id"])
        & (held_out["target_rate"] == key["target_rate"])
        & (held_out["g"] == key["g"])
    ]
    return float(rows["heldout_rate_z_max"].iloc[0]) if len(rows) else None
