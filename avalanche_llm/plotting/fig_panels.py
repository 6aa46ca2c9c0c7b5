"""The parts every figure is built from: small multiples, a curve with its interval, notes, one shared legend.

Small multiples have one column per spike definition; colour, marker and line style mean the target rate.
Legends stand above the panels, never on data. What is NaN is not drawn, and the panel's heading says how
many values are missing, so an unavailable measure is visible as such.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from avalanche_llm.errors import SchemaError
from avalanche_llm.plotting.columns import SPIKE_NAMES
from avalanche_llm.plotting.style import GREY, SMALL_PT, Series, new_figure, scientific, series

GAIN_LABEL: Final = "gain $g$ (dimensionless)"
RATE_TITLE: Final = "target rate (events per unit and token)"
BAND_ALPHA: Final = 0.2
GAIN_TOLERANCE: Final = 1e-9  # two gains of a grid are further apart than this

_RULES: Final[Mapping[str, str]] = MappingProxyType(
    {"SPIKE_ONE_SIDED_POS": "$z > \\tau$", "SPIKE_TWO_SIDED_ABS": "$|z| > \\tau$"}
)


@dataclass(frozen=True)
class Grid:
    """A figure with its panels `axes[row][column]`."""

    figure: Figure
    axes: tuple[tuple[Axes, ...], ...]


def require(frame: pd.DataFrame, names: Iterable[str], figure_id: str) -> None:
    """Raise SchemaError if a frame is empty or lacks a column the figure needs."""
    missing = [name for name in names if name not in frame]
    if missing:
        raise SchemaError(f"{figure_id} needs the column {missing[0]}, found {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise SchemaError(f"{figure_id} needs at least one row, found none")


def definitions(frame: pd.DataFrame) -> list[str]:
    """The spike definitions of a frame, in order of appearance."""
    return [str(name) for name in dict.fromkeys(frame["spike_def_id"].tolist())]


def rates(frame: pd.DataFrame) -> list[float]:
    """The target rates of a frame, ascending."""
    return sorted({float(rate) for rate in frame["target_rate"]})


def definition_name(spike_def_id: str) -> str:
    """A spike definition as a panel heading."""
    return f"{SPIKE_NAMES[spike_def_id]}, {_RULES[spike_def_id]}" if spike_def_id in _RULES else spike_def_id


def select(frame: pd.DataFrame, spike_def_id: str, rate: float) -> pd.DataFrame:
    """The rows of one definition and one target rate, by ascending gain where there is one."""
    wanted = (frame["spike_def_id"].to_numpy() == spike_def_id) & (frame["target_rate"].to_numpy() == rate)
    places = np.flatnonzero(wanted)
    return frame.take(places[np.argsort(frame["g"].to_numpy()[places], kind="stable")] if "g" in frame else places)


def small_multiples(
    row_heights_in: Sequence[float], columns: int, *, share_x: bool | str = True, share_y: bool | str = "row"
) -> Grid:
    """Panels in rows of the given heights; one row of headings, axis and legend takes 0.9 in more."""
    figure = new_figure(sum(row_heights_in) + 0.9)
    axes = figure.subplots(
        len(row_heights_in),
        columns,
        sharex=share_x,  # type: ignore[arg-type]  # the stub wants literals
        sharey=share_y,  # type: ignore[arg-type]  # the stub wants literals
        squeeze=False,
        gridspec_kw={"height_ratios": list(row_heights_in)},
    )
    return Grid(figure, tuple(tuple(row) for row in axes))


def values(rows: pd.DataFrame, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A column as floats; all NaN where the frame has no such column (an optional one)."""
    if name not in rows:
        return np.full(len(rows), np.nan)
    return rows[name].to_numpy(dtype=np.float64)


def curve(axes: Axes, rows: pd.DataFrame, name: str, look: Series, *, x: str = "g", hollow: bool = False) -> int:
    """Draw one measure over the gain with its interval `opt_<name>_ci_*` if given; the number of NaN points.

    No interval is drawn where the value itself is missing. A point that has one while its neighbours have none
    gets an error bar instead of a band, which would have no width.
    """
    stem = f"opt_{name.removeprefix('opt_')}_ci"
    gains, centre = values(rows, x), values(rows, name)
    low, high = (np.where(np.isnan(centre), np.nan, values(rows, f"{stem}_{end}")) for end in ("low", "high"))
    alone = np.ones(len(gains), dtype=bool)
    if len(gains) > 1:
        axes.fill_between(gains, low, high, color=look.color, alpha=BAND_ALPHA, linewidth=0)
        given = np.isfinite(low)
        alone = given & ~(np.append(given[1:], False) | np.append(False, given[:-1]))
    if alone.any():
        axes.vlines(gains[alone], low[alone], high[alone], color=look.color)
    axes.plot(gains, centre, **_line(look, hollow=hollow))
    return int(np.isnan(centre).sum())


