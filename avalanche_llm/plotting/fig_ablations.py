"""F11: the selected gain applied to other modules and to thirds of the layers (from T06; specs 08, 19).

Rows of panels: b_tot (pairs/site), its excess over the permutation null (pairs/site), chi (events).
Categories: no intervention, then each intervention at g*, named by the module it scales. An intervention
that was not measured keeps its place and is counted as missing.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from avalanche_llm.plotting.fig_dots import Dot, dot_panel
from avalanche_llm.plotting.fig_panels import (
    RATE_TITLE,
    Measure,
    definition_name,
    definitions,
    heading,
    legend_above,
    rate_handles,
    rates,
    require,
    select,
    small_multiples,
)
from avalanche_llm.plotting.style import GREY, styled

_LAYERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "GLOBAL": "all layers",
        "BAND_EARLY": "early third",
        "BAND_MID": "middle third",
        "BAND_LATE": "late third",
    }
)


@styled
def ablations(measured: pd.DataFrame) -> Figure:
    """F11: b_tot, delta_b_tot and chi by intervention (down the side), target rate (dots) and definition."""
    measures = (
        Measure("b_tot", "$b_\\mathrm{tot}$ (pairs/site)", 1.0),
        Measure("delta_b_tot", "$\\Delta b_\\mathrm{tot}$ (pairs/site)", 0.0),
        Measure("chi", "$\\chi$ (events)"),
    )
    needed = ("g_condition", "intervention_id", "gain_target", *(measure.column for measure in measures))
    require(measured, ("spike_def_id", "target_rate", *needed), "F11")
    names, levels = definitions(measured), rates(measured)
    labels = {key: _label(*key) for key in _categories(measured)}
    grid = small_multiples([0.27 * len(labels)] * len(measures), len(names), share_x="row")
    for row, measure in enumerate(measures):
        for axes, name in zip(grid.axes[row], names, strict=True):
            dots = [
                Dot(place, index, value=_value(select(measured, name, rate), key, measure.column))
                for place, key in enumerate(labels)
                for index, rate in enumerate(levels)
            ]
            missing = dot_panel(axes, list(labels.values()), dots, len(levels))
            if measure.reference is not None:
                axes.axvline(measure.reference, color=GREY, linewidth=0.8, zorder=1)
            axes.set_xlabel(measure.label)
            heading(axes, "" if row else definition_name(name), missing, len(dots))
    legend_above(grid.figure, rate_handles(levels, lines=False), columns=4, title=RATE_TITLE)
    return grid.figure


_Category = tuple[str, str, str]


def _categories(measured: pd.DataFrame) -> list[_Category]:
    """(g_condition, intervention_id, gain_target) in order of appearance, g1 first."""
    columns = (measured[name].tolist() for name in ("g_condition", "intervention_id", "gain_target"))
    found: list[_Category] = list(dict.fromkeys(zip(*columns, strict=True)))
    return sorted(found, key=lambda category: category[0] != "g1")


def _label(condition: str, intervention: str, target: str) -> str:
    if condition == "g1":
        return "none ($g$ = 1)"
    layers = intervention.removeprefix(f"{target}_")
    return f"{target}, {_LAYERS.get(layers, layers)}"


def _value(rows: pd.DataFrame, key: _Category, column: str) -> float:
    condition, intervention, _ = key
    found = rows.loc[(rows["g_condition"] == condition) & (rows["intervention_id"] == intervention), column]
    return float(found.iloc[0]) if len(found) else float(np.nan)
