"""The figures of the validity report, from its results alone; the same results give the same bytes."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from avalanche_llm.plotting.fig_dots import Dot, dot_panel
from avalanche_llm.plotting.fig_panels import legend_above, line_handle
from avalanche_llm.plotting.style import BLACK, GREY, Provenance, Series, new_figure, save, series, styled
from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, PERMUTATION
from avalanche_llm.validity.branching_study import LEVEL, IntervalRow, NullRow
from avalanche_llm.validity.exponent_study import GrowthRow, TailRow
from avalanche_llm.validity.goals import COVERAGE, MOSTLY
from avalanche_llm.validity.markup import NULL_NAMES
from avalanche_llm.validity.memory_study import MemoryRow
from avalanche_llm.validity.results import Results, scenarios_of
from avalanche_llm.validity.surrogate_study import SurrogateRow

_Estimated = MemoryRow | GrowthRow | TailRow
_MATH: Final[Mapping[str, str]] = {
    "b_tot": "$b_\\mathrm{tot}$",
    "b_depth": "$b_\\mathrm{depth}$",
    "delta_b_tot": "$\\Delta b_\\mathrm{tot}$",
    "chi": "$\\chi$",
}


def figure_files(results: Results, data: bytes) -> dict[str, bytes]:
    """PNG bytes by file name; `data` is the JSON of the results, named in each file by its hash."""
    unused = "not applicable"
    provenance = Provenance(
        run_id="validity",
        model_id="simulators of known truth",
        dataset_role=unused,
        spike_def_id=unused,
        target_rate=unused,
        g=unused,
        config_hash=hashlib.sha256(data).hexdigest(),
    )
    drawn = {
        "coverage": coverage_figure(results.intervals),
        "p_values": p_value_figure(results.nulls),
        "surrogates": surrogate_figure(results.surrogates),
        "memory": memory_figure(results.memory),
        "exponents": exponent_figure(results.growth, results.tails),
    }
    return {f"validity_{name}.png": save(figure, provenance).png for name, figure in drawn.items()}


@styled
def coverage_figure(rows: Sequence[IntervalRow]) -> Figure:
    """Coverage of 95 % intervals by process and number of sequences, where they are mostly given; the grey band is the goal."""
    names, numbers = scenarios_of(rows), sorted({row.n_sequences for row in rows})
    figure = new_figure(4.0)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, measure in zip(panels, ("b_tot", "delta_b_tot", "chi"), strict=True):
        axes.axvspan(*COVERAGE, color=GREY, alpha=0.25, linewidth=0)
        dots = [
            Dot(
                names.index(row.scenario),
                numbers.index(row.n_sequences),
                *(row.coverage.value, row.coverage.low, row.coverage.high),
            )
            for row in rows
            if row.measure == measure and row.coverage is not None and row.given.value >= MOSTLY
        ]
        dot_panel(axes, names, dots, len(numbers))
        axes.set_title(_MATH[measure])
        axes.xaxis.set_major_locator(MaxNLocator(3))
    figure.supxlabel("intervals that contain the truth (share of repetitions)")
    legend_above(figure, [_dot_handle(i, f"{n} sequences") for i, n in enumerate(numbers)], columns=3)
    return figure


@styled
def p_value_figure(rows: Sequence[NullRow]) -> Figure:
    """Distribution of p where the null is true: on the diagonal it is uniform, above it there are too many small p."""
    true_of = [row for row in rows if row.holds]
    names = scenarios_of(true_of)
    figure = new_figure(2.3)
    panels = figure.subplots(1, 3, sharey=True)
    chosen = ((PERMUTATION, "b_tot"), (CIRCULAR_SHIFT, "b_tot"), (CIRCULAR_SHIFT, "b_depth"))
    for axes, (null_id, statistic) in zip(panels, chosen, strict=True):
        axes.plot([0, 1], [0, 1], color=BLACK, linewidth=0.6, zorder=1)
        for row in true_of:
            if (row.null_id, row.statistic) == (null_id, statistic):
                look, counts = series(names.index(row.scenario)), np.asarray(row.p_counts)
                share = np.append(0.0, counts.cumsum() / counts.sum())
                axes.plot(np.linspace(0.0, 1.0, len(share)), share, color=look.color, linestyle=look.linestyle)
        axes.set_title(f"{NULL_NAMES[null_id]},\n{_MATH[statistic]}")
        axes.set_xticks([0.0, 0.5, 1.0], labels=["0", "0.5", "1"])
    panels[1].set_xlabel("$p$")
    panels[0].set_ylabel("share at most $p$")
    looks = [series(index) for index in range(len(names))]
    handles = [line_handle(Series(look.color, "", look.linestyle), name) for look, name in zip(looks, names, strict=True)]
    legend_above(figure, handles, columns=3)
    return figure


@styled
def surrogate_figure(rows: Sequence[SurrogateRow]) -> Figure:
    """Excess b_tot over every surrogate, and how often it is called structure."""
    names, ids = scenarios_of(rows), list(dict.fromkeys(row.null_id for row in rows))
    places = [(names.index(row.scenario), ids.index(row.null_id)) for row in rows]
    excess = [Dot(*place, row.excess) for place, row in zip(places, rows, strict=True)]
    shares = [(row.rejected.value, row.rejected.low, row.rejected.high) for row in rows]
    rejected = [Dot(*place, *share) for place, share in zip(places, shares, strict=True)]
    figure = new_figure(3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, dots, mark, label in (
        (left, excess, 0.0, "excess $b_\\mathrm{tot}$ (pairs/site)"),
        (right, rejected, LEVEL, "called structure\n(share of repetitions)"),
    ):
        axes.axvline(mark, color=GREY, linewidth=0.8, zorder=1)
        dot_panel(axes, names, dots, len(ids))
        axes.set_xlabel(label)
    legend_above(figure, [_dot_handle(i, NULL_NAMES[null_id]) for i, null_id in enumerate(ids)], columns=2)
    return figure


@styled
def memory_figure(rows: Sequence[MemoryRow]) -> Figure:
    """m by multistep regression and by one step, with the truth where there is one."""
    figure = new_figure(3.6)
    axes = figure.subplots()
    one_step = [Dot(place, 1, row.one_step) for place, row in enumerate(rows)]
    names = [f"{row.scenario}, {row.seen:g} seen" if row.seen < 1.0 else row.scenario for row in rows]
    dot_panel(axes, names, [*_estimates(rows), *one_step], 2)
    _mark_truths(axes, rows)
    axes.set_xlabel("$m$ per token")
    handles = [_truth_handle(), _dot_handle(0, "multistep (one sd)"), _dot_handle(1, "one-step slope")]
    legend_above(figure, handles, columns=3)
    return figure


@styled
def exponent_figure(growth: Sequence[GrowthRow], tails: Sequence[TailRow]) -> Figure:
    """gamma and the tail exponent, mean and standard deviation over repetitions, with the truth where there is one."""
    figure = new_figure(4.6)
    above, below = figure.subplots(2, 1, height_ratios=[len(growth), len(tails)])
    by_number = [f"{row.scenario}, {row.n_sequences} seq." for row in growth]
    dot_panel(above, by_number, _estimates(growth), 1)
    dot_panel(below, [row.scenario for row in tails], _estimates(tails), 1)
    _mark_truths(above, growth)
    _mark_truths(below, tails)
    above.set_xlabel("$\\gamma$")
    below.set_xlabel("tail exponent $\\alpha$")
    legend_above(figure, [_truth_handle(), _dot_handle(0, "estimate (one sd)")], columns=2)
    return figure


def _estimates(rows: Sequence[_Estimated]) -> list[Dot]:
    """The mean of every row with one standard deviation to either side."""
    return [Dot(place, 0, row.mean, row.mean - row.sd, row.mean + row.sd) for place, row in enumerate(rows)]


def _mark_truths(axes: Axes, rows: Sequence[_Estimated]) -> None:
    """A black tick at the truth of every row."""
    axes.plot([row.truth for row in rows], range(len(rows)), marker="|", markersize=7.0, color=BLACK, linestyle="", zorder=1)


def _truth_handle() -> Line2D:
    return Line2D([], [], marker="|", markersize=7.0, color=BLACK, linestyle="", label="truth")


def _dot_handle(index: int, label: str) -> Line2D:
    look = series(index)
    return line_handle(Series(look.color, look.marker, ""), label)
