"""Choosing g*: the gain of the grid whose branching ratio is nearest one, and how far that choice can be trusted (spec 08).

btot_near_one: argmin over the grid of |b_tot - 1|, ties to the gain nearest 1, then to the smaller. The status says whether
b_tot crosses one beside the chosen gain; a nearest gain without a crossing is the least distant, not a near-critical one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

from avalanche_llm.errors import SchemaError

GstarStatus = Literal["bracketed", "grid_edge", "no_crossing"]
BRANCHING_INPUTS: Final = frozenset(
    {"dataset_role", "spike_def_id", "target_rate", "g", "seq_id", "n_sites", "time_pairs", "depth_pairs"}
    | {f"{null}_{axis}_pairs" for null in ("perm", "shift") for axis in ("time", "depth")}
)


@dataclass(frozen=True)
class GstarChoice:
    """g* of one cell. distance = |b_tot(g*) - 1|; the interval and the shares come from resampled sequences."""

    gstar: float
    b_tot: float
    distance: float
    status: GstarStatus
    ci_low: float
    ci_high: float
    n_valid_replicates: int
    bootstrap_share: dict[str, float]


def refuse_task_metrics(columns: Sequence[str]) -> None:
    """Only branching on data set A may choose a gain: SchemaError for any other column among the inputs."""
    foreign = sorted(set(columns) - BRANCHING_INPUTS)
    if foreign:
        raise SchemaError(f"g* is chosen from branching on data set A alone; remove {', '.join(foreign)} from its inputs")


def nearest_to_one(gains: Float[np.ndarray, " gain"], b_tot: Float[np.ndarray, "*rep gain"]) -> np.ndarray:
    """Index of the chosen gain along the last axis; -1 where every b_tot is NaN (silent rasters)."""
    preference = np.lexsort((gains, np.abs(gains - 1.0)))
    distance = np.where(np.isnan(b_tot), np.inf, np.abs(b_tot - 1.0))[..., preference]
    chosen = preference[np.argmin(distance, axis=-1)]
    return np.where(np.isinf(distance).all(axis=-1), -1, chosen)


def crossing_status(b_tot: Float[np.ndarray, " gain"], chosen: int) -> GstarStatus:
    """bracketed: b_tot - 1 changes sign (or is zero) between the chosen gain and a neighbour; else where it sits."""
    here = b_tot[chosen] - 1.0
    beside = [b_tot[index] - 1.0 for index in (chosen - 1, chosen + 1) if 0 <= index < len(b_tot)]
    if here == 0.0 or any(here * other < 0 for other in beside):
        return "bracketed"
    return "grid_edge" if chosen in (0, len(b_tot) - 1) else "no_crossing"


def choose_gstar(
    gains: Float[np.ndarray, " gain"], b_tot: Float[np.ndarray, " gain"], replicates: Float[np.ndarray, "rep gain"]
) -> GstarChoice:
    """The published rule with its status, distance and bootstrap interval. Raises SchemaError if every raster is silent."""
    chosen = int(nearest_to_one(gains, b_tot))
    if chosen < 0:
        raise SchemaError("b_tot is undefined at every gain: the rasters hold no events, so no g* can be chosen")
    picks = nearest_to_one(gains, replicates)
    picked = gains[picks[picks >= 0]]
    low, high = np.quantile(picked, (0.025, 0.975), method="inverted_cdf") if len(picked) else (np.nan, np.nan)
    share = {f"{gain:g}": float((picked == gain).mean()) for gain in gains if (picked == gain).any()}
    return GstarChoice(
        gstar=float(gains[chosen]),
        b_tot=float(b_tot[chosen]),
        distance=float(abs(b_tot[chosen] - 1.0)),
        status=crossing_status(b_tot, chosen),
        ci_low=float(low),
        ci_high=float(high),
        n_valid_replicates=len(picked),
        bootstrap_share=share,
    )
