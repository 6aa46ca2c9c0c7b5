"""How often a claim of the paper holds where nothing is there to be found, by the rule that the claim itself uses.

One cell a repetition; with more cells a claim is supported only where all agree, which is rarer still.

    excess_swap        the excess over one margin swap of each sequence has its interval above 0 (`paper.rules.above`)
    arc_above_chance   questions answered at random, four choices: the interval of accuracy lies above chance
    arc_gain           two gains that answer alike at random: the paired interval of the change lies above 0
    likelihood_kept    two gains of equal expected loss: the upper end of the paired interval is at most 0

The claims of an excess over permutation and shift have the same rule; theirs is `IntervalRow.above_zero`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool

from avalanche_llm.metrics.accuracy import accuracy
from avalanche_llm.metrics.branching import branching_sums, excess_over_draw
from avalanche_llm.metrics.likelihood import SequenceNll, mean_nll
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.paper.rules import above, no_worse
from avalanche_llm.raster.build import occupancy
from avalanche_llm.raster.nulls import MARGIN_SWAP, draw_null
from avalanche_llm.simulate.truth import Shape
from avalanche_llm.validity.limits import Limits
from avalanche_llm.validity.scenarios import LAYERS, SCENARIOS, SEED, TOKENS, draw_raster, scenario, seed_of
from avalanche_llm.validity.shares import Share, share

SEQUENCES: Final = (16, 64)
QUESTIONS: Final = (40, 300)
CHANCE: Final = 0.25
POSITIONS: Final = 100
"""Predicted positions of a sequence; loss varies by LOSS_SD nats a token between texts, by CHANGE_SD between gains."""
LOSS_SD: Final = 0.4
CHANGE_SD: Final = 0.05
SWAPPED: Final = tuple(one.name for one in SCENARIOS if one.swap_holds)
PAIRED: Final = ("arc_above_chance", "arc_gain", "likelihood_kept")


@dataclass(frozen=True)
class VerdictRow:
    """How often one claim is supported under its null. `n` counts sequences, or questions where it is about questions."""

    claim: str
    scenario: str
    n: int
    supported: Share


def swap_verdicts(name: str, repetitions: int, limits: Limits) -> list[VerdictRow]:
    """The swap's claim for one process of which the swap's null is true."""
    most = max(SEQUENCES)
    counts = draw_raster("verdicts", scenario(name), Shape(repetitions * most, LAYERS, TOKENS)).counts
    x = occupancy(counts)
    null = draw_null(MARGIN_SWAP, x, counts, seed=SEED, condition=f"verdicts|{name}", seq_ids=range(len(x)))
    shape = (repetitions, most, LAYERS, TOKENS)
    observed, swapped = (branching_sums(raster.reshape(shape)) for raster in (x, null.occupancy))
    rows = []
    for n in SEQUENCES:
        weights = bootstrap_weights(n, reps=limits.bootstrap_reps, seed=limits.bootstrap_seed)
        found = [excess_over_draw(observed[part, :n], swapped[part, :n], weights)[1].low for part in range(repetitions)]
        rows.append(VerdictRow("excess_swap", name, n, share(above(np.array(found)))))
    return rows


def paired_verdicts(claim: str, repetitions: int, limits: Limits) -> list[VerdictRow]:
    """One claim about questions or the likelihood, where gains do not differ and answers are guesses."""
    rule, null, sizes = _RULES[claim]
    rng = np.random.Generator(np.random.PCG64(seed_of("verdicts", claim)))
    rows = []
    for n in sizes:
        weights = bootstrap_weights(n, reps=limits.bootstrap_reps, seed=limits.bootstrap_seed)
        holds = [rule(rng, n, weights) for _ in range(repetitions)]
        rows.append(VerdictRow(claim, null, n, share(np.array(holds))))
    return rows


def _guesses(rng: np.random.Generator, n: int) -> Bool[np.ndarray, " question"]:
    return rng.random(n) < CHANCE


def _above_chance(rng: np.random.Generator, n: int, weights: np.ndarray) -> bool:
    low = accuracy(_guesses(rng, n), weights).interval.low
    return bool(above(np.array([low]), CHANCE)[0])


def _gain(rng: np.random.Generator, n: int, weights: np.ndarray) -> bool:
    reference, other = (accuracy(_guesses(rng, n), weights) for _ in range(2))
    return bool(above(np.array([other.minus(reference).interval.low]))[0])


def _kept(rng: np.random.Generator, n: int, weights: np.ndarray) -> bool:
    reference = 4.0 + LOSS_SD * rng.standard_normal(n)
    other = reference + CHANGE_SD * rng.standard_normal(n)
    positions = np.full(n, POSITIONS)
    first, second = (mean_nll(SequenceNll(POSITIONS * loss, positions), weights) for loss in (reference, other))
    return bool(no_worse(np.array([second.minus(first).interval.high]))[0])


_Rule = Callable[[np.random.Generator, int, np.ndarray], bool]
_RULES: Final[dict[str, tuple[_Rule, str, tuple[int, ...]]]] = {
    "arc_above_chance": (_above_chance, "guesses", QUESTIONS),
    "arc_gain": (_gain, "guesses", QUESTIONS),
    "likelihood_kept": (_kept, "equal loss", SEQUENCES),
}

