"""Which surrogate sees through what: excess b_tot over each raster null, and how often it is called structure.

Permutation and shift: the ensembles of `metrics.null_ensemble`, p as in the pipeline. Margin swap and common shift have no
exact law: 19 surrogates of every repetition by `raster.nulls.draw_null`, and an excess at the 5 % level is a b_tot above all 19
(ties count against it). One size of raster for all, small because swaps are slow.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64, UInt8, UInt16

from avalanche_llm.metrics.branching import branching, branching_sums
from avalanche_llm.metrics.null_ensemble import permutation_ensemble, shift_ensemble
from avalanche_llm.metrics.stats import exceedance_p
from avalanche_llm.raster.build import occupancy
from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, COMMON_SHIFT, MARGIN_SWAP, PERMUTATION, draw_null
from avalanche_llm.simulate.truth import Shape
from avalanche_llm.validity.branching_study import LEVEL, NULL_DRAWS
from avalanche_llm.validity.scenarios import LAYERS, SEED, draw_raster, scenario
from avalanche_llm.validity.shares import Share, share

CASES: Final = ("lattice", "drive, sequence", "drive, token", "drive, smooth", "drive, banded", "branching", "directed")
DRAWS: Final = 19
SEQUENCES: Final = 6
TOKENS: Final = 32


@dataclass(frozen=True)
class SurrogateRow:
    """Mean excess of b_tot over the null's mean (pairs a site), and the share of repetitions called an excess."""

    scenario: str
    null_id: str
    b_tot: float
    excess: float
    rejected: Share


def surrogate_study(name: str, repetitions: int) -> list[SurrogateRow]:
    """One row a null for one scenario."""
    counts = draw_raster("surrogates", scenario(name), Shape(repetitions * SEQUENCES, LAYERS, TOKENS)).counts
    x = occupancy(counts)
    by_repetition = x.reshape(repetitions, SEQUENCES, LAYERS, TOKENS)
    observed = branching(branching_sums(by_repetition)).b_tot
    rows = []
    for null_id, ensemble in ((PERMUTATION, permutation_ensemble), (CIRCULAR_SHIFT, shift_ensemble)):
        found = ensemble(by_repetition, draws=NULL_DRAWS, seeds=range(repetitions))
        rows.append(_row(name, null_id, observed, found.exact_mean_b_tot, found.b_tot))
    for null_id in (MARGIN_SWAP, COMMON_SHIFT):
        draws = np.stack(list(_drawn(null_id, name, x, counts, repetitions)), axis=-1)
        rows.append(_row(name, null_id, observed, draws.mean(axis=-1), draws))
    return rows


def _drawn(
    null_id: str,
    name: str,
    x: UInt8[np.ndarray, "all layer token"],
    counts: UInt16[np.ndarray, "all layer token"],
    repetitions: int,
) -> Iterator[Float64[np.ndarray, " repetition"]]:
    """b_tot of one surrogate of every repetition, draw by draw."""
    for draw in range(DRAWS):
        condition = f"{name}|{draw}"
        null = draw_null(null_id, x, counts, seed=SEED, condition=condition, seq_ids=range(len(x)))
        yield branching(branching_sums(null.occupancy.reshape(repetitions, SEQUENCES, *x.shape[1:]))).b_tot


def _row(
    name: str,
    null_id: str,
    observed: Float64[np.ndarray, " repetition"],
    mean: Float64[np.ndarray, " repetition"],
    draws: Float64[np.ndarray, "repetition draws"],
) -> SurrogateRow:
    rejected = np.asarray(exceedance_p(observed, draws)) <= LEVEL
    return SurrogateRow(name, null_id, float(observed.mean()), float((observed - mean).mean()), share(rejected))
