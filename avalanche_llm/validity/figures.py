"""The figures of the validity report, from its tables alone; the same tables give the same bytes."""

import hashlib
from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from avalanche_llm.plotting.fig_dots import Dot, dot_panel
from avalanche_llm.plotting.fig_panels import legend_above, line_handle
from avalanche_llm.plotting.style import BLACK, GREY, Provenance, Series, new_figure, save, series, styled
from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, COMMON_SHIFT, MARGIN_SWAP, PERMUTATION
from avalanche_llm.validity.results import Tables

COVERAGE_GOAL: Final = (0.92, 0.98)
NULL_NAMES: Final[Mapping[str, str]] = {
    PERMUTATION: "permutation",
    CIRCULAR_SHIFT: "circular shift",
    MARGIN_SWAP: "margin swap",
    COMMON_SHIFT: "common shift",
}
_MEASURES: Final = (("b_tot", "$b_\\mathrm{tot}$"), ("delta_b_tot", "$\\Delta b_\\mathrm{tot}$"), ("chi", "$\\chi$"))
_MATH: Final[Mapping[str, str]] = {"b_tot": "$b_\\mathrm{tot}$", "b_depth": "$b_\\mathrm{depth}$"}


def figure_files(tables: Tables, results: bytes) -> dict[str, bytes]:
    """PNG bytes by file name; `results` is the JSON behind the tables, named in each file by its hash."""
    unused = "not applicable"
    provenance = Provenance(
        run_id="validity",
        model_id="simulators of known truth",
        dataset_role=unused,
        spike_def_id=unused,
        target_rate=unused,
        g=unused,
        config_hash=hashlib.sha256(results).hexdigest(),
    )
    drawn = {
        "coverage": coverage_figure(tables["intervals"]),
        "p_values": p_value_figure(tables["nulls"]),
        "surrogates": surrogate_figure(tables["surrogates"]),
        "memory": memory_figure(tables["memory"]),
        "exponents": exponent_figure(tables["growth"], tables["tails"]),
    }
    return {f"validity_{name}.png": save(figure, provenance).png for name, figure in drawn.items()}


@styled
def coverage_figure(intervals: pd.DataFrame) -> Figure:
    """Coverage of 95 % intervals by process and number of sequences; the grey band is the goal."""
    names, numbers = _names(intervals), sorted(set(intervals["n_sequences"]))
    figure = new_figure(4.0)
    panels = figure.subplots(1, len(_MEASURES), sharey=True)
    for axes, (measure, label) in zip(panels, _MEASURES, strict=True):
        axes.axvspan(*COVERAGE_GOAL, color=GREY, alpha=0.25, linewidth=0)
        rows = intervals[intervals["measure"] == measure]
        dots = [
            Dot(
                names.index(row.scenario),
                numbers.index(row.n_sequences),
                row.coverage,
                row.coverage_low,
                row.coverage_high,
            )
            for row in rows.itertuples()
        ]
        dot_panel(axes, names, dots, len(numbers))
        axes.set_title(label)
    figure.supxlabel("intervals that contain the truth (share of repetitions)")
    legend_above(figure, [_dot_handle(i, f"{n} sequences") for i, n in enumerate(numbers)], columns=3)
    return figure


@styled
def p_value_figure(nulls: pd.DataFrame) -> Figure:
    """Distribution of p where the null is true: on the diagonal it is uniform, above it there are too many small p."""
    names = [name for name in _names(nulls) if nulls[(nulls["scenario"] == name) & nulls["holds"]].shape[0]]
    figure = new_figure(2.5)
    panels = figure.subplots(1, 3, sharey=True)
    chosen = ((PERMUTATION, "b_tot"), (CIRCULAR_SHIFT, "b_tot"), (CIRCULAR_SHIFT, "b_depth"))
    for axes, (null_id, statistic) in zip(panels, chosen, strict=True):
        axes.plot([0, 1], [0, 1], color=BLACK, linewidth=0.6, zorder=1)
        rows = nulls[(nulls["null_id"] == null_id) & (nulls["statistic"] == statistic) & nulls["holds"]]
        for row in rows.itertuples():
            counts = np.asarray(row.p_counts)
            look = series(names.index(row.scenario))
            edges = np.linspace(0.0, 1.0, len(counts) + 1)
            share = np.append(0.0, counts.cumsum() / counts.sum())
            axes.plot(edges, share, color=look.color, linestyle=look.linestyle)
        axes.set_title(f"{NULL_NAMES[null_id]},\n{_MATH[statistic]}")
        axes.set_xticks([0.0, 0.5, 1.0], labels=["0", "0.5", "1"])
        axes.set_aspect("equal")
    figure.supxlabel("p")
    panels[0].set_ylabel("share at most p")
    lines = [series(i) for i in range(len(names))]
    handles = [line_handle(Series(look.color, "", look.linestyle), name) for look, name in zip(lines, names, strict=True)]
    legend_above(figure, handles, columns=3)
    return figure


