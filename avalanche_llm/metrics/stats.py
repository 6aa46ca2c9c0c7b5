"""Resampling statistics shared by every metric: weights over sequences, intervals, p and z.

A resample gives sequence s a weight w[s]. A pooled metric of a resample is a function of w @ sums, so one [reps, seq] weight
matrix serves every metric and every condition (SCIENCE section 4; spec 05, 09): multinomial counts for the bootstrap, or every
sequence left out once for the jackknife.

An interval is the estimate less its bias, plus and minus t times its standard error, all three on a scale on which the metric
is nearly normal. With f = 1 / Var(w) for weights of mean 1, over resamples and sequences,

    bias = f (mean of the replicates - estimate)        se^2 = f (variance of the replicates)        t of n - 1 degrees

f is n / (n - 1) for the bootstrap, which puts right that resamples vary too little (Hesterberg 2015, section 5), and n - 1 for
the jackknife, where bias and se are those of Quenouille and Tukey (Miller 1974; Efron and Tibshirani 1993, chapters 10 to 12).
Percentile intervals, which SCIENCE names, cover less with few sequences: no t, no bias, no scale (docs/validity.md).

Monte Carlo p values count the observed value among the draws, p = (1 + #) / (1 + R): p is never 0 and the test keeps its level
(Davison and Hinkley 1997, section 4.2).

One rule for what is missing: NaN in, NaN out; an interval needs nearly every replicate, n_valid counts them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.special import stdtrit

from avalanche_llm.errors import SchemaError

FloatLike = float | Float64[np.ndarray, "*cond"]
IntLike = int | Int64[np.ndarray, "*cond"]
Scale = Literal["identity", "log", "arcsine"]
"""Where the interval is symmetric: differences as they are, positive quantities by logarithm, shares by arcsine of the root."""

MIN_VALID_SHARE: Final = 0.95
"""An interval needs at least this share of the replicates: without the rest it would be one of other data."""


@dataclass(frozen=True)
class Interval:
    """An interval in the metric's units from n_valid replicates; NaN bounds where there is none."""

    low: FloatLike
    high: FloatLike
    n_valid: IntLike


def bootstrap_weights(n_sequences: int, *, reps: int, seed: int) -> Int64[np.ndarray, "reps seq"]:
    """How often each sequence is in each replicate: multinomial counts, every row sums to n_sequences.

    Drawn from PCG64(seed). Raises SchemaError if there is no sequence or no replicate.
    """
    if n_sequences < 1 or reps < 1:
        raise SchemaError(f"a bootstrap needs sequences and replicates, got {n_sequences} and {reps}")
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(n_sequences, size=(reps, n_sequences))
    cell = drawn + n_sequences * np.arange(reps)[:, None]
    return np.bincount(cell.ravel(), minlength=reps * n_sequences).reshape(reps, n_sequences).astype(np.int64)


def leave_one_out(n_sequences: int) -> Int64[np.ndarray, "seq seq"]:
    """The resamples of the jackknife: in row s every sequence once but s. Raises SchemaError if there is no sequence."""
    if n_sequences < 1:
        raise SchemaError(f"a jackknife needs sequences, got {n_sequences}")
    return 1 - np.eye(n_sequences, dtype=np.int64)


def t_interval(
    value: FloatLike,
    replicates: Float[np.ndarray, "*cond reps"],
    weights: Int64[np.ndarray, "reps seq"],
    *,
    scale: Scale = "identity",
    level: float = 0.95,
) -> Interval:
    """The interval of an estimate `value`, `[*cond]`, from its `replicates` under `weights` (module docstring).

    NaN bounds where the value or more than 1 - MIN_VALID_SHARE of the replicates is NaN, or has no place on the scale, and with
    one sequence alone. Raises SchemaError if level is not in (0, 1) or there is no replicate.
    """
    if not 0.0 < level < 1.0:
        raise SchemaError(f"the level of an interval lies between 0 and 1, got {level}")
    if replicates.shape[-1] == 0:
        raise SchemaError("an interval needs at least 1 replicate, got 0")
    forward, back = _SCALES[scale]
    centre = forward(np.asarray(value, dtype=np.float64))
    apart = forward(replicates.astype(np.float64)) - centre[..., None]
    valid = ~np.isnan(apart)
    n_valid = np.asarray(np.count_nonzero(valid, axis=-1), dtype=np.int64)
    share = np.maximum(n_valid, 1)
    mean = np.where(valid, apart, 0.0).sum(axis=-1) / share
    variance = np.square(np.where(valid, apart - mean[..., None], 0.0)).sum(axis=-1) / share
    inflation = _inflation(weights)
    half = stdtrit(max(weights.shape[-1] - 1, 1), (1.0 + level) / 2.0) * np.sqrt(inflation * variance)
    middle = np.where(n_valid >= MIN_VALID_SHARE * replicates.shape[-1], centre - inflation * mean, np.nan)
    low, high = (back(np.asarray(bound)) for bound in (middle - half, middle + half))
    if replicates.ndim == 1:
        return Interval(float(low), float(high), int(n_valid))
    return Interval(low, high, n_valid)


def exceedance_p(observed: FloatLike, draws: Float[np.ndarray, "*cond reps"]) -> FloatLike:
    """Upper one-sided p = (1 + #{draw >= observed}) / (1 + R); ties count against the observed value.

    NaN where the observed value or any of its draws is NaN.
    """
    observed = np.asarray(observed, dtype=np.float64)
    p = (1.0 + np.count_nonzero(draws >= observed[..., None], axis=-1)) / (1.0 + draws.shape[-1])
    return _native(np.where(np.isnan(observed) | np.isnan(draws).any(axis=-1), np.nan, p))


def z_score(observed: FloatLike, mean: FloatLike, sd: FloatLike) -> FloatLike:
    """(observed - mean) / sd; NaN where sd == 0: a null without spread gives distance no unit."""
    observed, mean, sd = (np.asarray(value, dtype=np.float64) for value in (observed, mean, sd))
    shape = np.broadcast_shapes(observed.shape, mean.shape, sd.shape)
    return _native(np.divide(observed - mean, sd, out=np.full(shape, np.nan), where=sd > 0.0))


def _inflation(weights: Int64[np.ndarray, "reps seq"]) -> float:
    """1 / Var(w) of weights of mean 1: by how much the estimate varies more than its replicates. NaN if none varies."""
    share = weights * (weights.shape[-1] / weights.sum(axis=-1, keepdims=True))
    variance = float(np.square(share - 1.0).mean())
    return 1.0 / variance if variance > 0.0 else float("nan")


def _log(values: Float64[np.ndarray, "*any"]) -> Float64[np.ndarray, "*any"]:
    return np.asarray(np.log(values, out=np.full(values.shape, np.nan), where=values > 0.0))


def _angle(share: Float64[np.ndarray, "*any"]) -> Float64[np.ndarray, "*any"]:
    return np.asarray(np.arcsin(np.sqrt(share)))


def _share(angle: Float64[np.ndarray, "*any"]) -> Float64[np.ndarray, "*any"]:
    return np.asarray(np.square(np.sin(np.clip(angle, 0.0, np.pi / 2.0))))


_Map = Callable[[np.ndarray], np.ndarray]
_SCALES: Final[Mapping[Scale, tuple[_Map, _Map]]] = MappingProxyType(
    {"identity": (np.asarray, np.asarray), "log": (_log, np.exp), "arcsine": (_angle, _share)}
)


def _native(value: Float64[np.ndarray, "*cond"]) -> FloatLike:
    """A Python float for a single value, so that records and tables never meet a 0-d array."""
    return float(value) if value.ndim == 0 else value
