"""F02: the rate that the thresholds reached against the rate they were to reach, with both tolerances.

    relative error = max over layers |achieved - target| / target rate

Rates are events per unit and token, mean over layers (specs 06, 19). Input is T01. The absolute tolerance
can be larger than every target rate, in which case it cannot fail; the figure shows it beside the relative
one.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from avalanche_llm.plotting.fig_panels import (
    GAIN_LABEL,
    RATE_TITLE,
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
    values,
)
from avalanche_llm.plotting.style import BLACK, GREY, Series, scientific, series, styled

_SPARSE: Final = 4  # up to so many gains of one target leave room for full markers
_ABSOLUTE: Final = Series(GREY, "", (0, (1.0, 1.0)))
_RELATIVE: Final = Series(BLACK, "", (0, (4.0, 2.0)))


@dataclass(frozen=True)
class _Tolerances:
    """Absolute in events per unit and token, relative without dimension, and where exact errors are drawn."""

    absolute: float
    relative: float
    edge: float


@styled
def rate_match(summary: pd.DataFrame, *, relative_tolerance: float) -> Figure:
    """F02: achieved against target rate (top), largest layer error over target by gain (bottom).

    Top: the gains of one target lie on one abscissa; where they coincide the matching is exact, and the bottom tells them apart.
    Errors of exactly zero are drawn at the lower edge. `relative_tolerance` is dimensionless.
    """
    needed = ("achieved_rate_mean", "achieved_rate_max_abs_err", "rate_match_tol_abs")
    require(summary, ("spike_def_id", "target_rate", "g", *needed), "F02")
    names, levels = definitions(summary), rates(summary)
    errors = values(summary, "achieved_rate_max_abs_err") / values(summary, "target_rate")
    smallest = errors[errors > 0].min(initial=relative_tolerance)
    tolerances = _Tolerances(
        absolute=float(summary["rate_match_tol_abs"].max()),
        relative=relative_tolerance,
        edge=float(10.0 ** (np.ceil(np.log10(smallest)) - 1)),
    )
    grid = small_multiples([1.6, 1.6], len(names), share_x="row")
    for column, name in enumerate(names):
        chosen = [select(summary, name, rate) for rate in levels]
        total = sum(map(len, chosen))
        missing = _achieved(grid.axes[0][column], chosen, levels, tolerances)
        heading(grid.axes[0][column], definition_name(name), missing, total)
        missing = _errors(grid.axes[1][column], chosen, levels, tolerances)
        exact = sum(int((values(rows, "achieved_rate_max_abs_err") == 0).sum()) for rows in chosen)
        heading(grid.axes[1][column], f"{exact} exact (at edge)" if exact else "", missing, total)
    grid.axes[0][0].set_ylabel("achieved rate\n(events/unit/token)")
    grid.axes[1][0].set_ylabel("largest layer error\n/ target rate (dimensionless)")
    handles = [
        *rate_handles(levels),
        line_handle(_RELATIVE, f"relative tolerance {relative_tolerance:g}"),
        line_handle(_ABSOLUTE, f"absolute tolerance {scientific(tolerances.absolute)}"),
    ]
    legend_above(grid.figure, handles, columns=2, title=RATE_TITLE)
    return grid.figure


def _achieved(axes: Axes, chosen: list[pd.DataFrame], levels: list[float], tolerances: _Tolerances) -> int:
    """Achieved against target rate on logarithmic axes; the number of missing values."""
    missing = 0
    size = 4.0 if max(map(len, chosen)) <= _SPARSE else 1.8
    for index, (rows, rate) in enumerate(zip(chosen, levels, strict=True)):
        look, achieved = series(index), values(rows, "achieved_rate_mean")
        axes.plot(np.full(len(rows), rate), achieved, look.marker, color=look.color, markersize=size, markeredgewidth=0)
        missing += int(np.isnan(achieved).sum())
    ends = np.array([min(levels) / 1.4, max(levels) * 1.4])
    for factor in (1 - tolerances.relative, 1 + tolerances.relative):
        axes.plot(ends, ends * factor, color=_RELATIVE.color, linestyle=_RELATIVE.linestyle, linewidth=0.6)
    axes.plot(ends, ends + tolerances.absolute, color=_ABSOLUTE.color, linestyle=_ABSOLUTE.linestyle)
    if tolerances.absolute < min(levels):  # otherwise the lower bound is no rate at all
        axes.plot(ends, ends - tolerances.absolute, color=_ABSOLUTE.color, linestyle=_ABSOLUTE.linestyle)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: scientific(value)))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xticks(levels[:: max(1, len(levels) // 2)])
    axes.set_xlabel("target rate\n(events/unit/token)")
    return missing


def _errors(axes: Axes, chosen: list[pd.DataFrame], levels: list[float], tolerances: _Tolerances) -> int:
    """The largest layer error over the target rate by gain; the number of missing values."""
    errors = [values(rows, "achieved_rate_max_abs_err") / rate for rows, rate in zip(chosen, levels, strict=True)]
    for index, (rows, error) in enumerate(zip(chosen, errors, strict=True)):
        look = series(index)
        axes.plot(
            values(rows, "g"),
            np.maximum(error, tolerances.edge),
            color=look.color,
            marker=look.marker,
            linestyle=look.linestyle,
            clip_on=False,
        )
        axes.axhline(tolerances.absolute / levels[index], color=look.color, linestyle=_ABSOLUTE.linestyle)
    axes.axhline(tolerances.relative, color=_RELATIVE.color, linestyle=_RELATIVE.linestyle)
    axes.set_yscale("log")
    axes.set_ylim(bottom=tolerances.edge)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: scientific(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(GAIN_LABEL)
    few_ticks(axes.xaxis)
    return int(np.isnan(np.concatenate(errors)).sum())
