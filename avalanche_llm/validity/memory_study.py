"""m along tokens: multistep regression and the one-step slope against the truth, and what has an m without branching.

The pipeline reports m without an interval. Here the fit is made again without each sequence in turn, and the interval is that
of every other measure (`metrics.stats`), in the cases marked `resampled`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from jaxtyping import Int64

from avalanche_llm.metrics.regression import memory_interval, multistep_regression
from avalanche_llm.simulate.cascade import branching_process
from avalanche_llm.simulate.truth import Shape, SimulatedRaster
from avalanche_llm.validity.scenarios import LAYERS, scenario, seed_of
from avalanche_llm.validity.shares import Share, share

SEQUENCES: Final = 64
TOKENS: Final = 128
LAGS: Final = 20
MOSTLY: Final = 0.5
"""A mean over repetitions is given where at least this share of them has an estimate."""


@dataclass(frozen=True)
class MemoryCase:
    """A process whose activity is summed over `layers`, and the share of its events that is seen."""

    name: str
    seen: float
    draw: Callable[..., SimulatedRaster]
    layers: int
    resampled: bool = False


@dataclass(frozen=True)
class MemoryRow:
    """m of a process: truth (NaN: none), estimates where mostly available, the one-step slope, coverage where resampled."""

    scenario: str
    seen: float
    propagates: bool
    truth: float
    available: Share
    mean: float
    sd: float
    one_step: float
    coverage: Share | None


def _branching(m: float, seen: float, *, resampled: bool = False) -> MemoryCase:
    draw = partial(branching_process, m=m, immigration=1000.0 * (1.0 - m), seen=seen)
    return MemoryCase(f"branching, m = {m:g}", seen, draw, 1, resampled)


CASES: Final = (
    _branching(0.5, 1.0),
    _branching(0.9, 1.0, resampled=True),
    _branching(0.9, 0.1),
    _branching(0.9, 0.01),
    _branching(0.98, 1.0),
    _branching(0.98, 0.01, resampled=True),
    _branching(0.98, 0.001),
    *(
        MemoryCase(name, 1.0, scenario(name).draw, LAYERS)
        for name in ("lattice", "Poisson", "directed", "drive, token", "drive, smooth", "drive, sequence")
    ),
)


def memory_study(index: int, repetitions: int) -> MemoryRow:
    """The row of one case."""
    case = CASES[index]
    drawn = case.draw(
        Shape(repetitions * SEQUENCES, case.layers, TOKENS), seed=seed_of("memory", f"{case.name}|{case.seen!r}")
    )
    activity = drawn.counts.sum(axis=1, dtype=np.int64).reshape(repetitions, SEQUENCES, TOKENS)
    fits = [multistep_regression(one, k_max=LAGS) for one in activity]
    m = np.array([fit.m for fit in fits])
    found = np.isfinite(m)
    known = m[found] if found.mean() >= MOSTLY else m[:0]
    return MemoryRow(
        scenario=case.name,
        seen=case.seen,
        propagates=drawn.truth.propagates,
        truth=drawn.truth.m,
        available=share(found),
        mean=float(known.mean()) if len(known) else float("nan"),
        sd=float(known.std(ddof=1)) if len(known) > 1 else float("nan"),
        one_step=float(np.mean([fit.slopes[0] for fit in fits])),
        coverage=_coverage(activity, drawn.truth.m) if case.resampled else None,
    )


def _coverage(activity: Int64[np.ndarray, "repetition seq token"], truth: float) -> Share:
    """Share of intervals that enclose the truth."""
    intervals = [memory_interval(one, k_max=LAGS)[1] for one in activity]
    return share(np.array([interval.low <= truth <= interval.high for interval in intervals]))
