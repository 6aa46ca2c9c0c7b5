"""F06 and F07: what the selected gain does to data it was not selected on.

F06 (from T02): b_tot, its excess over the permutation null, chi and the negative log-likelihood on data set
B, g = 1 against g*, paired by condition. F07 (from T03): ARC accuracy with its interval, chance, and the
paired difference. Lines join the two gains of one condition (spec 19); no task number enters the choice of
g*.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avalanche_llm.plotting.fig_panels import (
    RATE_TITLE,
    Measure,
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
    values,
)
from avalanche_llm.plotting.style import GREY, Series, scientific, series, styled

CONDITIONS: Final = ("g1", "gstar")
_LABELS: Final = ("$g$ = 1", "$g$*")
_LOOKS: Final = (Series("#0072B2", "o", ""), Series("#D55E00", "s", ""))
_ENDS: Final = ("low", "high")
_CHANCE: Final = Series(GREY, "", (0, (3.0, 2.0)))
_ZERO: Final = Series(GREY, "", "-")


@styled
def generalization(generalized: pd.DataFrame) -> Figure:
    """F06: each condition at g = 1 and at g* on data set B, joined by a line."""
    measures = (
        Measure("b_tot", "$b_\\mathrm{tot}$\n(pairs/site)", 1.0),
        Measure("delta_b_tot", "$\\Delta b_\\mathrm{tot}$\n(pairs/site)", 0.0),
        Measure("chi", "$\\chi$\n(events)"),
        Measure("nll_mean", "NLL\n(nats/token)"),
    )
    require(generalized, ("spike_def_id", "target_rate", "g_condition", *(m.column for m in measures)), "F06")
    names, levels = definitions(generalized), rates(generalized)
    grid = small_multiples([0.95] * len(measures), len(names))
    for row, measure in enumerate(measures):
        for axes, name in zip(grid.axes[row], names, strict=True):
            reference(axes, measure.reference)
            pairs = [_pair(select(generalized, name, rate), measure.column) for rate in levels]
            for index, pair in enumerate(pairs):
                look = series(index)
                axes.plot((0, 1), pair, color=look.color, marker=look.marker, linestyle=look.linestyle)
            missing = int(np.isnan(pairs).sum())
            heading(axes, "" if row else definition_name(name), missing, 2 * len(pairs))
            axes.set_xticks((0, 1), labels=_LABELS)
            axes.set_xlim(-0.35, 1.35)
        few_ticks(grid.axes[row][0].yaxis)
        grid.axes[row][0].set_ylabel(measure.label)
    grid.figure.supxlabel("gain condition on data set B")
    legend_above(grid.figure, rate_handles(levels), columns=4, title=RATE_TITLE)
    return grid.figure


@styled
def arc_accuracy(arc: pd.DataFrame, *, chance: float) -> Figure:
    """F07: accuracy at g = 1 and g* with intervals and chance (top), the paired difference (bottom).

    `chance` is the mean over questions of one over the number of choices.
    """
    needed = ("g_condition", "accuracy", "accuracy_ci_low", "accuracy_ci_high", "n_questions")
    require(arc, ("spike_def_id", "target_rate", *needed), "F07")
    names, levels = definitions(arc), rates(arc)
    grid = small_multiples([1.4, 1.1], len(names))
    for column, name in enumerate(names):
        chosen = arc[arc["spike_def_id"] == name]
        top, bottom = grid.axes[0][column], grid.axes[1][column]
        top.axhline(chance, color=_CHANCE.color, linestyle=_CHANCE.linestyle)
        missing = sum(
            _points(top, chosen[chosen["g_condition"] == condition], levels, "accuracy", place)
            for place, condition in enumerate(CONDITIONS)
        )
        questions = ", ".join(str(count) for count in sorted(set(chosen["n_questions"].tolist())))
        heading(top, f"{definition_name(name)}\n{questions} questions", missing, 2 * len(levels))
        reference(bottom, 0.0)
        selected = chosen[chosen["g_condition"] == CONDITIONS[1]]
        missing = _points(bottom, selected, levels, "opt_delta_accuracy", None)
        heading(bottom, "", missing, len(levels))
        bottom.set_xticks(range(len(levels)), labels=[scientific(rate) for rate in levels], rotation=45, ha="right")
        bottom.set_xlim(-0.6, len(levels) - 0.4)
    for row in grid.axes:
        few_ticks(row[0].yaxis)
    grid.axes[0][0].set_ylabel("accuracy\n(share of questions)")
    grid.axes[1][0].set_ylabel("$g$* minus $g$ = 1\n(share of questions)")
    grid.figure.supxlabel(RATE_TITLE)
    handles = [line_handle(look, label) for look, label in zip(_LOOKS, _LABELS, strict=True)]
    lines = [line_handle(_CHANCE, f"chance {chance:.3g}"), line_handle(_ZERO, "no difference")]
    legend_above(grid.figure, [*handles, *lines], columns=2)
    return grid.figure


def _pair(rows: pd.DataFrame, column: str) -> tuple[float, float]:
    """The value of one condition at g1 and at gstar; NaN where the row is absent."""
    found = rows.set_index("g_condition")[column]
    return float(found.get(CONDITIONS[0], np.nan)), float(found.get(CONDITIONS[1], np.nan))


def _points(axes: Axes, rows: pd.DataFrame, levels: Sequence[float], name: str, place: int | None) -> int:
    """Dots with intervals by target rate, the two gains set apart; the number of missing values."""
    look = _LOOKS[1 if place is None else place]
    ordered = rows.set_index("target_rate").reindex(list(levels))
    x = np.arange(len(levels)) + (0.0 if place is None else 0.3 * (place - 0.5))
    centre = values(ordered, name)
    low, high = (np.where(np.isnan(centre), np.nan, values(ordered, f"{name}_ci_{end}")) for end in _ENDS)
    axes.vlines(x, low, high, color=look.color)
    axes.plot(x, centre, look.marker, color=look.color)
    return int(np.isnan(centre).sum())
