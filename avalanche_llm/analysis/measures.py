"""Everything that is measured on the raster of one condition, computed once and used by every table (SCIENCE section 4).

Nothing here knows of runs, tables or figures; nothing raises on data that are merely thin: what is not available says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Int64, UInt8, UInt16

from avalanche_llm.metrics.avalanches import AvalancheTable, avalanches
from avalanche_llm.metrics.branching import Branching, branching, branching_interval, branching_sums, excess_over_draw
from avalanche_llm.metrics.density import Density, density
from avalanche_llm.metrics.null_ensemble import permutation_ensemble, shift_ensemble
from avalanche_llm.metrics.regression import MultistepFit, multistep_regression
from avalanche_llm.metrics.signatures import CracklingFit, crackling
from avalanche_llm.metrics.stats import Interval, exceedance_p, z_score
from avalanche_llm.metrics.susceptibility import sequence_totals, susceptibility, susceptibility_interval
from avalanche_llm.metrics.tails import TailFit, fit_tail
from avalanche_llm.raster.build import occupancy
from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, MARGIN_SWAP, PERMUTATION, draw_null, null_seed
from avalanche_llm.settings import Statistics

TOKEN_LAGS: Final = 20
LAYER_LAGS: Final = 8
INTERVALS: Final = (
    *("b_time", "b_depth", "b_tot", "delta_b_time", "delta_b_depth", "delta_b_tot"),
    *("delta_b_depth_shift", "delta_b_tot_shift"),
)
"""What a condition's branching has an interval of."""
ENSEMBLE_SEQ: Final = -1
"""The sequence in the seed of an ensemble, which covers all sequences at once."""


@dataclass(frozen=True)
class NullComparison:
    """One ratio against an ensemble: z from the exact mean and spread, p = (1 + draws at least as large) / (1 + draws)."""

    z: float
    p: float


@dataclass(frozen=True)
class Susceptibility:
    """chi in events, population variance as published, its interval, and chi with the sample variance."""

    chi: float
    interval: Interval
    chi_ddof1: float


@dataclass(frozen=True)
class ConditionMeasures:
    """The measurements of one condition. Branching values are scalars, `intervals` are those of INTERVALS."""

    branching: Branching
    intervals: Mapping[str, Interval]
    permutation: NullComparison
    shift: NullComparison
    swap_excess: float
    swap_interval: Interval
    susceptibility: Susceptibility
    avalanches_4n: AvalancheTable
    avalanches_8n: AvalancheTable
    density_4n: Density
    density_8n: Density
    crackling: CracklingFit
    tail: TailFit
    m_tokens: MultistepFit
    m_layers: MultistepFit
    n_sequences: int


def measure_condition(
    counts: UInt16[np.ndarray, "seq layer token"],
    weights: Int64[np.ndarray, "reps seq"],
    statistics: Statistics,
    *,
    condition: str,
    seed: int,
) -> ConditionMeasures:
    """Measure the raster A of one condition. `condition` names it in the seeds of its surrogates."""
    x = occupancy(counts)
    sums = branching_sums(x)
    point = branching(sums)
    found_4n, found_8n = (
        avalanches(x, counts, adjacency_id=adjacency, max_per_sequence=statistics.cc_max_components_per_seq)
        for adjacency in ("ADJ_4N", "ADJ_8N")
    )
    permutation, shift = (
        compare_with_null(null_id, x, point, draws=statistics.null_draws, condition=condition, seed=seed)
        for null_id in (PERMUTATION, CIRCULAR_SHIFT)
    )
    swapped = draw_null(MARGIN_SWAP, x, counts, seed=seed, condition=condition, seq_ids=range(len(x)))
    swap_excess, swap_interval = excess_over_draw(sums, branching_sums(swapped.occupancy), weights)
    totals, replicates = sequence_totals(counts), branching(sums, weights)
    return ConditionMeasures(
        branching=point,
        intervals={name: branching_interval(name, sums, point, replicates, weights) for name in INTERVALS},
        permutation=permutation,
        shift=shift,
        swap_excess=swap_excess,
        swap_interval=swap_interval,
        susceptibility=measure_susceptibility(totals, weights, statistics),
        avalanches_4n=found_4n,
        avalanches_8n=found_8n,
        density_4n=density(x, counts, found_4n),
        density_8n=density(x, counts, found_8n),
        crackling=crackling(
            found_4n.size,
            found_4n.span_tokens,
            found_4n.seq_id,
            n_sequences=len(x),
            d_min=statistics.crackling_d_range_min,
            d_max=statistics.crackling_d_range_max,
            min_points=statistics.crackling_min_points,
            ci_width_max=statistics.ci_width_max,
        ),
        tail=fit_tail(
            found_4n.size, xmin_percentile=statistics.tail_xmin_percentile, min_tail_samples=statistics.tail_min_samples
        ),
        m_tokens=multistep_regression(counts.sum(axis=1, dtype=np.int64), k_max=TOKEN_LAGS),
        m_layers=multistep_regression(counts.sum(axis=2, dtype=np.int64), k_max=LAYER_LAGS),
        n_sequences=len(x),
    )


def measure_susceptibility(
    totals: Int64[np.ndarray, " seq"], weights: Int64[np.ndarray, "reps seq"], statistics: Statistics
) -> Susceptibility:
    """chi of one condition with its bootstrap interval."""
    return Susceptibility(
        float(susceptibility(totals, eps=statistics.chi_eps)),
        susceptibility_interval(totals, weights, eps=statistics.chi_eps),
        float(susceptibility(totals, eps=statistics.chi_eps, ddof=1)),
    )


def compare_with_null(
    null_id: str, x: UInt8[np.ndarray, "seq layer token"], point: Branching, *, draws: int, condition: str, seed: int
) -> NullComparison:
    """b_tot against permutation, b_depth against circular shift: memory along tokens raises b_time over shifts."""
    ensemble_of, name = (permutation_ensemble, "b_tot") if null_id == PERMUTATION else (shift_ensemble, "b_depth")
    ensemble = ensemble_of(x[None], draws=draws, seeds=[null_seed(seed, null_id, condition, ENSEMBLE_SEQ, 0)])
    observed = float(getattr(point, name))
    mean, sd = (float(getattr(ensemble, f"exact_{moment}_{name}")[0]) for moment in ("mean", "sd"))
    return NullComparison(float(z_score(observed, mean, sd)), float(exceedance_p(observed, getattr(ensemble, name)[0])))
