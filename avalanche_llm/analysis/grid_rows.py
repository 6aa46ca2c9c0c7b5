"""From the events of one gain to its thresholds, its rasters' branching and its rows of the grid's tables (SCIENCE 3, 4).

Everything here follows from the candidate events alone; the model is not needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64, UInt16

from avalanche_llm.events.collect import LayerTail
from avalanche_llm.events.rate_match import Cell, RateTargets, Thresholds, check_rates, thresholds
from avalanche_llm.events.spike import magnitude
from avalanche_llm.metrics.branching import Branching, BranchingSums, branching, branching_interval, branching_sums
from avalanche_llm.metrics.density import token0_share
from avalanche_llm.raster.build import count_raster, occupancy
from avalanche_llm.settings import Events, Settings, SpikeDef

BOOTSTRAPPED = ("b_time", "b_depth", "b_tot", "delta_b_time", "delta_b_depth", "delta_b_tot", "delta_b_tot_shift")
REPORTED = ("b_time", "b_depth", "b_tot", "b_time_perm", "b_depth_perm", "b_tot_perm", "b_tot_shift", *BOOTSTRAPPED[3:])


@dataclass(frozen=True)
class Lattice:
    """The shape of a slice's rasters: sequences, first token that takes part, tokens that do."""

    n_seq: int
    first_token: int
    n_tokens: int

    @classmethod
    def of(cls, settings: Settings, n_seq: int) -> "Lattice":
        """That of `n_seq` windows: the burn-in has no column."""
        first = settings.pipeline.burn_in_tokens
        return cls(n_seq, first, settings.pipeline.seq_len_tokens - first)

    def raster(
        self, tails: Sequence[LayerTail], tau: Float[np.ndarray, " layer"], spike_def: SpikeDef
    ) -> UInt16[np.ndarray, "seq layer token"]:
        """A: the events above tau[layer] on this lattice."""
        return count_raster(
            tails, tau, spike_def, n_seq=self.n_seq, first_token=self.first_token, n_tokens=self.n_tokens
        )


@dataclass(frozen=True)
class GainRows:
    """The rows of one gain, by table."""

    tau: pd.DataFrame
    sums: pd.DataFrame
    metrics: pd.DataFrame


def match_thresholds(tails: Sequence[LayerTail], targets: RateTargets, only: Cell | None = None) -> dict[Cell, Thresholds]:
    """Exact thresholds of every cell, or of `only` one, from the candidates of one gain."""
    found = {}
    for cell in targets.r_star if only is None else (only,):
        largest = [magnitude(tail.z, cell[0]) for tail in tails]
        found[cell] = thresholds(largest, targets.wanted(cell), targets.n_samples)
    return found


def rows_of_gain(
    tails: Sequence[LayerTail],
    targets: RateTargets,
    lattice: Lattice,
    weights: Int64[np.ndarray, "reps seq"],
    events: Events,
    *,
    g: float,
) -> GainRows:
    """Thresholds (checked: RateMatchError), branching sums per sequence, and metrics with CIs, of one gain."""
    matched = match_thresholds(tails, targets)
    check_rates(matched, targets, events, gain=g)
    tau, sums, metrics = [], [], []
    for cell, found in matched.items():
        spike_def, rate = cell
        key: dict[str, object] = {"spike_def_id": spike_def, "target_rate": rate, "g": g}
        counts = lattice.raster(tails, found.tau, spike_def)
        sites = branching_sums(occupancy(counts))
        tau.append(tau_rows(key, found, targets.r_star[cell], events))
        sums.append(pd.DataFrame({**key, "seq_id": np.arange(lattice.n_seq), **sums_columns(sites)}))
        metrics.append(
            {**key, **_rates(found, targets.r_star[cell], events), **raster_columns(counts), **branching_columns(sites, weights)}
        )
    return GainRows(pd.concat(tau), pd.concat(sums), pd.DataFrame(metrics))


def tau_rows(key: dict[str, object], found: Thresholds, r_star: np.ndarray, events: Events) -> pd.DataFrame:
    """Rows of tau_rate_matched.parquet: a row a layer. Rates in events per (unit, token), tau in sigma."""
    achieved = found.achieved_rate()
    return pd.DataFrame(
        {
            **key,
            "layer": np.arange(len(found.tau)),
            "tau": found.tau,
            "r_star": r_star,
            "achieved_rate": achieved,
            "abs_err": np.abs(achieved - r_star),
            "rel_err": np.abs(achieved - r_star) / r_star,
            "n_samples": found.n_samples,
            "wanted_events": found.wanted,
            "kept_events": found.kept,
            "n_ties": found.ties,
            "rate_match_pass": found.passed(r_star, events),
        }
    )


def sums_columns(sums: BranchingSums) -> dict[str, np.ndarray]:
    """Numerators, denominators and exact null numerators of each sequence."""
    return {field.name: getattr(sums, field.name) for field in fields(sums)}


def branching_columns(sums: BranchingSums, weights: Int64[np.ndarray, "reps seq"]) -> dict[str, float]:
    """Branching over its nulls with bootstrap intervals over sequences, NaN where none can be given."""
    point: Branching = branching(sums)
    replicates: Branching = branching(sums, weights)
    columns = {name: float(getattr(point, name)) for name in REPORTED}
    for name in BOOTSTRAPPED:
        interval = branching_interval(name, sums, point, replicates, weights)
        columns |= {f"{name}_ci_low": float(interval.low), f"{name}_ci_high": float(interval.high)}
    return columns


def _rates(found: Thresholds, r_star: np.ndarray, events: Events) -> dict[str, object]:
    achieved = found.achieved_rate()
    return {
        "achieved_rate_mean": float(achieved.mean()),
        "achieved_rate_max_abs_err": float(np.abs(achieved - r_star).max()),
        "achieved_rate_max_rel_err": float((np.abs(achieved - r_star) / r_star).max()),
        "rate_match_pass": bool(found.passed(r_star, events).all()),
        "n_ties_max": int(found.ties.max()),
    }


def raster_columns(counts: np.ndarray) -> dict[str, object]:
    """Counts of a raster: sequences, events, sites, occupancy, and the share of the events at its first token."""
    total = int(counts.sum(dtype=np.int64))
    return {
        "n_sequences": counts.shape[0],
        "n_events": total,
        "n_sites": int((counts > 0).sum()),
        "occupancy": float((counts > 0).mean()),
        "token0_event_share": token0_share(counts),
        "silent": total == 0,
    }
