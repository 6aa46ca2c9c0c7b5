"""The sections of docs/validity.md on processes, branching, surrogates and claims; every number in them is read from the rows."""

from collections.abc import Iterator, Sequence

import numpy as np

from avalanche_llm.metrics.branching import MIN_HOLDERS
from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, COMMON_SHIFT, MARGIN_SWAP, PERMUTATION
from avalanche_llm.validity import branching_study, surrogate_study
from avalanche_llm.validity.branching_study import IntervalRow, NullRow
from avalanche_llm.validity.exponent_study import GrowthRow
from avalanche_llm.validity.goals import MOSTLY
from avalanche_llm.validity.limits import Limits
from avalanche_llm.validity.markup import NULL_NAMES, estimate, number, percent, table, with_interval
from avalanche_llm.validity.results import scenarios_of
from avalanche_llm.validity.scenarios import LAYERS, SCENARIOS, TOKENS
from avalanche_llm.validity.surrogate_study import SurrogateRow
from avalanche_llm.validity.verdict_study import VerdictRow


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
    judged = [row.coverage for row in found if row.coverage is not None and row.given.value >= MOSTLY]
    typical = min(judged, key=lambda share: (abs(share.value - 0.95), -share.n))
    yield "## Intervals"
    yield (
        f"Rasters of {LAYERS} layers and {TOKENS} tokens, {found[0].given.n} repetitions, {limits.bootstrap_reps} bootstrap "
        "replicates over sequences. An interval is the estimate less its bias, plus and minus t times its standard error, both "
        "from the replicates and scaled up by n / (n - 1), for b on the logarithm (`avalanche_llm/metrics/stats.py`); that of "
        "chi is the studentised bootstrap of its logarithm (`avalanche_llm/metrics/susceptibility.py`). "
        f"Those of b and delta_b are given where at least {MIN_HOLDERS} sequences hold a pair. Coverage of 95 % intervals in per "
        "cent, by number of sequences; in brackets, where not all were given, the share that was. A share near 95 has the "
        f"binomial interval {with_interval(typical).partition(' ')[2]}; those of all are in validity.json."
    )
    numbers = sorted({row.n_sequences for row in found})
    measures = ("b_tot", "delta_b_tot", "delta_b_depth_shift", "chi")
    cell = {(row.scenario, row.measure, row.n_sequences): _covered(row) for row in found}
    names = scenarios_of(found)
    by_number = " / ".join(map(str, numbers))
    yield table(
        ["process", *(f"{measure}, {by_number}" for measure in measures)],
        [[name, *(" / ".join(cell[name, measure, n] for n in numbers) for measure in measures)] for name in names],
    )
    yield "![Coverage of intervals](figures/validity_coverage.png)"
    rare = [row for row in found if row.coverage is not None and row.given.value < MOSTLY]
    if rare:
        worst = max(rare, key=_missed)
        yield (
            "Where intervals are mostly not given, the few that are come from samples with more pairs than usual and cover less. "
            f"Counted over all repetitions such a case misses in {100.0 * _missed(worst):.1f} % at most ({worst.measure}, "
            f"{worst.scenario}, {worst.n_sequences} sequences, {percent(worst.given)} % given)."
        )
    of_chi = [row for row in found if row.measure == "chi" and row.coverage is not None]
    least = min(of_chi, key=lambda row: row.coverage.value if row.coverage else 1.0)
    yield (
        "chi is a variance: its interval is hardest where a few sequences hold most of it, and their tails do not show in so "
        f"few. It covers least for {least.scenario} with {least.n_sequences} sequences, {with_interval(least.coverage)} %. Of "
        "processes with heavier tails than any here (rates that are log-normal with sigma 1, say) it would cover less."
    )
    yield f"Truth and mean estimate (standard deviation over repetitions) with {max(numbers)} sequences:"
    shown = ("b_time", "b_depth", "delta_b_time", "delta_b_depth", "chi")
    most = {(row.scenario, row.measure): row for row in found if row.n_sequences == max(numbers)}
    rows = [
        [name, *(f"{number(row.truth)}: {estimate(row.mean, row.sd)}" for row in (most[name, measure] for measure in shown))]
        for name in names
    ]
    yield table(["process", *shown], rows)


def _covered(row: IntervalRow) -> str:
    """Coverage in per cent, with the share given where that is not all."""
    if row.coverage is None:
        return "none"
    return percent(row.coverage) if row.given.value == 1.0 else f"{percent(row.coverage)} ({percent(row.given)})"


def _missed(row: IntervalRow) -> float:
    """Share of all repetitions that have an interval which misses."""
    return row.given.value * (1.0 - row.coverage.value) if row.coverage is not None else 0.0


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


def verdicts(found: Sequence[VerdictRow], found_intervals: Sequence[IntervalRow], fits: Sequence[GrowthRow]) -> Iterator[str]:
    """How often claims hold under their nulls, and which claims have none."""
    yield "## False positives of the claims"
    yield (
        "How often the rule of a claim (`avalanche_llm/paper/rules.py`) holds in a cell where its null is true, in per cent. An "
        "interval above 0 has 2.5 % at its level. The paper calls a claim supported where all its cells satisfy it, which is "
        "rarer. Excess over permutation and shift, by number of sequences:"
    )
    numbers = sorted({row.n_sequences for row in found_intervals})
    claims = (("delta_b_tot", "permutation_holds"), ("delta_b_depth_shift", "shift_holds"))
    cell = {(row.scenario, row.measure, row.n_sequences): percent(row.above_zero) for row in found_intervals}
    rows = [
        [one.name, *(" / ".join(cell[one.name, name, n] for n in numbers) if getattr(one, flag) else "" for name, flag in claims)]
        for one in SCENARIOS
        if one.shift_holds
    ]
    by_number = " / ".join(map(str, numbers))
    heads = [f"{name}, {by_number}" for name in ("excess over permutation", "depth over shift")]
    yield table(["process", *heads], rows)
    yield table(
        ["claim", "null", "n", "supported, %"],
        [[row.claim, row.scenario, str(row.n), with_interval(row.supported)] for row in found],
    )
    passing = max((row for row in fits if np.isnan(row.asymptotic)), key=lambda row: row.passed.value)
    yield (
        "Some claims have no such rate. `crackling` says that a slope was measured, which it can be without dynamics: of the "
        f"processes without an exponent {passing.scenario} passes its gate most often, with {passing.n_sequences} sequences in "
        f"{with_interval(passing.passed)} %. "
        "`crossing`, `signatures_agree` and `replication` compare gains of the grid, and density alone moves b_tot across one. "
        "`mlp_rather_than_attention` compares two distances without an interval: if the two did not differ it would hold every "
        "other time. `rates_matched` and `rates_held_out` check the thresholds. None of these is evidence of structure."
    )
