"""F04 and F10: branching over its null expectations.

    delta_b_tot = b_tot - E[b_tot | null]

The permutation null keeps each layer's count, the circular shift also keeps its order in time, the margin
swap keeps row and column sums, the common shift moves all layers together (a positive control), and the
token shuffle reorders the model's input (specs 10, 19). F04 takes T01; F10 a tidy frame with the columns
null_id, spike_def_id, target_rate, g, b_tot, delta_b_tot, where NULL_NONE holds the observed raster.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from avalanche_llm.plotting.fig_dots import Dot, dot_panel
from avalanche_llm.plotting.fig_panels import (
    GAIN_LABEL,
    GAIN_TOLERANCE,
    RATE_TITLE,
    Measure,
    band_handle,
    curve_rows,
    definition_name,
    definitions,
    heading,
    legend_above,
    line_handle,
    rate_handles,
    rates,
    require,
    select,
    small_multiples,
)
from avalanche_llm.plotting.style import BLACK, GREY, Series, styled

OBSERVED: Final = "NULL_NONE"
_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        OBSERVED: "observed",
        "NULL_RASTER_WITHIN_LAYER_TIME_PERM": "permutation",
        "NULL_RASTER_WITHIN_LAYER_TIME_CIRC_SHIFT": "circular shift",
        "NULL_RASTER_MARGIN_SWAP": "margin swap",
        "NULL_RASTER_COMMON_CIRC_SHIFT": "common shift",
        "NULL_TOKEN_SHUFFLE_INPUT": "token shuffle",
    }
)


@styled
def null_delta_b(summary: pd.DataFrame) -> Figure:
    """F04: b_tot over the permutation null, b_depth over the circular-shift null (rows), with intervals."""
    measures = [Measure("delta_b_tot", "over permutation:\n$\\Delta b_\\mathrm{tot}$ (pairs/site)", 0.0)]
    if "opt_delta_b_depth_shift" in summary:
        label = "over circular shift:\n$\\Delta b_\\mathrm{depth}$ (pairs/site)"
        measures.append(Measure("opt_delta_b_depth_shift", label, 0.0, hollow=True))
    grid = curve_rows(summary, measures, 1.5, "F04")
    grid.figure.supxlabel(GAIN_LABEL)
    handles = [*rate_handles(rates(summary)), band_handle(), line_handle(Series(GREY, "", "-"), "no excess")]
    legend_above(grid.figure, handles, columns=3, title=RATE_TITLE)
    return grid.figure


@styled
def null_compare(nulls: pd.DataFrame, gstar: pd.DataFrame | None = None) -> Figure:
    """F10: b_tot of the observed raster and of every null, and the excess over each null.

    A marker is the value at g* (`gstar`: spike_def_id, target_rate, gstar; without it, at the gain nearest
    1); hollow where a null was not measured there and its nearest gain stands in. A thin line spans all
    gains.
    """
    require(nulls, ("null_id", "spike_def_id", "target_rate", "g", "b_tot", "delta_b_tot"), "F10")
    names, levels = definitions(nulls), rates(nulls)
    present = [str(null_id) for null_id in dict.fromkeys(nulls["null_id"].tolist())]
    everything = [null_id for null_id in _NAMES if null_id in present]
    everything += [null_id for null_id in present if null_id not in _NAMES]
    panels = (
        (everything, "b_tot", "$b_\\mathrm{tot}$ (pairs/site)", 1.0),
        (
            [null for null in everything if null != OBSERVED],
            "delta_b_tot",
            "$b_\\mathrm{tot}$ over null (pairs/site)",
            0.0,
        ),
    )
    grid = small_multiples([0.32 * len(ids) for ids, *_ in panels], len(names), share_x="row")
    for row, (ids, column, label, compare) in enumerate(panels):
        for axes, name in zip(grid.axes[row], names, strict=True):
            dots = [
                _dot(
                    select(nulls[nulls["null_id"] == null_id], name, rate),
                    column,
                    _wanted_gain(gstar, name, rate),
                    place,
                    index,
                )
                for place, null_id in enumerate(ids)
                for index, rate in enumerate(levels)
            ]
            missing = dot_panel(axes, [_NAMES.get(null_id, null_id) for null_id in ids], dots, len(levels))
            axes.axvline(compare, color=GREY, linewidth=0.8, zorder=1)
            axes.set_xlabel(label)
            heading(axes, "" if row else definition_name(name), missing, len(dots))
    span = line_handle(Series(BLACK, "", "-"), "range over gains")
    at = "$g$*" if gstar is not None else "gain nearest 1"
    stand_in = line_handle(Series(BLACK, "o", ""), f"not at {at}", hollow=True)
    legend_above(grid.figure, [*rate_handles(levels, lines=False), span, stand_in], columns=3, title=RATE_TITLE)
    return grid.figure


def _wanted_gain(gstar: pd.DataFrame | None, name: str, rate: float) -> float:
    """g* of a condition, or 1 where there is none."""
    if gstar is None:
        return 1.0
    selected = select(gstar, name, rate)["gstar"].dropna()
    return float(selected.iloc[0]) if len(selected) else 1.0


def _dot(rows: pd.DataFrame, column: str, wanted: float, place: int, index: int) -> Dot:
    """The value of one null in one condition at the wanted gain, and its range over all gains."""
    measured = rows[rows[column].notna()]
    if measured.empty:
        return Dot(place, index)
    distance = np.abs(measured["g"].to_numpy(dtype=np.float64) - wanted)
    nearest = int(distance.argmin())
    return Dot(
        place,
        index,
        value=float(measured[column].iloc[nearest]),
        low=float(measured[column].min()),
        high=float(measured[column].max()),
        hollow=bool(distance[nearest] > GAIN_TOLERANCE),
    )
