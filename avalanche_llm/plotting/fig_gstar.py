"""F05: what the rule that chose g* looks at, over the gain, with the selected gain, its interval and its status.

    btot_near_one   b_tot against one
    excess_peak     delta_b_tot, its largest value
    mr_near_one     m along tokens against one

A rule that does not look at b_tot has a second, lower panel a cell with b_tot, so that the published quantity stays in view
(specs 08, 19). Input is T01 (`schemas.T01`) and one row per definition and target rate with the columns `gstar`, `status`
(bracketed, grid_edge, no_crossing), optionally `gstar_ci_low`, `gstar_ci_high`, and for mr_near_one `curve` as in gstar.json.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avalanche_llm.metrics.gstar import CRITERIA
from avalanche_llm.plotting.fig_panels import (
    BAND_ALPHA,
    GAIN_LABEL,
    GAIN_TOLERANCE,
    band_handle,
    curve,
    definition_name,
    definitions,
    few_ticks,
    heading,
    legend_above,
    line_handle,
    rates,
    reference,
    require,
    select,
    small_multiples,
    values,
)
from avalanche_llm.plotting.style import BLACK, GREY, Series, scientific, series, styled
from avalanche_llm.settings import GstarMethod

_GSTAR: Final = Series("#D55E00", "*", "-")
_LINE: Final = Series(GREY, "", "-")
_LOOKS: Final = (series(0), series(2))
"""What the rule looks at, and b_tot below it: neither in the colour of g*."""
_SYMBOL: Final[Mapping[str, str]] = MappingProxyType(
    {"b_tot": "$b_\\mathrm{tot}$", "delta_b_tot": "$\\Delta b_\\mathrm{tot}$", "m": "$m$"}
)
_UNIT: Final[Mapping[str, str]] = MappingProxyType({"b_tot": "(pairs/site)", "delta_b_tot": "(pairs/site)", "m": "(per token)"})
_COMPARED: Final[Mapping[str, float]] = MappingProxyType({"b_tot": 1.0, "delta_b_tot": 0.0, "m": 1.0})
"""The grey line: what the rule aims at, and for the excess, which has no aim, no excess."""
_TALL: Final = 1.05
_LOW: Final = 0.6


@styled
def gstar_selection(summary: pd.DataFrame, gstar: pd.DataFrame, *, method: GstarMethod = "btot_near_one") -> Figure:
    """F05: what the method looks at over g with the selected gain, its interval and its status; b_tot below it."""
    looked_at = CRITERIA[method].quantity
    shown = ("b_tot",) if looked_at == "b_tot" else (looked_at, "b_tot")
    require(summary, ("spike_def_id", "target_rate", "g", *(name for name in shown if name != "m")), "F05")
    require(gstar, ("spike_def_id", "target_rate", "gstar", "status", *(("curve",) if looked_at == "m" else ())), "F05")
    names, levels = definitions(summary), rates(summary)
    panels = [(rate, quantity) for rate in levels for quantity in shown]
    grid = small_multiples([_TALL if quantity == looked_at else _LOW for _, quantity in panels], len(names))
    for row, (rate, quantity) in enumerate(panels):
        for axes, name in zip(grid.axes[row], names, strict=True):
            chosen = select(gstar, name, rate)
            rows = _looked_at(select(summary, name, rate), chosen, quantity)
            reference(axes, _COMPARED[quantity])
            missing = curve(axes, rows, quantity, _LOOKS[shown.index(quantity)])
            said = _mark_gstar(axes, rows, chosen, quantity, star=quantity == looked_at)
            top = "" if row else definition_name(name) + "\n"
            heading(axes, top + said if quantity == looked_at else "", missing, len(rows))
            few_ticks(axes.xaxis)
            few_ticks(axes.yaxis)
        if quantity == looked_at:
            grid.axes[row][0].set_ylabel(scientific(rate))
    grid.figure.supxlabel(GAIN_LABEL)
    drawn = ", below it ".join(f"{_SYMBOL[quantity]} {_UNIT[quantity]}" for quantity in shown)
    grid.figure.supylabel(f"{drawn} by target rate (events/unit/token)")
    handles = [
        *(line_handle(look, _SYMBOL[quantity]) for look, quantity in zip(_LOOKS, shown, strict=False)),
        band_handle(),
        line_handle(_LINE, ", ".join(f"{_SYMBOL[quantity]} = {_COMPARED[quantity]:g}" for quantity in shown)),
        line_handle(_GSTAR, "$g$* and its interval"),
    ]
    legend_above(grid.figure, handles, columns=2)
    return grid.figure


def _looked_at(rows: pd.DataFrame, chosen: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """The rows of T01 of one cell, or the curve of m that gstar.json has of it, with the names that `curve` looks for."""
    if quantity != "m":
        return rows
    points = [point for of_cell in chosen["curve"] for point in of_cell]
    found = pd.DataFrame(points, columns=["g", "criterion", "ci_low", "ci_high"])
    return found.rename(columns={"criterion": "m", "ci_low": "opt_m_ci_low", "ci_high": "opt_m_ci_high"})


def _mark_gstar(axes: Axes, rows: pd.DataFrame, chosen: pd.DataFrame, quantity: str, *, star: bool) -> str:
    """Draw the selected gain in one panel; the sentence that says which it is and how it was found."""
    if chosen.empty or bool(chosen["gstar"].isna().iloc[0]):
        return "$g$* not available"
    gain = float(chosen["gstar"].iloc[0])
    low, high = values(chosen, "gstar_ci_low")[0], values(chosen, "gstar_ci_high")[0]
    if np.isfinite([low, high]).all():
        axes.axvspan(low, high, color=_GSTAR.color, alpha=BAND_ALPHA, linewidth=0)
    axes.axvline(gain, color=_GSTAR.color)
    if star:
        at = rows[np.isclose(values(rows, "g"), gain, rtol=0.0, atol=GAIN_TOLERANCE)]
        axes.plot(at["g"], at[quantity], _GSTAR.marker, markersize=6.5, color=_GSTAR.color, markeredgecolor=BLACK)
    status = str(chosen["status"].iloc[0]).replace("_", " ")
    return f"$g$* = {gain:g}, {status}"
