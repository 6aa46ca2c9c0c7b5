"""The sections of docs/validity.md on m, gamma and tail exponents, each from its own rows."""

from collections.abc import Iterator, Sequence

from avalanche_llm.validity import exponent_study, memory_study
from avalanche_llm.validity.exponent_study import TREE_GAMMA, GrowthRow, TailRow
from avalanche_llm.validity.limits import Limits
from avalanche_llm.validity.markup import estimate, number, percent, table, with_interval
from avalanche_llm.validity.memory_study import MemoryRow


def memory(found: Sequence[MemoryRow]) -> Iterator[str]:
    """m along tokens."""
    yield "## m along tokens"
    yield (
        f"{memory_study.SEQUENCES} sequences of {memory_study.TOKENS} tokens, {memory_study.LAGS} lags, {found[0].available.n} "
        f"repetitions. The pipeline gives m without an interval; coverage is that of a jackknife over "
        "sequences, made for this page in two cases. `seen` is the share of the events that the raster holds."
    )
    rows = [
        [
            row.scenario,
            f"{row.seen:g}",
            "yes" if row.propagates else "no",
            number(row.truth),
            estimate(row.mean, row.sd),
            number(row.one_step),
            percent(row.available),
            with_interval(row.coverage),
        ]
        for row in found
    ]
    yield table(["process", "seen", "propagates", "m", "multistep (sd)", "one step", "available, %", "coverage, %"], rows)
    yield "![m along tokens](figures/validity_memory.png)"
    mean = {row.scenario: number(row.mean) for row in found}
    yield (
        "m is the decay of correlations, whatever makes them. A smooth drive without propagation has m = "
        f"{mean['drive, smooth']}, sequences that merely differ in rate {mean['drive, sequence']}."
    )


def growth(found: Sequence[GrowthRow], limits: Limits) -> Iterator[str]:
    """Crackling."""
    yield "## Crackling"
    whole, components = exponent_study.tree_gamma(limits)
    yield (
        f"gamma over durations {limits.d_min} to {limits.d_max}, {found[0].given.n} repetitions, the interval by leaving "
        "out one sequence at a time, where two sequences or more hold every duration of the fit. What it should enclose is the "
        "slope of the expected mean sizes in that range on that "
        f"raster: exact for planted growth and for trees, else from {exponent_study.LONG_RUN} other rasters of "
        f"{exponent_study.TAIL_SEQUENCES} sequences, by durations with {exponent_study.MANY} avalanches. `long` is the "
        "exponent of long avalanches where there is one. Growth: planted runs of tokens whose mean size is a power of their "
        "duration. Trees: Poisson(1) branching from single events, one after another."
    )
    rows = [
        [
            row.scenario,
            str(row.n_sequences),
            number(row.asymptotic),
            number(row.truth),
            estimate(row.mean, row.sd),
            percent(row.given),
            with_interval(row.coverage),
            percent(row.passed),
        ]
        for row in found
    ]
    heads = ["process", "sequences", "long", "gamma in range", "estimate (sd)", "given, %", "coverage, %", "gate passed, %"]
    yield table(heads, rows)
    mean = {row.scenario: number(row.mean) for row in found}  # with most sequences
    yield (
        f"**The range itself is biased.** Whole critical trees have a slope of {number(whole)} there and {number(TREE_GAMMA)} "
        f"only for long durations; on this raster, whose end cuts some trees, it is {number(components)}. No interval knows of "
        "that: it tells how well the slope in the range is known, not how far the range is from the exponent."
    )
    yield (
        "Every duration counts alike in the fit, and the logarithm of a mean of few sizes is too small on average. Leaving "
        "out sequences estimates that bias and the interval takes it off; the reported gamma itself keeps it. A duration "
        "that one sequence alone holds drops out with that sequence and tells neither its bias nor its spread; given all the "
        "same, the interval would miss by the bias. Where mean sizes are no power of the duration, the slope also depends on "
        "which durations happen to occur. Without propagation there is a gamma too: "
        f"{mean['percolation']} at the percolation threshold, "
        f"{mean['drive, smooth']} under the smooth drive."
    )


def tails(found: Sequence[TailRow]) -> Iterator[str]:
    """Tail exponents and verdicts."""
    yield "## Tails"
    yield (
        f"{exponent_study.TAIL_SEQUENCES} sequences, {found[0].over_lognormal.n} repetitions. alpha of a cut law is that before "
        "the cut; coverage is that of a bootstrap over sequences at the xmin chosen once, made for this page. Then how often the "
        "power law is preferred to another law, or another to it (Vuong, p below 0.05), in per cent. Power-law and log-normal "
        "sizes are planted on isolated sites, the others are components."
    )
    rows = [
        [
            row.scenario,
            row.sizes,
            number(row.truth),
            estimate(row.mean, row.sd),
            *(with_interval(one) for one in (row.coverage, row.over_lognormal, row.under_lognormal, row.over_exponential)),
        ]
        for row in found
    ]
    heads = ["process", "sizes", "alpha", "estimate (sd)", "coverage", "over log-normal", "log-normal over", "over exponential"]
    yield table(heads, rows)
    yield "![Exponents](figures/validity_exponents.png)"
    of = {row.scenario: row for row in found}
    percolation = of["percolation"]
    yield (
        "The log-normal has the power law as a limit, so the comparison can reject a power law and hardly ever prefer it: "
        f"{with_interval(of['power law, 2.5'].over_lognormal)} % where it is the truth. Preference over the exponential says "
        f"little: {with_interval(of['log-normal'].over_exponential)} % for log-normal sizes, "
        f"{with_interval(of['drive, smooth'].over_exponential)} % under the smooth drive. Where the raster cuts a power law, the "
        f"fits miss its exponent ({estimate(percolation.mean, percolation.sd)} for {number(percolation.truth)} at the "
        "percolation threshold) and may prefer the log-normal."
    )
