"""The conditions of the held-out rasters: every cell at g = 1 and at its g*, numbered; each distinct gain is run once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import pandas as pd

from avalanche_llm.errors import MissingArtifact
from avalanche_llm.events.rate_match import Cell
from avalanche_llm.settings import Events, SpikeDef

GCondition = Literal["g1", "gstar"]


@dataclass(frozen=True)
class Condition:
    """One raster: a spike definition and target rate at one gain, which is the baseline or the cell's g*."""

    cond_id: int
    spike_def: SpikeDef
    target_rate: float
    g_condition: GCondition
    g: float

    @property
    def cell(self) -> Cell:
        return self.spike_def, self.target_rate

    @property
    def key(self) -> str:
        """How seeds and logs name the condition; equal in every run of the same protocol."""
        return f"{self.spike_def}|{self.target_rate!r}|{self.g_condition}|{self.g!r}"

    def columns(self) -> dict[str, Any]:
        """The condition as table columns."""
        return {
            "cond_id": self.cond_id,
            "spike_def_id": self.spike_def,
            "target_rate": self.target_rate,
            "g_condition": self.g_condition,
            "g": self.g,
        }


def raster_conditions(selections: Sequence[Mapping[str, Any]], baseline: float) -> list[Condition]:
    """Two conditions a cell of gstar.json, in the order of its selections."""
    conditions: list[Condition] = []
    for row in selections:
        for g_condition, gain in (("g1", baseline), ("gstar", float(row["gstar"]))):
            conditions.append(
                Condition(len(conditions), row["spike_def_id"], float(row["target_rate"]), g_condition, gain)  # type: ignore[arg-type]  # literal loop
            )
    return conditions


def conditions_from_frame(rows: pd.DataFrame) -> list[Condition]:
    """The conditions as phase 3 numbered them."""
    return [
        Condition(int(row["cond_id"]), row["spike_def_id"], float(row["target_rate"]), row["g_condition"], float(row["g"]))
        for row in rows.sort_values("cond_id").to_dict("records")
    ]


def keys_at_both_gains(events: Events) -> list[tuple[SpikeDef, float, GCondition]]:
    """The keys of a table with a row a cell and gain condition, from the config alone: what was measured does not enter."""
    return list(product(sorted(events.spike_defs), sorted(events.target_rates), get_args(GCondition)))


@dataclass(frozen=True)
class ThresholdTable:
    """tau_rate_matched.parquet by gain and cell: tau[layer] and r_star[layer]."""

    rows: pd.DataFrame

    def of(self, cell: Cell, g: float) -> pd.DataFrame:
        """The rows of one threshold set in the order of the layers. Raises MissingArtifact if there is none."""
        rows = self.rows
        found = rows[(rows["spike_def_id"] == cell[0]) & (rows["target_rate"] == cell[1]) & (rows["g"] == g)].sort_values("layer")
        if found.empty:
            raise MissingArtifact(f"no thresholds for {cell[0]}, rate {cell[1]:g}, g = {g:g}: that gain is not in the grid")
        return found

    def bounds(self, g: float) -> list[dict[SpikeDef, float]]:
        """Per layer the lowest tau of each definition at a gain, over all rates."""
        lowest = self.rows[self.rows["g"] == g].groupby(["layer", "spike_def_id"])["tau"].min().unstack()
        return [{spike_def: float(tau) for spike_def, tau in row.items()} for _, row in lowest.sort_index().iterrows()]  # type: ignore[misc]  # pandas types keys loosely
