"""F06 and F07: what the selected gain does to data it was not selected on.

F06 (from T02): b_tot, its excess over the permutation null, chi and the negative log-likelihood on data set
B, g = 1 against g*, paired by condition, and below each its change with the paired interval. F07 (from T03):
ARC accuracy by label and by full answer with intervals and chance, and below each the paired difference. Lines
join the two gains of one condition (spec 19); no task number enters the choice of g*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any, Final

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

Values = np.ndarray[Any, np.dtype[np.float64]]
CONDITIONS: Final = ("g1", "gstar")
_LABELS: Final = ("$g$ = 1", "$g$*")
_LOOKS: Final = (Series("#0072B2", "o", ""), Series("#D55E00", "s", ""))
_ENDS: Final = ("low", "high")
_ON_B: Final = (
    Measure("b_tot", "$b_\\mathrm{tot}$\n(pairs/site)", 1.0),
    Measure("delta_b_tot", "$\\Delta b_\\mathrm{tot}$\n(pairs/site)", 0.0),
    Measure("chi", "$\\chi$\n(events)"),
    Measure("nll_mean", "NLL\n(nats/token)"),
)


@dataclass(frozen=True)
class _Score:
    """One way to score the choices: its accuracy, and the paired change of it."""

    column: str
    change: str
    label: str


_SCORES: Final = (
    _Score("accuracy", "opt_delta_accuracy", "accuracy\nby label"),
    _Score("opt_acc_cloze", "opt_delta_acc_cloze", "accuracy\nby full answer"),
)
_CHANCE: Final = Series(GREY, "", (0, (3.0, 2.0)))
_ZERO: Final = Series(GREY, "", "-")


@styled
def generalization(generalized: pd.DataFrame) -> Figure:
    """F06: each condition at g = 1 and at g* on data set B, joined by a line; below each measure its paired change.

    The level's intervals hold what sequences differ by, the change's do not: it is drawn from 0 at g = 1, with the paired
    interval at g*.
    """
    require(generalized, ("spike_def_id", "target_rate", "g_condition", "g", *(m.column for m in _ON_B)), "F06")
    names, levels = definitions(generalized), rates(generalized)
    grid = small_multiples([0.72] * (2 * len(_ON_B)), len(names))
    for column, name in enumerate(names):
        chosen = [select(generalized, name, rate) for rate in levels]
        for row, measure in enumerate(_ON_B):
            level, change = grid.axes[2 * row][column], grid.axes[2 * row + 1][column]
            reference(level, measure.reference)
            reference(change, 0.0)
            missing = sum(_level(level, rows, measure.column, place, len(levels)) for place, rows in enumerate(chosen))
            heading(level, "" if row else f"{definition_name(name)}\n{_selected_gains(chosen)}", missing, 2 * len(levels))
            missing = sum(_change(change, rows, measure.column, place, len(levels)) for place, rows in enumerate(chosen))
            heading(change, "", missing, len(levels))
            level.set_xticks((0, 1), labels=_LABELS)
            level.set_xlim(-0.35, 1.35)
    for row, measure in enumerate(_ON_B):
        for axes, label in ((grid.axes[2 * row][0], measure.label), (grid.axes[2 * row + 1][0], _change_label(measure))):
            few_ticks(axes.yaxis)
            axes.set_ylabel(label)
    grid.figure.supxlabel("gain condition on data set B\nbars: 95% bootstrap intervals, paired for changes")
    legend_above(grid.figure, rate_handles(levels), columns=4, title=RATE_TITLE)
    return grid.figure


@styled
def arc_accuracy(arc: pd.DataFrame, *, chance: float) -> Figure:
    """F07: accuracy at g = 1 and g* with intervals and chance, below it the paired difference; by label, and by full answer.

    `chance` is the mean over questions of one over the number of choices.
    """
    needed = ("g_condition", "accuracy", "accuracy_ci_low", "accuracy_ci_high", "n_questions")
    require(arc, ("spike_def_id", "target_rate", *needed), "F07")
    names, levels = definitions(arc), rates(arc)
    scores = [score for score in _SCORES if score.column in arc]
    grid = small_multiples([1.2, 0.9] * len(scores), len(names))
    for column, name in enumerate(names):
        chosen = arc[arc["spike_def_id"] == name]
        selected = chosen[chosen["g_condition"] == CONDITIONS[1]]
        questions = ", ".join(str(count) for count in sorted(set(chosen["n_questions"].tolist())))
        for row, score in enumerate(scores):
            level, change = grid.axes[2 * row][column], grid.axes[2 * row + 1][column]
            level.axhline(chance, color=_CHANCE.color, linestyle=_CHANCE.linestyle)
            missing = sum(
                _points(level, chosen[chosen["g_condition"] == condition], levels, score.column, place)
                for place, condition in enumerate(CONDITIONS)
            )
            heading(level, "" if row else f"{definition_name(name)}\n{questions} questions", missing, 2 * len(levels))
            reference(change, 0.0)
            heading(change, "", _points(change, selected, levels, score.change, None), len(levels))
        change.set_xticks(range(len(levels)), labels=[scientific(rate) for rate in levels], rotation=45, ha="right")
        change.set_xlim(-0.6, len(levels) - 0.4)
    for row, score in enumerate(scores):
        for axes, label in ((grid.axes[2 * row][0], score.label), (grid.axes[2 * row + 1][0], "$g$* minus\n$g$ = 1")):
            few_ticks(axes.yaxis)
            axes.set_ylabel(label)
    grid.figure.supylabel("(share of questions)")
    grid.figure.supxlabel(f"{RATE_TITLE}\nbars: 95% bootstrap intervals, paired for differences")
    handles = [line_handle(look, label) for look, label in zip(_LOOKS, _LABELS, strict=True)]
    lines = [line_handle(_CHANCE, f"chance {chance:.3g}"), line_handle(_ZERO, "no difference")]
    legend_above(grid.figure, [*handles, *lines], columns=2)
    return grid.figure


def _level(axes: Axes, rows: pd.DataFrame, column: str, place: int, of: int) -> int:
    """One condition at g1 and at gstar with both intervals; the number of missing values."""
    both = rows.set_index("g_condition").reindex(list(CONDITIONS))
    centre, look = values(both, column), series(place)
    low, high = _interval(both, f"opt_{column}", centre)
    x = np.arange(2) + _dodge(place, of)
    axes.vlines(x, low, high, color=look.color, linewidth=0.8)
    axes.plot(x, centre, color=look.color, marker=look.marker, linestyle=look.linestyle)
    return int(np.isnan(centre).sum())


def _change(axes: Axes, rows: pd.DataFrame, column: str, place: int, of: int) -> int:
    """gstar minus g1 of one condition, from zero, with its paired interval; 1 where it is missing."""
    selected = rows[rows["g_condition"] == CONDITIONS[1]]
    name, look = f"opt_diff_{column}", series(place)
    centre = values(selected, name)
    low, high = _interval(selected, name, centre)
    x = _dodge(place, of)
    for end, *bar in zip(centre, low, high, strict=True):
        axes.plot((x, 1 + x), (0.0 * end, end), color=look.color, marker=look.marker, linestyle=look.linestyle, markevery=[1])
        axes.vlines(1 + x, *bar, color=look.color, linewidth=0.8)
    return int(np.isnan(centre).sum()) if len(centre) else 1


def _interval(rows: pd.DataFrame, name: str, centre: Values) -> tuple[Values, Values]:
    """Both ends of an interval, none where the value itself is missing."""
    low, high = (np.where(np.isnan(centre), np.nan, values(rows, f"{name}_ci_{end}")) for end in _ENDS)
    return low, high


def _dodge(place: int, of: int) -> float:
    """Sets series apart, so that bars at one gain condition do not cover each other."""
    return 0.44 * ((place + 0.5) / of - 0.5)


def _selected_gains(chosen: Sequence[pd.DataFrame]) -> str:
    """The g* of each condition in the order of the legend."""
    gains = [rows.loc[rows["g_condition"] == CONDITIONS[1], "g"].tolist() for rows in chosen]
    return fill("$g$*: " + ", ".join(f"{found[0]:g}" if found else "n/a" for found in gains), width=32)


def _change_label(measure: Measure) -> str:
    return f"change\n{measure.label.splitlines()[-1]}"


def _points(axes: Axes, rows: pd.DataFrame, levels: Sequence[float], name: str, place: int | None) -> int:
    """Dots with intervals by target rate, the two gains set apart; the number of missing values."""
    look = _LOOKS[1 if place is None else place]
    ordered = rows.set_index("target_rate").reindex(list(levels))
    x = np.arange(len(levels)) + (0.0 if place is None else 0.3 * (place - 0.5))
    centre = values(ordered, name)
    low, high = _interval(ordered, name, centre)
    axes.vlines(x, low, high, color=look.color)
    axes.plot(x, centre, look.marker, color=look.color)
    return int(np.isnan(centre).sum())