@styled
def surrogate_figure(surrogates: pd.DataFrame) -> Figure:
    """Excess b_tot over every surrogate, and how often it is called structure."""
    names, nulls = _names(surrogates), list(dict.fromkeys(surrogates["null_id"]))
    figure = new_figure(3.4)
    excess, rejected = figure.subplots(1, 2, sharey=True)
    rows = list(surrogates.itertuples())
    place = [(names.index(row.scenario), nulls.index(row.null_id)) for row in rows]
    for axes in (excess, rejected):
        axes.axvline(0.05 if axes is rejected else 0.0, color=GREY, linewidth=0.8, zorder=1)
    dot_panel(excess, names, [Dot(*at, row.excess) for at, row in zip(place, rows, strict=True)], len(nulls))
    shares = [
        Dot(*at, row.rejected, row.rejected_low, row.rejected_high) for at, row in zip(place, rows, strict=True)
    ]
    dot_panel(rejected, names, shares, len(nulls))
    excess.set_xlabel("excess $b_\\mathrm{tot}$ (pairs/site)")
    rejected.set_xlabel("called structure\n(share of repetitions)")
    legend_above(figure, [_dot_handle(i, NULL_NAMES[null_id]) for i, null_id in enumerate(nulls)], columns=2)
    return figure


@styled
def memory_figure(memory: pd.DataFrame) -> Figure:
    """m by multistep regression and by one step, with the truth where there is one."""
    rows = list(memory.itertuples())
    figure = new_figure(3.6)
    axes = figure.subplots()
    dots = []
    for place, row in enumerate(rows):
        dots.append(Dot(place, 0, row.mean, row.mean - row.sd, row.mean + row.sd))
        dots.append(Dot(place, 1, row.one_step))
    partly = [f", seen {row.seen:g}" if row.scenario.startswith("branching") else "" for row in rows]
    dot_panel(axes, [row.scenario + text for row, text in zip(rows, partly, strict=True)], dots, 2)
    _truths(axes, memory)
    axes.set_xlabel("$m$ per token (bar: one sd of repetitions)")
    names = ("multistep regression", "one-step slope")
    legend_above(figure, [_truth_handle(), *(_dot_handle(i, name) for i, name in enumerate(names))], columns=3)
    return figure


@styled
def exponent_figure(growth: pd.DataFrame, tails: pd.DataFrame) -> Figure:
    """gamma and the tail exponent, mean and standard deviation over repetitions, with the truth where there is one."""
    figure = new_figure(4.6)
    above, below = figure.subplots(2, 1, height_ratios=[len(growth), len(tails)])
    by_number = [f"{row.scenario}, {row.n_sequences} seq." for row in growth.itertuples()]
    panels = ((above, growth, by_number, "$\\gamma$"), (below, tails, tails["scenario"].tolist(), "tail exponent $\\alpha$"))
    for axes, frame, names, label in panels:
        rows = enumerate(frame.itertuples())
        dot_panel(axes, names, [Dot(place, 0, row.mean, row.mean - row.sd, row.mean + row.sd) for place, row in rows], 1)
        _truths(axes, frame)
        axes.set_xlabel(label)
    legend_above(figure, [_truth_handle(), _dot_handle(0, "estimate, one sd of repetitions")], columns=2)
    return figure


def _truths(axes: Axes, frame: pd.DataFrame) -> None:
    """A black tick at the truth of every row."""
    axes.plot(frame["truth"], range(len(frame)), marker="|", markersize=7.0, color=BLACK, linestyle="", zorder=1)


def _names(frame: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(frame["scenario"].tolist()))


def _dot_handle(index: int, label: str) -> Line2D:
    look = series(index)
    return line_handle(Series(look.color, look.marker, ""), label)


def _truth_handle() -> Line2D:
    return Line2D([], [], marker="|", markersize=7.0, color=BLACK, linestyle="", label="truth")
