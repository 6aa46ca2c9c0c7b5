"""Every figure from tables of realistic shape: drawn, labelled, stamped, byte-stable, and calm about gaps."""

import io
import os
import re
import subprocess
import sys
import textwrap
import warnings
import zlib
from collections.abc import Callable
from dataclasses import asdict
from functools import cache

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from scipy import ndimage

from avalanche_llm.canon import load_canon
from avalanche_llm.errors import SchemaError
from avalanche_llm.plotting import figures, style
from avalanche_llm.plotting.style import Provenance

DEFINITIONS = ("SPIKE_ONE_SIDED_POS", "SPIKE_TWO_SIDED_ABS")
RATES = (1e-5, 2e-5, 4e-5, 8e-5)
GAINS = (0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3)
INTERVENTIONS = ("MLP_GLOBAL", "ATTN_GLOBAL", "MLP_BAND_EARLY", "MLP_BAND_MID", "MLP_BAND_LATE")
PROVENANCE = Provenance(
    run_id="RUN_S05_9b8f2e0a1c3d",
    model_id="org/model (7B)",
    dataset_role="A",
    spike_def_id=",".join(DEFINITIONS),
    target_rate="1e-05,2e-05",
    g="0.7,1.0,1.3",
    config_hash="0" * 64,
)


def summary() -> pd.DataFrame:
    """T01's plotted columns; density, and with it b_tot, rises with the target rate."""
    rng = np.random.default_rng(11)
    rows = []
    for shift, definition in enumerate(DEFINITIONS):
        for level, rate in enumerate(RATES):
            for g in GAINS:
                p = 0.16 * (level + 1) + 0.1 * (1 - g) + 0.03 * shift
                time, depth = p + 0.06 + 0.1 * (g - 1), p + 0.10 - 0.15 * (g - 1) ** 2
                row: dict[str, float | str] = {
                    "run_id": PROVENANCE.run_id,
                    "model_id": PROVENANCE.model_id,
                    "dataset_role": "A",
                    "config_hash": PROVENANCE.config_hash,
                    "spike_def_id": definition,
                    "target_rate": rate,
                    "g": g,
                    "rate_match_tol_abs": 5e-4,
                    "achieved_rate_mean": rate * (1 + rng.normal(0, 2e-3)),
                    "achieved_rate_max_abs_err": rate * float(rng.choice([0.0, 1e-3, 4e-3])),
                    "b_time": time,
                    "b_depth": depth,
                    "b_tot": time + depth,
                    "delta_b_time": time - p,
                    "delta_b_depth": depth - p,
                    "delta_b_tot": time + depth - 2 * p + rng.normal(0, 0.005),
                    "opt_delta_b_tot_shift": 0.8 * (time + depth - 2 * p) + rng.normal(0, 0.005),
                    "chi": 5 * (level + 1) * np.exp(-(((g - 0.95) / 0.2) ** 2)) + 2,
                }
                widths = {"b_time": 0.02, "b_depth": 0.03, "b_tot": 0.04, "delta_b_tot": 0.02, "chi": 1.2}
                for name in (*widths, "delta_b_tot_shift"):
                    value = float(row.get(name, row["opt_delta_b_tot_shift"]))
                    row[f"opt_{name}_ci_low"] = value - widths.get(name, 0.02)
                    row[f"opt_{name}_ci_high"] = value + widths.get(name, 0.02)
                rows.append(row)
    return pd.DataFrame(rows)


def gstar() -> pd.DataFrame:
    """One selected gain per condition, every status among them."""
    chosen = [(0.7, "no_crossing"), (1.3, "grid_edge"), (0.95, "bracketed"), (1.05, "bracketed")]
    return pd.DataFrame(
        [
            {
                "spike_def_id": definition,
                "target_rate": rate,
                "gstar": gain,
                "status": status,
                "gstar_ci_low": max(0.7, gain - 0.1),
                "gstar_ci_high": min(1.3, gain + 0.05),
            }
            for definition in DEFINITIONS
            for rate, (gain, status) in zip(RATES, chosen, strict=True)
        ]
    )


