"""Dot panels: categories down the side, one dodged dot per target rate, an optional line from low to high.

Used where the gain is not the axis: nulls compared (F10), ablations (F11). Values are in the unit of the
panel's horizontal axis; a dot without a value is counted and not drawn (spec 19).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from avalanche_llm.plotting.style import GRID, series

_DODGE = 0.72  # share of a category's height that its dots take


@dataclass(frozen=True)
class Dot:
    """One dot: its category, its series, its value with a line from low to high (NaN for none)."""

    category: int
    series: int
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    hollow: bool = False


def dot_panel(axes: Axes, categories: Sequence[str], dots: Sequence[Dot], n_series: int) -> int:
    """Draw the dots, first category on top; the number of dots without a value."""
    for dot in dots:
        look = series(dot.series)
        height = dot.category + _DODGE * ((dot.series + 0.5) / n_series - 0.5)
        if np.isfinite(dot.low):
            axes.hlines(height, dot.low, dot.high, color=look.color, linewidth=0.8)
        axes.plot(
            dot.value,
            height,
            marker=look.marker,
            color=look.color,
            markerfacecolor="white" if dot.hollow else look.color,
        )
    for edge in range(1, len(categories)):
        axes.axhline(edge - 0.5, color=GRID, linewidth=0.4, zorder=0)
    axes.set_yticks(range(len(categories)), labels=list(categories))
    axes.set_ylim(len(categories) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 5, 10]))
    return int(np.isnan([dot.value for dot in dots]).sum())
