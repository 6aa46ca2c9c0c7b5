"""F01: the raster of one sequence, layer by token, its connected components coloured.

    X[layer, token] = 1 where at least one unit of the layer has an activation event at that token

The largest components by sites have a colour each, every other occupied site is grey, silent sites are
white (specs 07, 19). Input is one row per occupied site: layer, token, component (a label from 1).
"""

from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Int
from matplotlib.artist import Artist
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from avalanche_llm.errors import SchemaError
from avalanche_llm.plotting.fig_panels import legend_above, say
from avalanche_llm.plotting.style import GREY, new_figure, series, styled

_COLORS: Final = tuple(series(place).color for place in range(6))
_SILENT: Final = "#FFFFFF"


def raster_rows(labels: Int[np.ndarray, "layer token"]) -> pd.DataFrame:
    """One row per occupied site of a labelled raster (0 silent): layer, token, component."""
    layers, tokens = np.nonzero(labels)
    return pd.DataFrame({"layer": layers, "token": tokens, "component": labels[layers, tokens]})


@styled
def raster_example(sites: pd.DataFrame, *, n_layers: int, n_tokens: int) -> Figure:
    """F01 from the occupied sites of one sequence. Ties in size go to the lower label.

    Raises SchemaError for a missing column or a site outside the raster. A silent raster gives an empty
    panel that says so.
    """
    for name in ("layer", "token", "component"):
        if name not in sites:
            raise SchemaError(f"F01 needs the column {name}, found {', '.join(map(str, sites.columns))}")
    layers, tokens = sites["layer"].to_numpy(dtype=np.int64), sites["token"].to_numpy(dtype=np.int64)
    if ((layers < 0) | (layers >= n_layers) | (tokens < 0) | (tokens >= n_tokens)).any():
        raise SchemaError(f"F01: a site lies outside the raster of {n_layers} layers and {n_tokens} tokens")
    sizes = sites["component"].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    colour_of = {label: place + 2 for place, label in enumerate(sizes.index[: len(_COLORS)])}
    image = np.zeros((n_layers, n_tokens), dtype=np.uint8)
    image[layers, tokens] = sites["component"].map(colour_of).fillna(1).to_numpy(dtype=np.uint8)

    figure = new_figure(2.6)
    axes = figure.subplots()
    axes.imshow(
        image,
        cmap=ListedColormap([_SILENT, GREY, *_COLORS]),
        vmin=-0.5,
        vmax=len(_COLORS) + 1.5,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    axes.grid(visible=False)
    axes.set_xlabel("token position (tokens)")
    axes.set_ylabel("layer (index)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
    occupancy = len(sites) / (n_layers * n_tokens)
    axes.set_title(f"{len(sizes)} components, {len(sites)} occupied sites, occupancy {occupancy:.3f}")
    if sizes.empty:
        say(axes, "no activation event in this sequence")
        return figure
    handles: list[Artist] = [
        Patch(facecolor=colour, label=f"{size} sites") for colour, size in zip(_COLORS, sizes.tolist(), strict=False)
    ]
    rest = len(sizes) - len(handles)
    if rest:
        handles.append(Patch(facecolor=GREY, label=f"{rest} smaller"))
    legend_above(figure, handles, columns=4, title="components, largest first", handle_length=1.0)
    return figure
