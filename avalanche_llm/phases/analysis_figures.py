"""The figures of phase 5, each from tables alone (SCIENCE section 8; spec 19)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import read_npz
from avalanche_llm.metrics.gstar import shown_first
from avalanche_llm.phases.analysis_inputs import AnalysisInputs
from avalanche_llm.plotting import figures
from avalanche_llm.plotting.export import export_figure
from avalanche_llm.plotting.style import Provenance, provenance_of
from avalanche_llm.raster.cc import label_components
from avalanche_llm.settings import GstarMethod, Settings


@dataclass(frozen=True)
class AnalysisFrames:
    """What the figures are drawn from: T01, T06, the selections, the null comparison, and one labelled raster."""

    summary: pd.DataFrame
    ablations: pd.DataFrame
    gstar: pd.DataFrame
    nulls: pd.DataFrame
    example: np.ndarray
    example_of: dict[str, Any]
    method: GstarMethod

    @classmethod
    def of(cls, inputs: AnalysisInputs, summary: pd.DataFrame, ablations: pd.DataFrame) -> "AnalysisFrames":
        """The example is the first held-out sequence at g* of the cell that fits the rule best."""
        method = inputs.job.settings.pipeline.gstar_method
        shown = shown_first(inputs.gstar.to_dict("records"), method)
        condition = next(
            condition
            for condition in inputs.conditions
            if condition.g_condition == "gstar" and condition.cell == (shown["spike_def_id"], shown["target_rate"])
        )
        x = read_npz(inputs.s03.artifact("rasters_token_layer"), {"X": 4})["X"][condition.cond_id, :1]
        example = label_components(x, "ADJ_4N").labels[0]
        return cls(summary, ablations, inputs.gstar, inputs.nulls, example, condition.columns(), method)


def export_figures(run: Run, settings: Settings, frames: AnalysisFrames) -> None:
    """Draw and write F01 to F05 and F08 to F11."""
    summary, whole = frames.summary, provenance_of(frames.summary)
    n_layers, n_tokens = frames.example.shape
    tolerance, alignment = settings.events.rate_match_tol_rel, settings.statistics.signature_alignment_g_diff_max
    example = partial(figures.raster_example, figures.raster_rows(frames.example), n_layers=n_layers, n_tokens=n_tokens)
    export_figure(run, "F01_RASTER_EXAMPLE", example, _of_one(whole, frames.example_of))
    of_summary = {
        "F02_RATE_MATCH_CHECK": partial(figures.rate_match, summary, relative_tolerance=tolerance),
        "F03_BRANCHING_CURVES": partial(figures.branching_curves, summary),
        "F04_NULL_DELTAB": partial(figures.null_delta_b, summary),
        "F05_GSTAR_SELECTION": partial(figures.gstar_selection, summary, frames.gstar, method=frames.method),
        "F08_SPIKEDEF_ROBUST": partial(figures.spike_definitions, summary),
        "F09_CHI_CURVES": partial(figures.chi_curves, summary, frames.gstar, alignment_max=alignment),
        "F10_NULL_COMPARE": partial(figures.null_compare, frames.nulls, frames.gstar),
    }
    for figure_id, draw in of_summary.items():
        export_figure(run, figure_id, draw, whole)
    export_figure(run, "F11_ABLATIONS", partial(figures.ablations, frames.ablations), provenance_of(frames.ablations))


def _of_one(whole: Provenance, condition: dict[str, Any]) -> Provenance:
    """The provenance of a figure that shows a single condition."""
    return Provenance(
        run_id=whole.run_id,
        model_id=whole.model_id,
        dataset_role=whole.dataset_role,
        spike_def_id=condition["spike_def_id"],
        target_rate=str(condition["target_rate"]),
        g=str(condition["g"]),
        config_hash=whole.config_hash,
    )
