"""The sections of docs/validity.md, each from its own rows; every number in them is read from there."""

from collections.abc import Iterator, Sequence

from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, COMMON_SHIFT, MARGIN_SWAP, PERMUTATION
from avalanche_llm.validity import branching_study, exponent_study, memory_study, surrogate_study
from avalanche_llm.validity.branching_study import IntervalRow, NullRow
from avalanche_llm.validity.exponent_study import GrowthRow, TailRow
from avalanche_llm.validity.limits import Limits
from avalanche_llm.validity.markup import NULL_NAMES, estimate, number, percent, table, with_interval
from avalanche_llm.validity.memory_study import MemoryRow
from avalanche_llm.validity.results import scenarios_of
from avalanche_llm.validity.scenarios import LAYERS, SCENARIOS, TOKENS
from avalanche_llm.validity.surrogate_study import SurrogateRow


def processes() -> Iterator[str]:
    """What is simulated."""
    yield "## The processes"
    yield (
        "All truths are exact: closed forms, and the transition matrix of directed percolation. The last columns say which null "
        "is true of the process. Permutation: tokens of a layer are exchangeable and layers unrelated. Shift: layers are "
        "unrelated. Swap: all rasters with the same counts by layer and by token are equally likely."
    )
    answer = {True: "true", False: "false"}
    rows = [
        [one.name, one.text, *(answer[holds] for holds in (one.permutation_holds, one.shift_holds, one.swap_holds))]
        for one in SCENARIOS
    ]
    yield table(["process", "what it is", "permutation", "shift", "swap"], rows)


def intervals(found: Sequence[IntervalRow], limits: Limits) -> Iterator[str]:
    """Coverage and bias of branching and chi."""
    typical = min((row.coverage for row in found), key=lambda share: abs(share.value - 0.95))
    yield "## Intervals"
    yield (
        f"Rasters of {LAYERS} layers and {TOKENS} tokens, {typical.n} repetitions, {limits.bootstrap_reps} bootstrap "
        "replicates over sequences. Coverage of 95 % intervals in per cent, by number of sequences. A share near 95 has the "
        f"binomial interval {with_interval(typical).partition(' ')[2]}; those of all are in validity.json."
    )
    numbers = sorted({row.n_sequences for row in found})
    measures = ("b_tot", "delta_b_tot", "delta_b_tot_shift", "chi")
    cell = {(row.scenario, row.measure, row.n_sequences): percent(row.coverage) for row in found}
    names = scenarios_of(found)
    by_number = " / ".join(map(str, numbers))
    yield table(
        ["process", *(f"{measure}, {by_number}" for measure in measures)],
        [[name, *(" / ".join(cell[name, measure, n] for n in numbers) for measure in measures)] for name in names],
    )
    yield "![Coverage of intervals](figures/validity_coverage.png)"
    yield (
        "b and delta_b are ratios of sums: with few sequences the percentile interval is too narrow, and on the sparse raster, "
        "where many a resample has no pair at all, it fails. chi is a variance: its interval is too narrow wherever few "
        "sequences hold much of it."
    )
    yield f"Truth and mean estimate (standard deviation over repetitions) with {max(numbers)} sequences:"
    shown = ("b_time", "b_depth", "delta_b_time", "delta_b_depth", "chi")
    most = {(row.scenario, row.measure): row for row in found if row.n_sequences == max(numbers)}
    rows = [
        [name, *(f"{number(row.truth)}: {estimate(row.mean, row.sd)}" for row in (most[name, measure] for measure in shown))]
        for name in names
    ]
    yield table(["process", *shown], rows)


