"""A transformers model and its texts: events at every gain, their thresholds, rasters, branching, and g* (spec 06, 08).

The steps are those of phases 1 and 2: two passes at g = 1 calibrate every unit and set each layer's rate, one pass a gain brings
the events, and thresholds keep that rate at every gain. With `calibrated` mean, spread and thresholds of an earlier measurement
are used instead, as phases 3 and 6 do on text that calibration never saw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Int64

from avalanche_llm.analysis.activity import TAU_COLUMNS, activity_of_cells
from avalanche_llm.analysis.conditions import ThresholdTable
from avalanche_llm.analysis.grid_rows import Lattice, branching_columns, raster_columns, rows_of_gain
from avalanche_llm.api.inputs import hooks_from, settings_from, settings_with_batch, windows_from
from avalanche_llm.api.raster import Raster
from avalanche_llm.determinism import deterministic
from avalanche_llm.errors import ConfigError, DataError
from avalanche_llm.events.collect import LayerTail
from avalanche_llm.events.rate_match import Cell, RateTargets
from avalanche_llm.events.standardize import CalibrationStats
from avalanche_llm.events.tail_files import tails_to_table
from avalanche_llm.metrics.branching import branching_sums
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.loader import LoadedModel, in_memory
from avalanche_llm.phases.calibrate import measure_baseline
from avalanche_llm.phases.measure import events_over, largest_events
from avalanche_llm.phases.select_gstar import choose_all
from avalanche_llm.settings import GstarMethod, Settings, SpikeDef
from avalanche_llm.settings_sources import HookNames


@dataclass(frozen=True, eq=False)
class Events:
    """The activation events of one model on its windows [seq, token] at each gain, and the calibration behind them.

    `tails[gain][layer]` holds every event that a threshold keeps (z in units of sigma). `calibrated` is the measurement that set
    mean, spread and thresholds; None where these windows did.
    """

    model: Mapping[str, Any]
    windows: Int64[np.ndarray, "seq token"]
    gains: tuple[float, ...]
    stats: CalibrationStats
    targets: RateTargets
    tails: Mapping[float, Sequence[LayerTail]]
    settings: Settings
    calibrated: "Events | None" = None

    @property
    def lattice(self) -> Lattice:
        """The shape of its rasters; burn-in tokens have no column."""
        return Lattice.of(self.settings, len(self.windows))

    @property
    def cells(self) -> list[Cell]:
        """Every spike definition with every target rate."""
        return list(self.targets.r_star)

    @cached_property
    def thresholds(self) -> pd.DataFrame:
        """A row a (definition, rate, gain, layer): tau in sigma, wanted and achieved rate, ties (tau_rate_matched.parquet)."""
        if self.calibrated is not None:
            return self.calibrated.thresholds
        return pd.concat([rows.tau for rows in self._rows(reps=1)], ignore_index=True)

    @cached_property
    def branching_sums(self) -> pd.DataFrame:
        """A row a (definition, rate, gain, sequence): sites, pairs, pairs expected under each null (branching_sums.parquet)."""
        if self.calibrated is not None:
            raise DataError("g* is chosen on the windows that set the thresholds: pass the measurement without `calibrated`")
        return pd.concat([rows.sums for rows in self._rows(reps=1)], ignore_index=True)

    def table(self, *, reps: int | None = None) -> pd.DataFrame:
        """Branching of every condition with its intervals over sequences: a row a (definition, rate, gain)."""
        reps = self.settings.statistics.bootstrap_reps if reps is None else reps
        if self.calibrated is None:
            return pd.concat([rows.metrics for rows in self._rows(reps=reps)], ignore_index=True)
        weights = self._weights(reps)
        return pd.DataFrame(
            {
                **{"spike_def_id": raster.spike_def, "target_rate": raster.target_rate, "g": raster.gain},
                **raster_columns(raster.counts),
                **branching_columns(branching_sums(raster.occupancy), weights),
            }
            for raster in rasters(self)
        )

    def _weights(self, reps: int) -> np.ndarray:
        return bootstrap_weights(len(self.windows), reps=reps, seed=self.settings.statistics.bootstrap_seed)

    def _rows(self, *, reps: int) -> Any:
        weights, events = self._weights(reps), self.settings.events
        for gain in self.gains:
            yield rows_of_gain(self.tails[gain], self.targets, self.lattice, weights, events, g=gain)

    def __repr__(self) -> str:
        n_seq, n_tokens = self.windows.shape
        gains = ", ".join(f"{gain:g}" for gain in self.gains)
        return f"Events({self.model['id']}, {n_seq} windows of {n_tokens} tokens, gains {gains}, {len(self.cells)} cells)"


def measure(
    model: Any,
    tokenizer: Any,
    texts: Any,
    *,
    gains: Sequence[float] = (1.0,),
    target_rates: Sequence[float] | None = None,
    spike_defs: Sequence[SpikeDef] | None = None,
    seq_len: int | None = None,
    burn_in: int | None = None,
    batch_windows: int | None = None,
    seed: int | None = None,
    hooks: HookNames | Mapping[str, str] | None = None,
    calibrated: Events | None = None,
) -> Events:
    """Run a model over texts at every gain and bring back its activation events.

    `model`: a transformers causal language model in memory (in eval mode, on one device; it is not changed) or a LoadedModel.
    `texts`: one text or a sequence of them, joined and cut into windows of `seq_len` tokens as data sets are (spec 03), or
    windows of token ids [seq, token], for which the tokenizer may be None. What is None is canonical: target rates in events per
    unit and token, both spike definitions, 256 tokens, no burn-in. `hooks` names the modules of an unknown family (spec 12).
    With `calibrated`, its mean, spread, thresholds and options are used and its gains must include `gains`.

    Raises DataError for no or too little text, token ids that the model does not embed, a layer that cannot have its rate, or
    activations that are not finite; RateMatchError for rates that are missed; ConfigError for no gain and options or hooks that
    cannot be; UnsupportedModel for an unknown family.
    """
    if not len(gains):
        raise ConfigError("expected at least one gain, found none: gains=[1.0] measures the model as it is")
    if calibrated is not None:
        asked = (target_rates, spike_defs, seq_len, burn_in, seed)
        if any(option is not None for option in asked):
            raise ConfigError("with `calibrated` the rates, definitions, seq_len, burn_in and seed are its own: leave them out")
        absent = [gain for gain in gains if gain not in calibrated.gains]
        if absent:
            raise ConfigError(f"no thresholds at g = {absent[0]:g}: `calibrated` measured {list(calibrated.gains)}")
        settings = settings_with_batch(calibrated.settings, batch_windows)
    else:
        settings = settings_from(gains, target_rates, spike_defs, seq_len, burn_in, batch_windows, seed)
    loaded = model if isinstance(model, LoadedModel) else in_memory(model, tokenizer, hooks_from(hooks))
    windows = windows_from(texts, loaded.tokenizer if tokenizer is None else tokenizer, settings)
    loaded.check_token_ids(windows)
    with deterministic(settings.determinism):
        if calibrated is None:
            baseline = measure_baseline(loaded, windows, settings)
            stats, targets = baseline.stats, baseline.targets
        else:
            _same_shape(loaded, calibrated)
            stats, targets = calibrated.stats, calibrated.targets
        tails = {
            float(gain): _tails(loaded, windows, float(gain), stats, targets, settings, calibrated) for gain in sorted(set(gains))
        }
    events = Events(loaded.identity, windows, tuple(tails), stats, targets, tails, settings, calibrated)
    _ = events.thresholds  # a rate that is missed is an error here and not later
    return events


def rasters(
    events: Events, *, gain: float | None = None, spike_def: SpikeDef | None = None, target_rate: float | None = None
) -> list[Raster]:
    """The rasters of the conditions that fit, by definition, rate and gain. DataError, naming what there is, if none does."""
    table, lattice = ThresholdTable(events.thresholds), events.lattice
    found = [
        Raster(lattice.raster(events.tails[at], table.of(cell, at)["tau"].to_numpy(), cell[0]), at, *cell)
        for cell in events.cells
        for at in events.gains
        if gain in (None, at) and spike_def in (None, cell[0]) and target_rate in (None, cell[1])
    ]
    if not found:
        raise DataError(
            f"no raster at g = {gain}, {spike_def}, rate {target_rate}: measured were gains {list(events.gains)} and the cells "
            f"{events.cells}"
        )
    return found


def gstar(events: Events, *, method: GstarMethod = "btot_near_one", reps: int | None = None) -> pd.DataFrame:
    """g* of every cell by a rule of spec 08, with status and interval: a row a (definition, rate).

    A status other than bracketed locates nothing. Only branching on the calibrating windows enters. Raises ConfigError for an
    unknown rule.
    """
    if method not in get_args(GstarMethod):
        raise ConfigError(f"unknown method {method!r}; known are {', '.join(get_args(GstarMethod))}")
    sums, statistics = events.branching_sums, events.settings.statistics
    if reps is not None:
        statistics = statistics.model_copy(update={"bootstrap_reps": reps})
    activity: Mapping[Cell, np.ndarray] = {}
    if method == "mr_near_one":
        parts = [tails_to_table(events.tails[gain], gain_id=at, gain=gain) for at, gain in enumerate(events.gains)]
        activity = activity_of_cells(pa.concat_tables(parts), events.thresholds[list(TAU_COLUMNS)], events.lattice)
    return pd.DataFrame(choose_all(sums, statistics, method, activity))


def _tails(
    model: LoadedModel,
    windows: np.ndarray,
    gain: float,
    stats: CalibrationStats,
    targets: RateTargets,
    settings: Settings,
    calibrated: Events | None,
) -> list[LayerTail]:
    plan, label = GainPlan.uniform("MLP", gain, model.n_layers), f"gain {gain:g}"
    if calibrated is None:
        return largest_events(model, windows, plan, stats, targets, settings, label)[0]
    bounds = ThresholdTable(calibrated.thresholds).bounds(gain)
    return events_over(model, windows, plan, stats, bounds, settings, label)[0]


def _same_shape(model: LoadedModel, calibrated: Events) -> None:
    ours, theirs = (model.n_layers, model.d_ff), calibrated.stats.mu.shape
    if ours != theirs:
        raise DataError(f"the model has {ours[0]} layers of {ours[1]} units, `calibrated` measured {theirs[0]} of {theirs[1]}")
