"""Crackling gamma and tail exponents against the truth, and which law the tail fits prefer.

Components come from `metrics.avalanches` with ADJ_4N, the pipeline's limits are those of the registry. A verdict is a
preference at Vuong's p < 0.05 (`paper.rules`). The pipeline reports alpha without an interval; here sequences are resampled at
the xmin that was chosen once, with `metrics.discrete_laws.powerlaw_alpha`.

What an interval of gamma should enclose is the slope of the expected mean sizes in the fitted range, of that process on that
raster. It is exact for planted growth and for trees, and else comes from LONG_RUN rasters of their own. How far it lies from
the exponent of infinitely long avalanches is another matter, and stands beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
from jaxtyping import Float64, UInt16

from avalanche_llm.metrics.avalanches import AvalancheTable, avalanches
from avalanche_llm.metrics.discrete_laws import powerlaw_alpha
from avalanche_llm.metrics.signatures import CracklingFit, crackling
from avalanche_llm.metrics.stats import bootstrap_weights, t_interval
from avalanche_llm.metrics.tails import TailFit, fit_tail
from avalanche_llm.paper.rules import preferred
from avalanche_llm.raster.build import occupancy
from avalanche_llm.simulate.cascade import TREE_SIZE_EXPONENT, branching_trees
from avalanche_llm.simulate.lattice import PERCOLATION_SIZE_EXPONENT
from avalanche_llm.simulate.sizes import lognormal_sizes, planted_growth, power_law_sizes
from avalanche_llm.simulate.truth import Shape
from avalanche_llm.validity.branching_study import LEVEL, SEQUENCES
from avalanche_llm.validity.limits import Limits
from avalanche_llm.validity.scenarios import scenario, seed_of
from avalanche_llm.validity.shares import Share, share

TAIL_SEQUENCES: Final = 32
TREE_SHAPE: Final = (8, 512)
TREE_GAMMA: Final = 2.0
"""Of long critical trees (Sethna, Dahmen and Myers 2001)."""
LONG_RUN: Final = 400
MANY: Final = 100
"""Avalanches of one duration over the long run before its mean size takes part."""
_NAN: Final = float("nan")

Counts = UInt16[np.ndarray, "seq layer token"]
SizeLaw = Literal["power law", "cut power law", "other"]
"""Of the sizes: a power law, one that the size of the raster or a longest duration cuts off, or neither."""


@dataclass(frozen=True)
class ExponentCase:
    """draw(n_seq, seed) gives A; gamma: exact slope in the range, alpha: before a cut; NaN where none is known."""

    name: str
    draw: Callable[[int, int], Counts]
    sizes: SizeLaw
    gamma: float = _NAN
    asymptotic: float = _NAN
    alpha: float = _NAN
    has_durations: bool = True


@dataclass(frozen=True)
class GrowthRow:
    """gamma at one number of sequences; coverage of the intervals given, None if none was. `passed`: the pipeline's gate.

    truth: the slope of expected mean sizes in the range; asymptotic: the exponent of long avalanches, NaN where there is none.
    """

    scenario: str
    n_sequences: int
    asymptotic: float
    truth: float
    given: Share
    mean: float
    sd: float
    coverage: Share | None
    passed: Share


@dataclass(frozen=True)
class TailRow:
    """alpha and verdicts over TAIL_SEQUENCES sequences."""

    scenario: str
    sizes: SizeLaw
    truth: float
    mean: float
    sd: float
    coverage: Share | None
    over_lognormal: Share
    under_lognormal: Share
    over_exponential: Share


def _process(name: str, layers: int, tokens: int) -> Callable[[int, int], Counts]:
    return partial(_drawn, name, layers, tokens)


def _drawn(name: str, layers: int, tokens: int, n_seq: int, seed: int) -> Counts:
    return scenario(name).draw(Shape(n_seq, layers, tokens), seed=seed).counts


def _grown(gamma: float, longest: int, n_seq: int, seed: int) -> Counts:
    return planted_growth(Shape(n_seq, 16, 256), gamma, longest=longest, spread=2.0, seed=seed).counts


def _trees(n_seq: int, seed: int) -> Counts:
    return branching_trees(Shape(n_seq, *TREE_SHAPE), 1.0, seed=seed).counts


def _power_law(alpha: float, n_seq: int, seed: int) -> Counts:
    return power_law_sizes(Shape(n_seq, 16, 128), alpha, seed=seed).counts


def _lognormal(n_seq: int, seed: int) -> Counts:
    return lognormal_sizes(Shape(n_seq, 16, 128), 1.5, 1.0, seed=seed).counts


def tree_gamma(limits: Limits) -> tuple[float, float]:
    """The slopes that exact mean sizes have in the fitted range: of whole critical trees, of components of the raster."""
    trees = branching_trees(Shape(1, *TREE_SHAPE), 1.0, seed=0)
    log_d = np.log(np.arange(limits.d_min, limits.d_max + 1))
    whole, cut = (
        float(np.polyfit(log_d, np.log(mean[limits.d_min - 1 : limits.d_max]), 1)[0])
        for mean in (trees.mean_size, trees.component_size)
    )
    return whole, cut


def long_run_gamma(case: ExponentCase, limits: Limits) -> float:
    """The slope of mean sizes over LONG_RUN rasters of TAIL_SEQUENCES, by durations with MANY avalanches; NaN if too few."""
    number, events = np.zeros((2, bins := limits.d_max + 2))
    for part in range(LONG_RUN):
        table = _components(case.draw(TAIL_SEQUENCES, seed_of("long run", case.name, part)))
        duration = np.minimum(table.span_tokens, limits.d_max + 1)
        number += np.bincount(duration, minlength=bins)
        events += np.bincount(duration, weights=table.size, minlength=bins)
    duration = np.arange(bins)
    used = (duration >= limits.d_min) & (duration <= limits.d_max) & (number >= MANY)
    if used.sum() < limits.min_points:
        return _NAN
    return float(np.polyfit(np.log(duration[used]), np.log(events[used] / number[used]), 1)[0])


def cases(limits: Limits) -> tuple[ExponentCase, ...]:
    """What is simulated. Planted growth has no duration beyond the range of the fit."""
    grown = {gamma: partial(_grown, gamma, limits.d_max) for gamma in (1.5, 2.0)}
    _, trees = tree_gamma(limits)
    return (
        *(
            ExponentCase(f"growth, {g:g}", draw, "cut power law", gamma=g, asymptotic=g, alpha=1.0 + 1.0 / g)
            for g, draw in grown.items()
        ),
        ExponentCase("critical trees", _trees, "cut power law", trees, TREE_GAMMA, TREE_SIZE_EXPONENT),
        ExponentCase("percolation", _process("percolation", 32, 128), "cut power law", alpha=PERCOLATION_SIZE_EXPONENT),
        ExponentCase("power law, 2", partial(_power_law, 2.0), "power law", alpha=2.0, has_durations=False),
        ExponentCase("power law, 2.5", partial(_power_law, 2.5), "power law", alpha=2.5, has_durations=False),
        ExponentCase("log-normal", _lognormal, "other", has_durations=False),
        ExponentCase("lattice", _process("lattice", 16, 128), "other"),
        ExponentCase("drive, smooth", _process("drive, smooth", 16, 128), "other"),
        ExponentCase("directed", _process("directed", 8, 256), "other"),
    )


def exponent_study(case: ExponentCase, repetitions: int, limits: Limits) -> tuple[list[GrowthRow], TailRow]:
    """Both tables of one case."""
    n_seq = max(SEQUENCES) if case.has_durations else TAIL_SEQUENCES
    tables = [_components(case.draw(n_seq, seed_of("exponents", case.name, part))) for part in range(repetitions)]
    growth = []
    if case.has_durations:
        truth = case.gamma if np.isfinite(case.gamma) else long_run_gamma(case, limits)
        growth = [_growth_row(case, tables, n, truth, limits) for n in SEQUENCES]
    return growth, _tail_row(case, tables, limits)


def _components(counts: Counts) -> AvalancheTable:
    return avalanches(occupancy(counts), counts, adjacency_id="ADJ_4N", max_per_sequence=counts[0].size)


def _growth_row(
    case: ExponentCase, tables: list[AvalancheTable], n_sequences: int, truth: float, limits: Limits
) -> GrowthRow:
    fits: list[CracklingFit] = []
    for table in tables:
        used = table.seq_id < n_sequences
        fits.append(
            crackling(
                table.size[used],
                table.span_tokens[used],
                table.seq_id[used],
                n_sequences=n_sequences,
                d_min=limits.d_min,
                d_max=limits.d_max,
                min_points=limits.min_points,
                ci_width_max=limits.ci_width_max,
            )
        )
    gamma, low, high = (np.array([getattr(fit, name) for fit in fits]) for name in ("gamma", "ci_low", "ci_high"))
    given = np.isfinite(low)
    covered = share(((low <= truth) & (truth <= high))[given]) if given.any() and np.isfinite(truth) else None
    passed = share(np.array([fit.passed for fit in fits]))
    return GrowthRow(case.name, n_sequences, case.asymptotic, truth, share(given), *_moments(gamma), covered, passed)


def _tail_row(case: ExponentCase, tables: list[AvalancheTable], limits: Limits) -> TailRow:
    fits, covered = [], []
    weights = bootstrap_weights(TAIL_SEQUENCES, reps=limits.bootstrap_reps, seed=limits.bootstrap_seed)
    for table in tables:
        used = table.seq_id < TAIL_SEQUENCES
        sizes, seq_id = table.size[used], table.seq_id[used]
        fit = fit_tail(sizes, xmin_percentile=limits.xmin_percentile, min_tail_samples=limits.min_tail)
        fits.append(fit)
        if case.sizes == "power law":
            interval = t_interval(fit.alpha_powerlaw, _alpha_replicates(sizes, seq_id, fit.xmin, weights), weights)
            covered.append(interval.low <= case.alpha <= interval.high)
    mean, sd = _moments(np.array([fit.alpha_powerlaw for fit in fits]))
    return TailRow(
        scenario=case.name,
        sizes=case.sizes,
        truth=case.alpha,
        mean=mean,
        sd=sd,
        coverage=share(np.array(covered)) if covered else None,
        over_lognormal=_preferred(fits, "lognormal", 1.0),
        under_lognormal=_preferred(fits, "lognormal", -1.0),
        over_exponential=_preferred(fits, "exponential", 1.0),
    )


def _alpha_replicates(
    sizes: np.ndarray, seq_id: np.ndarray, xmin: float, weights: np.ndarray
) -> Float64[np.ndarray, " reps"]:
    tail = sizes >= xmin
    number = np.bincount(seq_id[tail], minlength=TAIL_SEQUENCES)
    log_excess = np.bincount(seq_id[tail], weights=np.log(sizes[tail] / xmin), minlength=TAIL_SEQUENCES)
    return powerlaw_alpha(np.full(len(weights), xmin), (weights @ log_excess) / (weights @ number))


def _preferred(fits: list[TailFit], other: str, sign: float) -> Share:
    ratio, p = (np.array([getattr(fit, f"{name}_{other}") for fit in fits]) for name in ("llr_powerlaw_vs", "vuong_p"))
    return share(preferred(sign * ratio, p, LEVEL))


def _moments(values: Float64[np.ndarray, " repetition"]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return _NAN, _NAN
    return float(known.mean()), float(known.std(ddof=1))
