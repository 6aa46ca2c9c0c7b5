"""What is measured on one raster: branching over its nulls, avalanches, susceptibility, memory, tails, crackling.

Each function takes a Raster or an array (`as_raster`) and calls what the phases call. Defaults are the canonical ones. Intervals
are 95 % over sequences; with one sequence there is nothing to resample, and their bounds are NaN.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64

from avalanche_llm.analysis import measures
from avalanche_llm.analysis.grid_rows import branching_columns
from avalanche_llm.analysis.measures import ConditionMeasures, NullComparison, Susceptibility
from avalanche_llm.api.raster import Raster, as_raster, canonical
from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics import avalanches as components
from avalanche_llm.metrics import signatures, tails
from avalanche_llm.metrics.branching import branching as pooled
from avalanche_llm.metrics.branching import branching_sums
from avalanche_llm.metrics.regression import memory_interval
from avalanche_llm.metrics.signatures import CracklingFit
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.metrics.susceptibility import sequence_totals
from avalanche_llm.metrics.tails import TailFit
from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, PERMUTATION
from avalanche_llm.settings import Statistics

if TYPE_CHECKING:
    import pandas as pd

NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval over sequences; NaN bounds where there is none."""

    value: float
    low: float = NAN
    high: float = NAN

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class BranchingRatios:
    """Pairs of occupied neighbours per occupied site, no unit (spec 05).

    `*_perm`, `b_tot_shift`: exact expectations under the nulls; `delta_*`: observed minus expected. `permutation` compares b_tot,
    `shift` compares b_depth with draws of its null. NaN throughout for a silent raster.
    """

    n_sequences: int
    n_sites: int
    occupancy: float
    b_time: Estimate
    b_depth: Estimate
    b_tot: Estimate
    b_time_perm: float
    b_depth_perm: float
    b_tot_perm: float
    b_tot_shift: float
    delta_b_time: Estimate
    delta_b_depth: Estimate
    delta_b_tot: Estimate
    delta_b_tot_shift: Estimate
    permutation: NullComparison
    shift: NullComparison

    def __str__(self) -> str:
        return (
            f"b_tot {self.b_tot}, {self.b_tot_perm:.3f} expected under permutation: excess {self.delta_b_tot}, "
            f"z {self.permutation.z:.1f}, p {self.permutation.p:.3g}; {self.n_sequences} sequences, "
            f"occupancy {self.occupancy:.3f}"
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row a ratio: value, low, high; NaN bounds for the exact expectations."""
        import pandas as pd

        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name.startswith(("b_", "delta_"))}
        rows = {name: value if isinstance(value, Estimate) else Estimate(value) for name, value in found.items()}
        return pd.DataFrame({name: vars(value) for name, value in rows.items()}).T


@dataclass(frozen=True)
class Memory:
    """m per step of time by multistep regression, b and the slopes; NaN and a `reason` where not available (spec 09)."""

    m: Estimate
    b: float
    slopes: Float64[np.ndarray, " lag"]
    n_sequences: int
    reason: str = ""


def branching(raster: Any, *, reps: int | None = None, draws: int | None = None, seed: int | None = None) -> BranchingRatios:
    """b_time, b_depth, b_tot with exact null expectations and intervals; `reps` replicates, `draws` of each null for p."""
    found, statistics = as_raster(raster), _statistics(reps=reps, draws=draws)
    x = found.occupancy
    sums = branching_sums(x)
    point = pooled(sums)
    columns = branching_columns(sums, _weights(found, statistics))

    def estimate(name: str) -> Estimate:
        if found.n_sequences < 2:
            return Estimate(columns[name])
        return Estimate(columns[name], columns[f"{name}_ci_low"], columns[f"{name}_ci_high"])

    permutation, shift = (
        measures.compare_with_null(
            null_id, x, point, draws=statistics.null_draws, condition=found.condition, seed=_null_seed(seed)
        )
        for null_id in (PERMUTATION, CIRCULAR_SHIFT)
    )
    return BranchingRatios(
        n_sequences=found.n_sequences,
        n_sites=int(x.sum(dtype=np.int64)),
        occupancy=float(x.mean()),
        b_time=estimate("b_time"),
        b_depth=estimate("b_depth"),
        b_tot=estimate("b_tot"),
        b_time_perm=columns["b_time_perm"],
        b_depth_perm=columns["b_depth_perm"],
        b_tot_perm=columns["b_tot_perm"],
        b_tot_shift=columns["b_tot_shift"],
        delta_b_time=estimate("delta_b_time"),
        delta_b_depth=estimate("delta_b_depth"),
        delta_b_tot=estimate("delta_b_tot"),
        delta_b_tot_shift=estimate("delta_b_tot_shift"),
        permutation=permutation,
        shift=shift,
    )


def avalanches(raster: Any, *, adjacency: str = "ADJ_4N") -> components.AvalancheTable:
    """The connected components of each sequence: size in events, sites, spans in tokens and layers, border (spec 09)."""
    found = as_raster(raster)
    limit = canonical().statistics.cc_max_components_per_seq
    return components.avalanches(found.occupancy, found.counts, adjacency_id=adjacency, max_per_sequence=limit)


def susceptibility(raster: Any, *, reps: int | None = None) -> Susceptibility:
    """chi, variance over mean of the events a sequence, in events, with its interval. Needs two sequences."""
    found, statistics = _several(raster), _statistics(reps=reps)
    return measures.measure_susceptibility(sequence_totals(found.counts), _weights(found, statistics), statistics)


def memory(raster: Any, *, along: str = "token", k_max: int | None = None) -> Memory:
    """m of the summed activity along "token" (time; lags up to 20) or "layer" (channel; lags up to 8)."""
    found = as_raster(raster)
    if along not in ("token", "layer"):
        raise SchemaError(f"expected along to be token (time) or layer (channel), found {along!r}")
    axis, lags = (1, measures.TOKEN_LAGS) if along == "token" else (2, measures.LAYER_LAGS)
    activity: Int64[np.ndarray, "trial time"] = found.counts.sum(axis=axis, dtype=np.int64)
    k_max = lags if k_max is None else k_max
    fit, interval = memory_interval(activity, k_max=k_max)
    if fit.reason:
        return Memory(Estimate(NAN), fit.b, fit.slopes, found.n_sequences, fit.reason)
    return Memory(Estimate(fit.m, float(interval.low), float(interval.high)), fit.b, fit.slopes, found.n_sequences)


def tail(raster: Any, *, adjacency: str = "ADJ_4N") -> TailFit:
    """Power law, exponential and log-normal fitted to the large avalanches and compared; an AvalancheTable will do too."""
    found = raster if isinstance(raster, components.AvalancheTable) else avalanches(raster, adjacency=adjacency)
    statistics = canonical().statistics
    return tails.fit_tail(
        found.size, xmin_percentile=statistics.tail_xmin_percentile, min_tail_samples=statistics.tail_min_samples
    )


def crackling(raster: Any, *, adjacency: str = "ADJ_4N") -> CracklingFit:
    """gamma of mean size against duration, with its interval and gate."""
    found, statistics = as_raster(raster), canonical().statistics
    table = avalanches(found, adjacency=adjacency)
    return signatures.crackling(
        table.size,
        table.span_tokens,
        table.seq_id,
        n_sequences=found.n_sequences,
        d_min=statistics.crackling_d_range_min,
        d_max=statistics.crackling_d_range_max,
        min_points=statistics.crackling_min_points,
        ci_width_max=statistics.ci_width_max,
    )


def analyze(raster: Any, *, reps: int | None = None, draws: int | None = None, seed: int | None = None) -> ConditionMeasures:
    """Everything that a row of T01, T04 and T05 is made from, as phase 5 measures it. Needs two sequences."""
    found, statistics = _several(raster), _statistics(reps=reps, draws=draws)
    return measures.measure_condition(
        found.counts, _weights(found, statistics), statistics, condition=found.condition, seed=_null_seed(seed)
    )


def _statistics(*, reps: int | None = None, draws: int | None = None) -> Statistics:
    """The canonical statistics with another number of replicates or draws."""
    chosen = {"bootstrap_reps": reps, "null_draws": draws}
    return canonical().statistics.model_copy(update={name: value for name, value in chosen.items() if value is not None})


def _several(raster: Any) -> Raster:
    found = as_raster(raster)
    if found.n_sequences < 2:
        raise SchemaError("expected at least 2 sequences, whose spread is what is measured, found 1: cut a recording with av.cut")
    return found


def _weights(raster: Raster, statistics: Statistics) -> Int64[np.ndarray, "reps seq"]:
    return bootstrap_weights(raster.n_sequences, reps=statistics.bootstrap_reps, seed=statistics.bootstrap_seed)


def _null_seed(seed: int | None) -> int:
    return canonical().determinism.seed if seed is None else seed
