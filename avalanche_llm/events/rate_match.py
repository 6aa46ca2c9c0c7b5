"""Rate matching: targets per layer, thresholds as exact order statistics, and the two checks that can fail.

r_star[layer] = r_base[layer] * target / mean over layers of r_base, clipped to [0, 1]; r_base is the rate of v > tau0 at
g = 1. With n samples a layer and k = rint(r_star n), tau is the (k+1)-th largest v, so that v > tau keeps k events, fewer
only where samples tie with tau (SCIENCE section 2; spec 06).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64, Int64

from avalanche_llm.errors import DataError, RateMatchError
from avalanche_llm.settings import Events, SpikeDef

Cell = tuple[SpikeDef, float]
"""A spike definition and a target rate."""


@dataclass(frozen=True)
class RateTargets:
    """Rates in events per (unit, token). r_base: by definition; r_star: by definition and target; both [layer]."""

    n_samples: int
    r_base: Mapping[SpikeDef, Float64[np.ndarray, " layer"]]
    r_star: Mapping[Cell, Float64[np.ndarray, " layer"]]

    def wanted(self, cell: Cell) -> Int64[np.ndarray, " layer"]:
        """k: the number of events that each layer is to have."""
        return np.rint(self.r_star[cell] * self.n_samples).astype(np.int64)

    def depth(self, spike_def: SpikeDef) -> Int64[np.ndarray, " layer"]:
        """How many of the largest v each layer must keep so that every threshold of the definition can be read off."""
        return np.max([self.wanted(cell) for cell in self.r_star if cell[0] == spike_def], axis=0) + 1


def rate_targets(base_counts: Mapping[SpikeDef, Int64[np.ndarray, " layer"]], n_samples: int, events: Events) -> RateTargets:
    """Targets from the number of v > tau0 in each layer.

    Raises DataError for too few samples or a layer that would be left without a single event.
    """
    if n_samples < events.rate_match_min_cal_samples:
        raise DataError(
            f"{n_samples} calibration samples a layer, at least {events.rate_match_min_cal_samples} are needed: "
            "raise datasets.A.n_windows_calibration"
        )
    r_base = {spike_def: counts / n_samples for spike_def, counts in base_counts.items()}
    r_star: dict[Cell, Float64[np.ndarray, " layer"]] = {}
    for spike_def, rates in r_base.items():
        if not rates.all():
            layer = int(np.argmin(rates))
            raise DataError(
                f"layer {layer} has no {spike_def} event over tau0 = {events.tau0_baseline}, so that its rate cannot be matched; "
                "use more windows or a lower events.tau0_baseline"
            )
        for target in events.target_rates:
            r_star[spike_def, target] = np.clip(rates * (target / rates.mean()), 0.0, 1.0)
    targets = RateTargets(n_samples, r_base, r_star)
    for cell in r_star:
        wanted = targets.wanted(cell)
        if not wanted.all():
            raise DataError(
                f"target rate {cell[1]:g} ({cell[0]}) leaves layer {int(np.argmin(wanted))} without an event "
                f"in {n_samples} samples; raise events.target_rates or datasets.A.n_windows_calibration"
            )
    return targets


@dataclass(frozen=True)
class Thresholds:
    """One cell at one gain, all arrays [layer]: tau in sigma, the events it keeps, the samples that tie with it."""

    tau: Float64[np.ndarray, " layer"]
    kept: Int64[np.ndarray, " layer"]
    wanted: Int64[np.ndarray, " layer"]
    ties: Int64[np.ndarray, " layer"]
    n_samples: int

    def achieved_rate(self) -> Float64[np.ndarray, " layer"]:
        return self.kept / self.n_samples

    def within_abs(self, r_star: Float64[np.ndarray, " layer"], events: Events) -> Bool[np.ndarray, " layer"]:
        """Whether the achieved rate is within the absolute tolerance of the target."""
        return np.asarray(np.abs(self.achieved_rate() - r_star) <= events.rate_match_tol_abs)

    def within_rel(self, r_star: Float64[np.ndarray, " layer"], events: Events) -> Bool[np.ndarray, " layer"]:
        """Whether it is within the relative tolerance, or within one event; a silent layer misses its target by all of it."""
        allowed = np.maximum(events.rate_match_tol_rel * r_star, 1.0 / self.n_samples)
        return np.asarray((np.abs(self.achieved_rate() - r_star) <= allowed) & (self.kept > 0))

    def passed(self, r_star: Float64[np.ndarray, " layer"], events: Events) -> Bool[np.ndarray, " layer"]:
        """Whether it is within both."""
        return self.within_abs(r_star, events) & self.within_rel(r_star, events)

    @classmethod
    def from_rows(cls, rows: pd.DataFrame) -> "Thresholds":
        """Rows of tau_rate_matched.parquet, whatever their gain, cell and layer, as the layers of one."""
        (n_samples,) = rows["n_samples"].unique()
        tau, kept, wanted, ties = (rows[name].to_numpy() for name in ("tau", "kept_events", "wanted_events", "n_ties"))
        return cls(tau, kept, wanted, ties, int(n_samples))


def thresholds(
    largest: Sequence[Float[np.ndarray, " _event"]], wanted: Int64[np.ndarray, " layer"], n_samples: int
) -> Thresholds:
    """Exact thresholds from the largest v of each layer (more than `wanted` of them, ties with the last included).

    Raises DataError if a layer has too few values to contain the order statistic.
    """
    tau, kept, ties = [], [], []
    for layer, (values, k) in enumerate(zip(largest, wanted, strict=True)):
        if len(values) <= k:
            raise DataError(f"layer {layer}: {len(values)} values cannot contain the {k + 1}-th largest")
        cut = np.partition(values, len(values) - 1 - k)[len(values) - 1 - k]
        tau.append(float(cut))
        kept.append(int((values > cut).sum()))
        ties.append(int((values == cut).sum()))
    return Thresholds(np.array(tau), np.array(kept), wanted, np.array(ties), n_samples)


def check_rates(cells: Mapping[Cell, Thresholds], targets: RateTargets, events: Events, *, gain: float) -> None:
    """Raise RateMatchError naming the first layer of a cell that misses its rate by more than the tolerances allow."""
    for cell, found in cells.items():
        passed = found.passed(targets.r_star[cell], events)
        if not passed.all():
            layer = int(np.argmin(passed))
            raise RateMatchError(
                f"rate matching failed at g = {gain:g}, {cell[0]}, target {cell[1]:g}, layer {layer}: "
                f"{found.kept[layer]} events, {found.wanted[layer]} wanted, {found.ties[layer]} samples tie "
                "with tau; use more windows or --dtype fp32"
            )
