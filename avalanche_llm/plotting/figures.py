"""The eleven figures by canonical id: tables in, a `Figure` out; `style.save` makes the files (spec 19)."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from matplotlib.figure import Figure

from avalanche_llm.plotting.fig_ablations import ablations
from avalanche_llm.plotting.fig_branching import branching_curves, spike_definitions
from avalanche_llm.plotting.fig_gstar import gstar_selection
from avalanche_llm.plotting.fig_nulls import null_compare, null_delta_b
from avalanche_llm.plotting.fig_raster import raster_example, raster_rows
from avalanche_llm.plotting.fig_rates import rate_match
from avalanche_llm.plotting.fig_susceptibility import chi_curves
from avalanche_llm.plotting.fig_tasks import arc_accuracy, generalization
from avalanche_llm.plotting.style import FigureFiles, Provenance, provenance_of, save

__all__ = [
    "FIGURES",
    "FigureFiles",
    "Provenance",
    "ablations",
    "arc_accuracy",
    "branching_curves",
    "chi_curves",
    "generalization",
    "gstar_selection",
    "null_compare",
    "null_delta_b",
    "provenance_of",
    "raster_example",
    "raster_rows",
    "rate_match",
    "save",
    "spike_definitions",
]

FIGURES: Final[Mapping[str, Callable[..., Figure]]] = MappingProxyType(
    {
        "F01_RASTER_EXAMPLE": raster_example,  # (sites, *, n_layers, n_tokens)
        "F02_RATE_MATCH_CHECK": rate_match,  # (T01, *, relative_tolerance)
        "F03_BRANCHING_CURVES": branching_curves,  # (T01)
        "F04_NULL_DELTAB": null_delta_b,  # (T01)
        "F05_GSTAR_SELECTION": gstar_selection,  # (T01, gstar, *, method)
        "F06_GENERALIZATION_B": generalization,  # (T02)
        "F07_ARC_MCQ": arc_accuracy,  # (T03, *, chance)
        "F08_SPIKEDEF_ROBUST": spike_definitions,  # (T01)
        "F09_CHI_CURVES": chi_curves,  # (T01, gstar, *, alignment_max)
        "F10_NULL_COMPARE": null_compare,  # (nulls, gstar=None)
        "F11_ABLATIONS": ablations,  # (T06)
    }
)