@dataclass(frozen=True)
class Measure:
    """One row of panels: the table's column, the axis label, the value to compare with (None for none)."""

    column: str
    label: str
    reference: float | None = None
    hollow: bool = False


def curve_rows(frame: pd.DataFrame, measures: Sequence[Measure], row_height_in: float, figure_id: str) -> Grid:
    """Every measure (rows) over the gain for every definition (columns) and target rate (series)."""
    require(frame, ("spike_def_id", "target_rate", "g", *(measure.column for measure in measures)), figure_id)
    names, levels = definitions(frame), rates(frame)
    grid = small_multiples([row_height_in] * len(measures), len(names))
    for row, measure in enumerate(measures):
        for axes, name in zip(grid.axes[row], names, strict=True):
            reference(axes, measure.reference)
            chosen = [select(frame, name, rate) for rate in levels]
            missing = sum(
                curve(axes, rows, measure.column, series(index), hollow=measure.hollow) for index, rows in enumerate(chosen)
            )
            heading(axes, "" if row else definition_name(name), missing, sum(map(len, chosen)))
            few_ticks(axes.xaxis)
        few_ticks(grid.axes[row][0].yaxis)
        grid.axes[row][0].set_ylabel(measure.label)
    return grid


def reference(axes: Axes, y: float | None) -> None:
    """A grey horizontal line at a value the reader compares with, if there is one; the axis will include it.

    `axhline` would put a rounded y into the data limits; data of exactly y would then set a scale of 1e-17.
    """
    if y is not None:
        ends, across = (0.0, 1.0), axes.get_yaxis_transform()
        axes.add_artist(Line2D(ends, (y, y), color=GREY, linewidth=0.8, zorder=1, transform=across))
        axes.update_datalim([(0.0, y)], updatex=False)


def heading(axes: Axes, text: str, missing: int, total: int) -> None:
    """The panel's heading; a second line says what is missing, and an empty panel says so in its middle."""
    note = f"{missing} of {total} values n/a" if missing else ""
    axes.set_title("\n".join(line for line in (text, note) if line))
    if missing == total:
        say(axes, "not available")


def say(axes: Axes, text: str) -> None:
    """A sentence in the middle of a panel that has nothing to draw."""
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=SMALL_PT,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )


def few_ticks(axis: XAxis | YAxis) -> None:
    """Three to five round ticks, so that small panels stay readable."""
    axis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=3, steps=[1, 2, 2.5, 5, 10]))


def rate_handles(levels: Sequence[float], *, lines: bool = True) -> list[Artist]:
    """One legend entry per target rate, in the look of its series, or its marker alone."""
    looks = [series(index) for index in range(len(levels))]
    if not lines:
        looks = [replace(look, linestyle="") for look in looks]
    return [line_handle(look, scientific(rate)) for look, rate in zip(looks, levels, strict=True)]


def line_handle(look: Series, label: str, *, hollow: bool = False) -> Line2D:
    """A legend entry for one series."""
    return Line2D([], [], label=label, **_line(look, hollow=hollow))


def _line(look: Series, *, hollow: bool) -> dict[str, Any]:
    face = "white" if hollow else look.color
    return {"color": look.color, "marker": look.marker, "linestyle": look.linestyle, "markerfacecolor": face}


def band_handle(label: str = "bootstrap interval") -> Patch:
    """A legend entry for a band."""
    return Patch(facecolor=GREY, alpha=0.4, label=label)


def legend_above(
    figure: Figure,
    handles: Sequence[Artist],
    *,
    columns: int,
    title: str | None = None,
    handle_length: float = 2.6,
) -> None:
    """One legend for the whole figure, above the panels, in at most `columns` columns that fit the page."""
    for fewer in range(columns, 0, -1):
        legend = figure.legend(handles=handles, loc="outside upper center", ncols=fewer, title=title, handlelength=handle_length)
        if fewer == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()