def nulls(found: Sequence[NullRow]) -> Iterator[str]:
    """z and p where the null is true, and the seam of the shift."""
    yield "## z and p where the null is true"
    yield (
        f"Against the exact mean and spread and {branching_study.NULL_DRAWS} draws, {branching_study.NULL_SEQUENCES} sequences. "
        "z should have mean 0 and standard deviation 1, p be uniform. KS: p value of the Kolmogorov-Smirnov test of that, "
        "two-sided, and against too many small p alone. Ties on the sparse raster make p too large, never too small."
    )
    rows = [
        [
            row.scenario,
            f"{NULL_NAMES[row.null_id]}, {row.statistic}",
            f"{row.z_mean:.2f} ({row.z_sd:.2f})",
            with_interval(row.rejected),
            f"{row.ks_p:.2g} / {row.ks_small_p:.2g}",
        ]
        for row in found
        if row.holds
    ]
    yield table(["process", "null, statistic", "z: mean (sd)", "p at most 0.05, %", "KS: both / small"], rows)
    yield "![Distribution of p](figures/validity_p_values.png)"
    seam = {row.statistic: row for row in found if (row.scenario, row.null_id) == ("branching", CIRCULAR_SHIFT)}
    yield (
        "**The seam of the circular shift.** A shifted layer is opened inside a run and closed where two unrelated ends meet. A "
        "layer with a memory along tokens therefore has more neighbouring pairs than its own shifts, although nothing links it "
        f"to other layers. For the branching process z of b_tot is {seam['b_tot'].z_mean:.2f} on average, and p is at most 0.05 "
        f"in {with_interval(seam['b_tot'].rejected)} % of the repetitions. This z grows with the number of sequences and layers "
        "and falls with that of tokens. What a shift can test is the alignment of layers, and b_depth alone tests it: "
        f"{with_interval(seam['b_depth'].rejected)} %. The same holds of the intervals of delta_b_tot_shift and of "
        "delta_b_depth_shift, the excess of b_depth over the shift."
    )


def surrogates(found: Sequence[SurrogateRow]) -> Iterator[str]:
    """Which null sees through a drive without propagation."""
    yield "## What each surrogate sees through"
    yield (
        "Nothing propagates in a drive: layers follow a common rate. Excess of b_tot over the surrogates (pairs a site), and in "
        f"brackets how often, in per cent of {found[0].rejected.n} repetitions, it is called structure at the 5 % level "
        f"({surrogate_study.SEQUENCES} sequences, {LAYERS} layers, {surrogate_study.TOKENS} tokens)."
    )
    ids = list(dict.fromkeys(row.null_id for row in found))
    of = {(row.scenario, row.null_id): row for row in found}
    rows = [
        [name, *(f"{row.excess:+.3f} ({percent(row.rejected)})" for row in (of[name, null_id] for null_id in ids))]
        for name in scenarios_of(found)
    ]
    yield table(["process", *(NULL_NAMES[null_id] for null_id in ids)], rows)
    yield "![Surrogates](figures/validity_surrogates.png)"
    smooth = {null_id: with_interval(of["drive, smooth", null_id].rejected) for null_id in ids}
    yield (
        f"Called structure, in per cent: a smooth common drive by the permutation {smooth[PERMUTATION]}, by the circular shift "
        f"{smooth[CIRCULAR_SHIFT]}, by the margin swap, which keeps how many layers each token excites, {smooth[MARGIN_SWAP]}. "
        "The swap no longer sees through it when each half of the layers has a drive of its own: "
        f"{with_interval(of['drive, banded', MARGIN_SWAP].rejected)}. Nor is the swap a test of propagation: a cascade that "
        "excites all layers alike would be absorbed like a drive. The common shift changes the seam alone, and what excess it "
        f"shows ({of['branching', COMMON_SHIFT].excess:+.3f} for the branching process) is the seam's: it controls how large an "
        "excess may be by construction, not its p."
    )


def memory(found: Sequence[MemoryRow]) -> Iterator[str]:
    """m along tokens."""
    yield "## m along tokens"
    yield (
        f"{memory_study.SEQUENCES} sequences of {memory_study.TOKENS} tokens, {memory_study.LAGS} lags, {found[0].available.n} "
        f"repetitions. The pipeline gives m without an interval; coverage is that of {memory_study.RESAMPLES} resamples of the "
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
    yield (
        f"gamma over durations {limits.d_min} to {limits.d_max}, {found[0].available.n} repetitions. The truth "
        "of critical trees is the slope of their exact mean sizes in that range, below the asymptotic 2. Growth: planted runs of "
        "tokens whose mean size is a power of their duration. Trees: Poisson(1) branching from single events, one after another."
    )
    rows = [
        [
            row.scenario,
            str(row.n_sequences),
            number(row.truth),
            estimate(row.mean, row.sd),
            percent(row.available),
            with_interval(row.coverage),
        ]
        for row in found
    ]
    yield table(["process", "sequences", "gamma", "estimate (sd)", "available, %", "coverage, %"], rows)
    mean = {row.scenario: number(row.mean) for row in found}
    yield (
        "Every duration counts alike in the fit, and the logarithm of a mean of few sizes is too small on average; in a resample "
        "twice over. So gamma and its interval lie too low where long durations are rare, and less so with more avalanches. "
        "Trees are also cut by the end of the raster, which more sequences do not mend. Without propagation there is a gamma "
        f"too: {mean['percolation']} at the percolation threshold, {mean['drive, smooth']} under the smooth drive."
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