def paired() -> pd.DataFrame:
    """T02 and T03 in one: every condition at g1 and at gstar."""
    rng = np.random.default_rng(12)
    rows = []
    for definition in DEFINITIONS:
        for level, rate in enumerate(RATES):
            for condition, g in (("g1", 1.0), ("gstar", 0.95)):
                selected = condition == "gstar"
                accuracy = 0.52 - 0.01 * level * selected
                rows.append(
                    {
                        "spike_def_id": definition,
                        "target_rate": rate,
                        "g_condition": condition,
                        "g": g,
                        "b_tot": 0.5 + 0.35 * level + 0.05 * selected + rng.normal(0, 0.01),
                        "delta_b_tot": 0.1 + 0.02 * level + 0.02 * selected,
                        "chi": 6.0 + 4 * level + 2 * selected,
                        "nll_mean": 2.31 + 0.03 * level * selected,
                        "n_questions": 1172,
                        "accuracy": accuracy,
                        "accuracy_ci_low": accuracy - 0.03,
                        "accuracy_ci_high": accuracy + 0.03,
                        "opt_delta_accuracy": -0.01 * level if selected else np.nan,
                        "opt_delta_accuracy_ci_low": -0.01 * level - 0.012 if selected else np.nan,
                        "opt_delta_accuracy_ci_high": -0.01 * level + 0.012 if selected else np.nan,
                    }
                )
    return pd.DataFrame(rows)


def nulls() -> pd.DataFrame:
    """F10's tidy frame; the token shuffle was measured at g = 1 only."""
    gaps = {
        "NULL_NONE": 0.0,
        "NULL_RASTER_WITHIN_LAYER_TIME_PERM": 0.16,
        "NULL_RASTER_WITHIN_LAYER_TIME_CIRC_SHIFT": 0.12,
        "NULL_RASTER_MARGIN_SWAP": 0.05,
        "NULL_RASTER_COMMON_CIRC_SHIFT": 0.01,
        "NULL_TOKEN_SHUFFLE_INPUT": 0.03,
    }
    parts = []
    for null_id, gap in gaps.items():
        part = summary()[["spike_def_id", "target_rate", "g", "b_tot"]].assign(null_id=null_id)
        part = part.assign(delta_b_tot=gap * part["g"], b_tot=part["b_tot"] - gap * part["g"])
        parts.append(part[part["g"] == 1.0] if null_id == "NULL_TOKEN_SHUFFLE_INPUT" else part)
    return pd.concat(parts, ignore_index=True)


def interventions() -> pd.DataFrame:
    """T06's plotted columns."""
    rng = np.random.default_rng(13)
    return pd.DataFrame(
        [
            {
                "spike_def_id": definition,
                "target_rate": rate,
                "g_condition": condition,
                "g": 1.0 if condition == "g1" else 0.95,
                "intervention_id": intervention,
                "gain_target": intervention.split("_")[0],
                "b_tot": 0.5 + 0.35 * level + rng.normal(0, 0.04),
                "delta_b_tot": 0.12 + rng.normal(0, 0.02),
                "chi": 5.0 + 4 * level + rng.normal(0, 0.5),
            }
            for definition in DEFINITIONS
            for level, rate in enumerate(RATES)
            for condition, intervention in (
                ("g1", "MLP_GLOBAL"),
                *(("gstar", name) for name in INTERVENTIONS),
            )
        ]
    )


def sites() -> pd.DataFrame:
    """The occupied sites of a random raster of 28 layers and 256 tokens with bursts, labelled 4N."""
    rng = np.random.default_rng(14)
    chance = np.where((np.arange(256) // 16) % 3 == 0, 0.55, 0.18)
    labels, _ = ndimage.label(rng.random((28, 256)) < chance)
    return figures.raster_rows(labels)


DRAW: dict[str, Callable[[], Figure]] = {
    "F01_RASTER_EXAMPLE": lambda: figures.raster_example(sites(), n_layers=28, n_tokens=256),
    "F02_RATE_MATCH_CHECK": lambda: figures.rate_match(summary(), relative_tolerance=0.02),
    "F03_BRANCHING_CURVES": lambda: figures.branching_curves(summary()),
    "F04_NULL_DELTAB": lambda: figures.null_delta_b(summary()),
    "F05_GSTAR_SELECTION": lambda: figures.gstar_selection(summary(), gstar()),
    "F06_GENERALIZATION_B": lambda: figures.generalization(paired()),
    "F07_ARC_MCQ": lambda: figures.arc_accuracy(paired(), chance=0.25),
    "F08_SPIKEDEF_ROBUST": lambda: figures.spike_definitions(summary()),
    "F09_CHI_CURVES": lambda: figures.chi_curves(summary(), gstar(), alignment_max=0.2),
    "F10_NULL_COMPARE": lambda: figures.null_compare(nulls(), gstar()),
    "F11_ABLATIONS": lambda: figures.ablations(interventions()),
}
