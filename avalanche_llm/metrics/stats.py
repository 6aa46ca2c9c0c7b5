"""Resampling statistics shared by every metric: bootstrap over sequences, percentile intervals, p and z.

A bootstrap replicate draws n sequences with replacement, that is, gives sequence s a weight w[s] with
sum w = n. A pooled metric of a replicate is a function of w @ sums, so one [reps, seq] weight matrix serves
every metric and every condition (SCIENCE section 4; spec 05, 09). Monte Carlo p values count the observed value
among the draws, p = (1 + #) / (1 + R): p is never 0 and the test keeps its level (Davison and Hinkley 1997,
section 4.2).

One rule for what is missing: NaN in, NaN out; a NaN replicate is left out of an interval and n_valid counts
the others.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from avalanche_llm.errors import SchemaError

FloatLike = float | Float64[np.ndarray, "*cond"]
IntLike = int | Int64[np.ndarray, "*cond"]

TIE_SLACK: Final = 1e-12
"""Relative slack of the two-sided comparison: mean + a and mean - a are a tie, rounding must not decide."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval in the metric's units over n_valid replicates; NaN bounds where there is none."""

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


def percentile_interval(values: Float[np.ndarray, "*cond reps"], level: float = 0.95) -> Interval:
    """Equal-tailed interval along the last axis, interpolated linearly between order statistics (R type 7).

    `values` are finite or NaN. A [reps] input gives floats, [*cond, reps] gives arrays [*cond].
    Raises SchemaError if level is not in (0, 1) or there is no replicate.
    """
    if not 0.0 < level < 1.0:
        raise SchemaError(f"the level of an interval lies between 0 and 1, got {level}")
    if values.shape[-1] == 0:
        raise SchemaError("a percentile interval needs at least 1 replicate, got 0")
    ordered = np.sort(values.astype(np.float64), axis=-1)  # NaN sorts last: the valid replicates come first
    n_valid = np.asarray(np.count_nonzero(~np.isnan(ordered), axis=-1), dtype=np.int64)
    tail = (1.0 - level) / 2.0
    low, high = (_quantile(ordered, n_valid, q) for q in (tail, 1.0 - tail))
    if values.ndim == 1:
        return Interval(float(low), float(high), int(n_valid))
    return Interval(low, high, n_valid)


def exceedance_p(observed: FloatLike, draws: Float[np.ndarray, "*cond reps"]) -> FloatLike:
    """Upper one-sided p = (1 + #{draw >= observed}) / (1 + R); ties count against the observed value.

    NaN where the observed value or any of its draws is NaN.
    """
    observed = np.asarray(observed, dtype=np.float64)
    return _p_value(draws >= observed[..., None], observed, draws)


def two_sided_p(observed: FloatLike, draws: Float[np.ndarray, "*cond reps"], mean: FloatLike) -> FloatLike:
    """p = (1 + #{|draw - mean| >= |observed - mean|}) / (1 + R), `mean` the null's exact mean where known.

    Deviations that differ by rounding only are ties and count. NaN where anything that enters is NaN.
    """
    observed, mean = np.asarray(observed, dtype=np.float64), np.asarray(mean, dtype=np.float64)
    reach = np.abs(observed - mean) - TIE_SLACK * np.maximum(np.abs(observed), np.abs(mean))
    return _p_value(np.abs(draws - mean[..., None]) >= reach[..., None], reach, draws)


def z_score(observed: FloatLike, mean: FloatLike, sd: FloatLike) -> FloatLike:
    """(observed - mean) / sd; NaN where sd == 0: a null without spread gives distance no unit."""
    observed, mean, sd = (np.asarray(value, dtype=np.float64) for value in (observed, mean, sd))
    shape = np.broadcast_shapes(observed.shape, mean.shape, sd.shape)
    return _native(np.divide(observed - mean, sd, out=np.full(shape, np.nan), where=sd > 0.0))


def _quantile(
    ordered: Float64[np.ndarray, "*cond reps"], n_valid: Int64[np.ndarray, "*cond"], q: float
) -> Float64[np.ndarray, "*cond"]:
    last = np.maximum(n_valid - 1, 0)
    below = np.floor(q * last).astype(np.int64)
    above = np.minimum(below + 1, last)
    low, high = (np.take_along_axis(ordered, at[..., None], axis=-1)[..., 0] for at in (below, above))
    return np.asarray(low + (q * last - below) * (high - low))


def _p_value(extreme: Bool[np.ndarray, "*cond reps"], observed: FloatLike, draws: Float[np.ndarray, "*cond reps"]) -> FloatLike:
    p = (1.0 + np.count_nonzero(extreme, axis=-1)) / (1.0 + extreme.shape[-1])
    return _native(np.where(np.isnan(observed) | np.isnan(draws).any(axis=-1), np.nan, p))


def _native(value: Float64[np.ndarray, "*cond"]) -> FloatLike:
    """A Python float for a single value, so that records and tables never meet a 0-d array."""
    return float(value) if value.ndim == 0 else value
