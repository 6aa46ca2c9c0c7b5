"""F09: the susceptibility of the event count over the gain, and over the distance from the selected gain.

    chi = Var(Y) / (Mean(Y) + eps),   Y = events per sequence

chi is in events; independent Poisson counts give 1 (spec 09). Its axis is logarithmic, as its interval is, unless a chi is 0.
A ring marks the largest chi of a series.
Input is T01 and, per definition and target rate, `gstar`; a maximum at the end of the gain grid is not a
peak.
"""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avalanche_llm.plotting.fig_panels import (
    GAIN_LABEL,
    RATE_TITLE,
    band_handle,
    curve,
    definition_name,
    definitions,
    few_ticks,
    heading,
    legend_above,
    line_handle,
    rate_handles,
    rates,
    require,
    select,
    small_multiples,
)
from avalanche_llm.plotting.style import BLACK, GREY, Series, series, styled

_LABEL: Final = "$\\chi$ (events)"


@styled
def chi_curves(summary: pd.DataFrame, gstar: pd.DataFrame, *, alignment_max: float) -> Figure:
    """F09: chi over g (top) and over g - g* (bottom), every target rate, both definitions.

    `alignment_max` is the largest |g - g*| (dimensionless) that counts as aligned, shaded in the lower row.
    """
    require(summary, ("spike_def_id", "target_rate", "g", "chi"), "F09")
    require(gstar, ("spike_def_id", "target_rate", "gstar"), "F09")
    names, levels = definitions(summary), rates(summary)
    wide = summary.merge(gstar[["spike_def_id", "target_rate", "gstar"]], on=["spike_def_id", "target_rate"], how="left")
    wide = wide.assign(distance=wide["g"] - wide["gstar"])
    grid = small_multiples([1.5, 1.5], len(names), share_x="row")
    for row, x in enumerate(("g", "distance")):
        for axes, name in zip(grid.axes[row], names, strict=True):
            chosen = [select(wide, name, rate) for rate in levels]
            if x == "distance":
                axes.axvspan(-alignment_max, alignment_max, color=GREY, alpha=0.15, linewidth=0)
                axes.axvline(0.0, color=GREY, linewidth=0.8)
                chosen = [rows.assign(chi=rows["chi"].where(rows["distance"].notna())) for rows in chosen]
            missing = sum(_chi(axes, rows, index, x) for index, rows in enumerate(chosen))
            heading(axes, "" if row else definition_name(name), missing, sum(map(len, chosen)))
            axes.set_xlabel(GAIN_LABEL if x == "g" else "$g - g$* (dimensionless)")
            few_ticks(axes.xaxis)
        if (summary["chi"].dropna() > 0.0).all():
            grid.axes[row][0].set_yscale("log")
        else:
            few_ticks(grid.axes[row][0].yaxis)
        grid.axes[row][0].set_ylabel(_LABEL)
    ring = line_handle(Series(BLACK, "o", ""), "largest $\\chi$", hollow=True)
    aligned = band_handle(f"$|g - g$*$| \\leq$ {alignment_max:g}")
    aligned.set_alpha(0.15)
    handles = [*rate_handles(levels), band_handle(), ring, aligned]
    legend_above(grid.figure, handles, columns=3, title=RATE_TITLE)
    return grid.figure


def _chi(axes: Axes, rows: pd.DataFrame, index: int, x: str) -> int:
    """One chi curve with a ring at its maximum; the number of missing values."""
    missing = curve(axes, rows, "chi", series(index), x=x)
    chi = rows["chi"].to_numpy(dtype=np.float64)
    if missing < len(chi):
        top = int(np.nanargmax(chi))
        axes.plot(rows[x].iloc[top], chi[top], "o", markersize=6.0, markerfacecolor="none", color=BLACK)
    return missing
