"""F03 and F08: the branching ratios over the gain, and the two spike definitions.

    b_time = sum X[l,t] X[l,t+1] / sum X
    b_depth = sum X[l,t] X[l+1,t] / sum X
    b_tot = b_time + b_depth

All in occupied neighbour pairs per occupied site, against the dimensionless gain g (specs 05, 19).
Input is T01 (`schemas.T01`). With independent sites b_tot = 2p, so the line at one marks no special state by
itself. F05, which shows what the rule that chose g* looks at, is in `fig_gstar`.
"""

from typing import Final

import pandas as pd
from matplotlib.figure import Figure

from avalanche_llm.plotting.fig_panels import (
    GAIN_LABEL,
    RATE_TITLE,
    Measure,
    band_handle,
    curve,
    curve_rows,
    definition_name,
    definitions,
    few_ticks,
    heading,
    legend_above,
    line_handle,
    rate_handles,
    rates,
    reference,
    require,
    select,
    small_multiples,
)
from avalanche_llm.plotting.style import GREY, Series, scientific, series, styled

_LINE: Final = Series(GREY, "", "-")
_NEAR_ONE: Final = 1.0


@styled
def branching_curves(summary: pd.DataFrame) -> Figure:
    """F03: b_time, b_depth and b_tot (rows) over g for both definitions (columns) and every target rate."""
    measures = (
        Measure("b_time", "$b_\\mathrm{time}$ (pairs/site)"),
        Measure("b_depth", "$b_\\mathrm{depth}$ (pairs/site)"),
        Measure("b_tot", "$b_\\mathrm{tot}$ (pairs/site)", _NEAR_ONE),
    )
    grid = curve_rows(summary, measures, 1.25, "F03")
    grid.figure.supxlabel(GAIN_LABEL)
    handles = [*rate_handles(rates(summary)), band_handle(), line_handle(_LINE, "$b_\\mathrm{tot}$ = 1")]
    legend_above(grid.figure, handles, columns=3, title=RATE_TITLE)
    return grid.figure


@styled
def spike_definitions(summary: pd.DataFrame) -> Figure:
    """F08: b_tot and delta_b_tot (columns) with both definitions in one panel, a row per target rate."""
    require(summary, ("spike_def_id", "target_rate", "g", "b_tot", "delta_b_tot"), "F08")
    names, levels = definitions(summary), rates(summary)
    measures = (
        Measure("b_tot", "$b_\\mathrm{tot}$ (pairs/site)", _NEAR_ONE),
        Measure("delta_b_tot", "$\\Delta b_\\mathrm{tot}$ (pairs/site)", 0.0),
    )
    grid = small_multiples([1.05] * len(levels), len(measures), share_y="col")
    for row, rate in enumerate(levels):
        for axes, measure in zip(grid.axes[row], measures, strict=True):
            reference(axes, measure.reference)
            chosen = [select(summary, name, rate) for name in names]
            missing = sum(curve(axes, rows, measure.column, series(i)) for i, rows in enumerate(chosen))
            heading(axes, "" if row else measure.label, missing, sum(map(len, chosen)))
            few_ticks(axes.xaxis)
            few_ticks(axes.yaxis)
        grid.axes[row][0].set_ylabel(scientific(rate))
    grid.figure.supxlabel(GAIN_LABEL)
    grid.figure.supylabel(RATE_TITLE)
    handles = [line_handle(series(index), definition_name(name)) for index, name in enumerate(names)]
    legend_above(grid.figure, [*handles, band_handle(), line_handle(_LINE, "1 (left), 0 (right)")], columns=2)
    return grid.figure
