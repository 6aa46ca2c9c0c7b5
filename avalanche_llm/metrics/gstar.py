"""Choosing g*: one gain of the grid by a stated rule, and how far that choice can be trusted (spec 08).

    btot_near_one   argmin over the grid of |b_tot - 1|           the published rule and the default
    mr_near_one     argmin over the grid of |m - 1|               m of the multistep regression along tokens
    excess_peak     argmax over the grid of delta_b_tot           b_tot over its permutation null

Ties go to the gain nearest 1, then to the smaller. The status says whether the grid locates the choice: one is crossed beside
it, or the excess falls on both sides of it. A nearest gain without a crossing is the least distant, not a near-critical one.

Whatever shows one cell for all of them (F01, the summary, the report) asks `shown_first`: the cell that fits its rule best.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.signatures import GAIN_DECIMALS
from avalanche_llm.metrics.stats import FloatLike, Interval
from avalanche_llm.settings import GstarMethod

GstarStatus = Literal["bracketed", "grid_edge", "no_crossing"]
BRANCHING_INPUTS: Final = frozenset(
    {"dataset_role", "spike_def_id", "target_rate", "g", "seq_id", "n_sites", "time_pairs", "depth_pairs"}
    | {f"{null}_{axis}_pairs" for null in ("perm", "shift") for axis in ("time", "depth")}
)


@dataclass(frozen=True)
class Criterion:
    """What a method looks at, and in words when it locates a gain and when it does not.

    target: the value that the quantity should be nearest to; None where it should be as large as it can be.
    """

    quantity: str
    rule: str
    located: str
    missed: str
    target: float | None

    def misfit(self, value: FloatLike) -> FloatLike:
        """How far a value of the quantity, or each of an array, is from what the rule asks for; the least is the best."""
        return -value if self.target is None else np.abs(value - self.target)


CRITERIA: Final[Mapping[GstarMethod, Criterion]] = MappingProxyType(
    {
        "btot_near_one": Criterion("b_tot", "b_tot nearest one", "b_tot crosses one", "b_tot does not cross one", 1.0),
        "excess_peak": Criterion(
            "delta_b_tot", "the largest delta_b_tot", "delta_b_tot peaks", "delta_b_tot does not peak", None
        ),
        "mr_near_one": Criterion(
            "m", "m along tokens nearest one", "m along tokens crosses one", "m along tokens does not cross one", 1.0
        ),
    }
)


@dataclass(frozen=True)
class CurvePoint:
    """What the method looks at, at one gain, with its 95 % interval over resampled sequences; None where not available."""

    g: float
    criterion: float | None
    ci_low: float | None
    ci_high: float | None
    n_valid_replicates: int


@dataclass(frozen=True)
class GstarChoice:
    """g* of one cell. criterion is what the method looks at, there; distance = |b_tot(g*) - 1| whatever the method.

    The interval and the shares come from resampled sequences, None and empty where none of them has the quantity; `curve` is what
    the method looks at over the whole grid.
    """

    gstar: float
    criterion: float
    b_tot: float
    distance: float
    status: GstarStatus
    ci_low: float | None
    ci_high: float | None
    n_valid_replicates: int
    bootstrap_share: dict[str, float]
    curve: list[CurvePoint]


def refuse_task_metrics(columns: Sequence[str]) -> None:
    """Only branching on data set A may choose a gain: SchemaError for any other column among the inputs."""
    foreign = sorted(set(columns) - BRANCHING_INPUTS)
    if foreign:
        raise SchemaError(f"g* is chosen from branching on data set A alone; remove {', '.join(foreign)} from its inputs")


def shown_first(selections: Iterable[Mapping[Any, Any]], method: GstarMethod) -> Mapping[Any, Any]:
    """Of the selections of gstar.json the one that fits its rule best, the first where several do."""
    return min(selections, key=lambda row: CRITERIA[method].misfit(row["criterion"]))


def least(gains: Float[np.ndarray, " gain"], misfit: FloatLike) -> np.ndarray:
    """Index of the gain with the least misfit, `[*rep, gain]`, along the last axis; -1 where every one is NaN (silence)."""
    from_one = np.round(np.abs(gains - 1.0), GAIN_DECIMALS)  # 0.85 and 1.15 are equally near
    preference = np.lexsort((gains, from_one))
    known = np.where(np.isnan(misfit), np.inf, misfit)[..., preference]
    chosen = preference[np.argmin(known, axis=-1)]
    return np.where(np.isinf(known).all(axis=-1), -1, chosen)


def crossing_status(values: Float[np.ndarray, " gain"], chosen: int) -> GstarStatus:
    """bracketed: the value is one or crosses it between the chosen gain and a neighbour; else where the gain sits."""
    here = float(values[chosen]) - 1.0
    return _status(here == 0.0 or any(here * (other - 1.0) < 0 for other in _beside(values, chosen)), values, chosen)


def peak_status(values: Float[np.ndarray, " gain"], chosen: int) -> GstarStatus:
    """bracketed: a value above zero, with a smaller one on both sides; else where the gain sits.

    `choose_gstar` asks more: that resampled sequences, too, have their peak inside the grid.
    """
    here = float(values[chosen])
    below = [other < here for other in _beside(values, chosen)]
    return _status(here > 0.0 and len(below) == 2 and all(below), values, chosen)


def _beside(values: Float[np.ndarray, " gain"], chosen: int) -> list[float]:
    return [float(values[index]) for index in (chosen - 1, chosen + 1) if 0 <= index < len(values)]


def _status(bracketed: bool, values: Float[np.ndarray, " gain"], chosen: int) -> GstarStatus:
    if bracketed:
        return "bracketed"
    return "grid_edge" if chosen in (0, len(values) - 1) else "no_crossing"


def choose_gstar(
    gains: Float[np.ndarray, " gain"],
    b_tot: Float[np.ndarray, " gain"],
    values: Float[np.ndarray, " gain"],
    replicates: Float[np.ndarray, "rep gain"],
    interval: Interval,
    method: GstarMethod,
) -> GstarChoice:
    """The choice by `values` of the method's quantity, with its status and the interval of the gain.

    The gain is one of a few: its interval is that of the gains which resampled sequences choose. `interval`, `[gain]`, is that of
    `values`, for the curve.

    Raises SchemaError if the quantity is undefined at every gain.
    """
    criterion = CRITERIA[method]
    chosen = int(least(gains, criterion.misfit(values)))
    if chosen < 0:
        raise SchemaError(_undefined(method))
    picks = least(gains, criterion.misfit(replicates))
    picked = gains[picks[picks >= 0]]
    low, high = np.quantile(picked, (0.025, 0.975), method="inverted_cdf").tolist() if len(picked) else (None, None)
    peak = criterion.target is None
    found = peak_status(values, chosen) if peak else crossing_status(values, chosen)
    if peak and found == "bracketed" and (low is None or not gains.min() < low <= high < gains.max()):
        found = "no_crossing"  # noise alone gives a flat curve a largest value inside the grid
    share = {f"{gain:g}": float((picked == gain).mean()) for gain in gains if (picked == gain).any()}
    return GstarChoice(
        gstar=float(gains[chosen]),
        criterion=float(values[chosen]),
        b_tot=float(b_tot[chosen]),
        distance=float(abs(b_tot[chosen] - 1.0)),
        status=found,
        ci_low=low,
        ci_high=high,
        n_valid_replicates=len(picked),
        bootstrap_share=share,
        curve=_curve(gains, values, interval),
    )


def _curve(gains: Float[np.ndarray, " gain"], values: Float[np.ndarray, " gain"], interval: Interval) -> list[CurvePoint]:
    columns = (np.asarray(column).tolist() for column in (gains, values, interval.low, interval.high, interval.n_valid))
    return [
        CurvePoint(g, _known(value), _known(low), _known(high), n) for g, value, low, high, n in zip(*columns, strict=True)
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _undefined(method: GstarMethod) -> str:
    if method == "mr_near_one":
        return (
            "m is not available at any gain: no memory along tokens that the multistep regression can tell from none, "
            "so no g* can be chosen; use btot_near_one, more windows or a higher target rate"
        )
    return f"{CRITERIA[method].quantity} is undefined at every gain: the rasters hold no events, so no g* can be chosen"
