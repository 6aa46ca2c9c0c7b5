"""Activity along tokens at every gain, from the events and thresholds of the grid: what mr_near_one reads (spec 08).

    A[gain, seq, token] = sum over layers of the events with v > tau[gain, layer]        events

No model is needed, and nothing but events and their thresholds enters.
"""

from collections.abc import Mapping
from typing import Final, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float64, Int64

from avalanche_llm.analysis.grid_rows import Lattice
from avalanche_llm.analysis.measures import TOKEN_LAGS
from avalanche_llm.events.rate_match import Cell
from avalanche_llm.events.tail_files import rows_of_gain, table_to_tails
from avalanche_llm.metrics.regression import memory_interval, multistep_replicates
from avalanche_llm.metrics.stats import Interval

TAU_COLUMNS: Final = ("spike_def_id", "target_rate", "g", "layer", "tau")
"""The columns of tau_rate_matched.parquet that are read."""


def activity_of_cells(
    events: pa.Table, tau: pd.DataFrame, lattice: Lattice
) -> Mapping[Cell, Int64[np.ndarray, "gain seq token"]]:
    """The activity of every definition and rate, gains in the order of the grid."""
    n_layers = int(tau["layer"].max()) + 1
    gains = sorted(tau["g"].unique())
    tails = [table_to_tails(rows_of_gain(events, gain_id), n_layers=n_layers) for gain_id in range(len(gains))]
    found = {}
    for key, cell in tau.groupby(["spike_def_id", "target_rate"], sort=True):
        spike_def, rate = cast(Cell, key)
        by_gain = cell.sort_values(["g", "layer"])["tau"].to_numpy().reshape(len(gains), n_layers)
        rasters = (lattice.raster(of_gain, levels, spike_def) for of_gain, levels in zip(tails, by_gain, strict=True))
        found[spike_def, rate] = np.stack([raster.sum(axis=1, dtype=np.int64) for raster in rasters])
    return found


def m_over_gains(
    activity: Int64[np.ndarray, "gain seq token"], weights: Int64[np.ndarray, "reps seq"]
) -> tuple[Float64[np.ndarray, " gain"], Float64[np.ndarray, "reps gain"], Interval]:
    """m along tokens at every gain, of every resampling of the sequences, and its interval; NaN where it is not available."""
    found = [memory_interval(of_gain, k_max=TOKEN_LAGS) for of_gain in activity]
    replicates = [multistep_replicates(of_gain, weights, k_max=TOKEN_LAGS) for of_gain in activity]
    low, high, n_valid = (np.array([getattr(interval, name) for _, interval in found]) for name in ("low", "high", "n_valid"))
    return np.array([fit.m for fit, _ in found]), np.stack(replicates, axis=-1), Interval(low, high, n_valid)
