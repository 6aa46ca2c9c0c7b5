"""Which modules the gain must act on: attention, or bands of the MLPs, at g*, each at its own matched thresholds (T06).

Rows: per cell one g1 row of MLP_GLOBAL and one gstar row of each intervention. A rate that cannot be matched under an
intervention is a row that says so.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from jaxtyping import Int64

from avalanche_llm.analysis.conditions import Condition
from avalanche_llm.analysis.grid_rows import Lattice, match_thresholds
from avalanche_llm.analysis.measures import measure_susceptibility
from avalanche_llm.events.collect import LayerTail
from avalanche_llm.events.rate_match import RateTargets
from avalanche_llm.metrics.branching import branching, branching_sums
from avalanche_llm.metrics.susceptibility import sequence_totals
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.raster.build import occupancy
from avalanche_llm.settings import Events, Statistics

GLOBAL: Final = "MLP_GLOBAL"
TARGETS: Final[Mapping[str, str]] = {
    GLOBAL: "MLP",
    "ATTN_GLOBAL": "ATTN",
    "MLP_BAND_EARLY": "MLP",
    "MLP_BAND_MID": "MLP",
    "MLP_BAND_LATE": "MLP",
}
Intervention = tuple[str, float]
"""An intervention id and a gain."""


def plan_of(intervention: str, gain: float, n_layers: int) -> GainPlan:
    """The gain plan of an intervention at a gain."""
    if intervention == GLOBAL:
        return GainPlan.uniform("MLP", gain, n_layers)
    if intervention == "ATTN_GLOBAL":
        return GainPlan.uniform("ATTN", gain, n_layers)
    return GainPlan.band("MLP", gain, n_layers, intervention.rsplit("_", 1)[1])  # type: ignore[arg-type]  # EARLY, MID, LATE by name


def needed(conditions: Sequence[Condition], baseline: float) -> list[Intervention]:
    """Each distinct (intervention, gain) that no upstream run holds; at the baseline gain all of them are the plain model."""
    gains = sorted({condition.g for condition in conditions if condition.g != baseline})
    return [(intervention, gain) for gain in gains for intervention in TARGETS if intervention != GLOBAL]


@dataclass(frozen=True)
class AblationInputs:
    """What the rows are computed with. `tails` brings (MLP_GLOBAL, g) of the grid and every needed intervention, each once."""

    tails: Iterable[tuple[Intervention, Sequence[LayerTail]]]
    targets: RateTargets
    lattice: Lattice
    weights: Int64[np.ndarray, "reps seq"]
    events: Events
    statistics: Statistics
    baseline: float


def ablation_rows(conditions: Sequence[Condition], inputs: AblationInputs) -> Iterator[dict[str, Any]]:
    """The measured columns of T06, one mapping a row, keys included, in the order of the events that they come from."""
    for source, tails in inputs.tails:
        for condition, intervention in product(conditions, TARGETS):
            if source == _source(condition, intervention, inputs.baseline):
                yield {
                    "spike_def_id": condition.spike_def,
                    "target_rate": condition.target_rate,
                    "g_condition": condition.g_condition,
                    "g": condition.g,
                    "intervention_id": intervention,
                    "gain_target": TARGETS[intervention],
                    **_measured(tails, condition, inputs),
                }


def _source(condition: Condition, intervention: str, baseline: float) -> Intervention | None:
    """Whose events a row is measured on: at the baseline gain every intervention is the plain model. None: there is no row."""
    if condition.g_condition != "gstar" and intervention != GLOBAL:
        return None
    return (GLOBAL if condition.g == baseline else intervention), condition.g


def _measured(tails: Sequence[LayerTail], condition: Condition, inputs: AblationInputs) -> dict[str, Any]:
    matched = match_thresholds(tails, inputs.targets, only=condition.cell)[condition.cell]
    r_star = inputs.targets.r_star[condition.cell]
    passed = matched.passed(r_star, inputs.events)
    error = float(np.abs(matched.achieved_rate() - r_star).max())
    common = {"achieved_rate_max_abs_err": error, "n_sequences": inputs.lattice.n_seq}
    if not passed.all():
        nan = float("nan")
        status = f"rate not matched in {int((~passed).sum())} of {len(passed)} layers"
        return {"b_tot": nan, "delta_b_tot": nan, "chi": nan, **common, "opt_status": status}
    counts = inputs.lattice.raster(tails, matched.tau, condition.spike_def)
    point = branching(branching_sums(occupancy(counts)))
    chi = measure_susceptibility(sequence_totals(counts), inputs.weights, inputs.statistics).chi
    return {"b_tot": float(point.b_tot), "delta_b_tot": float(point.delta_b_tot), "chi": chi, **common, "opt_status": "measured"}
