"""docs/validity.md from the tables of the studies: every number in it is read from them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from avalanche_llm.plotting.tables import markdown_head
from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, COMMON_SHIFT, MARGIN_SWAP, PERMUTATION
from avalanche_llm.validity import branching_study, exponent_study, memory_study, surrogate_study
from avalanche_llm.validity.figures import COVERAGE_GOAL, NULL_NAMES
from avalanche_llm.validity.results import Tables
from avalanche_llm.validity.scenarios import LAYERS, SCENARIOS, TOKENS

_ENOUGH: Final = 64
"""The number of sequences from which the goal for coverage is set."""


@dataclass(frozen=True)
class Goal:
    """What was asked, what was found, whether it is met."""

    goal: str
    found: str
    met: bool


def report(tables: Tables) -> str:
    """The whole page as Markdown."""
    parts = [
        _HEAD,
        _table(["goal", "found", "met"], [[one.goal, one.found, "yes" if one.met else "**no**"] for one in goals(tables)]),
        _PROCESSES,
        _table(["process", "what it is", "permutation", "shift", "swap"], _process_rows()),
        *_interval_part(tables["intervals"]),
        *_null_part(tables),
        *_surrogate_part(tables["surrogates"]),
        *_memory_part(tables["memory"]),
        *_exponent_part(tables),
        _READING,
    ]
    return "\n\n".join(parts) + "\n"


def goals(tables: Tables) -> Iterator[Goal]:
    """Every goal of the study against its tables."""
    intervals, nulls, tails = tables["intervals"], tables["nulls"], tables["tails"]
    ratios = intervals[intervals["measure"] != "chi"]
    for enough, name in ((True, "64 and 128 sequences"), (False, "16 sequences")):
        of_number = (intervals["n_sequences"] >= _ENOUGH) == enough
        yield _coverage_goal(f"95 % intervals of b and delta_b, {name}", ratios[of_number[ratios.index]])
        yield _coverage_goal(f"95 % intervals of chi, {name}", intervals[of_number & (intervals["measure"] == "chi")])
    yield _coverage_goal("95 % intervals of gamma", _known(tables["growth"]))
    yield _coverage_goal("95 % intervals of alpha, power-law sizes", _known(tails))
    yield _coverage_goal("95 % intervals of m", _known(tables["memory"]))
    unrelated = intervals[intervals["scenario"].isin(_where("permutation_holds"))]
    no_alignment = intervals[intervals["scenario"].isin(_where("shift_holds"))]
    for rows, measure, null in ((unrelated, "delta_b_tot", "permutation"), (no_alignment, "delta_b_tot_shift", "shift")):
        chosen = rows[(rows["measure"] == measure) & (rows["n_sequences"] >= _ENOUGH)]
        yield _false_goal(f"{measure} interval above 0 where the {null} null is true", chosen, "above_zero")
    for null_id, statistic in ((PERMUTATION, "b_tot"), (CIRCULAR_SHIFT, "b_tot"), (CIRCULAR_SHIFT, "b_depth")):
        rows = nulls[(nulls["null_id"] == null_id) & (nulls["statistic"] == statistic) & nulls["holds"]]
        yield _false_goal(f"{NULL_NAMES[null_id]} p of {statistic} at most 0.05 where the null is true", rows, "rejected")
    other = tails[~tails["power_law"]]
    yield _false_goal("power law preferred to the log-normal, other sizes", other, "over_lognormal")
    yield _false_goal("power law preferred to the exponential, other sizes", other, "over_exponential")
    yield _false_goal("log-normal preferred to the power law, power-law sizes", tails[tails["power_law"]], "under_lognormal")


def _coverage_goal(goal: str, rows: pd.DataFrame) -> Goal:
    low, high = COVERAGE_GOAL
    inside = rows["coverage"].between(low, high)
    where = f"{int(inside.sum())} of {len(rows)} within {low:.0%} to {high:.0%}"
    worst = rows.loc[(rows["coverage"] - 0.95).abs().idxmax()]
    return Goal(goal, f"{where}; furthest off: {_percent(worst, 'coverage')} ({_place(worst)})", bool(inside.all()))


def _false_goal(goal: str, rows: pd.DataFrame, column: str) -> Goal:
    """Met where no process has more than 5 %: the lower end of the binomial interval decides."""
    worst = rows.loc[rows[column].idxmax()]
    met = bool((rows[f"{column}_low"] <= branching_study.LEVEL).all())
    return Goal(goal, f"{len(rows)} cases; largest: {_percent(worst, column)} ({_place(worst)})", met)


def _interval_part(intervals: pd.DataFrame) -> Iterator[str]:
    yield (
        f"## Intervals\n\nRasters of {LAYERS} layers and {TOKENS} tokens, {int(intervals['coverage_n'].max())} repetitions a process, "
        f"{branching_study.BOOTSTRAP_REPS} bootstrap replicates over sequences. Coverage in per cent by number of sequences, with the "
        "exact binomial interval in the last column of each measure's largest number. The truth is exact for every process."
    )
    numbers = sorted(set(intervals["n_sequences"]))
    measures = ("b_tot", "delta_b_tot", "delta_b_tot_shift", "chi")
    rows = []
    for name in dict.fromkeys(intervals["scenario"]):
        cells = [name]
        for measure in measures:
            chosen = intervals[(intervals["scenario"] == name) & (intervals["measure"] == measure)].sort_values("n_sequences")
            cells += [_percent(row, "coverage") for _, row in chosen.iterrows()]
        rows.append(cells)
    yield _table(["process", *(f"{measure}, {n}" for measure in measures for n in numbers)], rows)
    yield "![Coverage of intervals](figures/validity_coverage.png)"
    most = intervals[intervals["n_sequences"] == max(numbers)]
    chosen = most[most["measure"].isin(["b_time", "b_depth", "delta_b_time", "delta_b_depth", "delta_b_tot", "chi"])]
    yield f"Truth against the mean estimate at {max(numbers)} sequences (standard deviation over repetitions in brackets):"
    pairs = {
        name: [name, *(f"{row.truth:.4g} / {row.mean:.4g} ({row.sd:.2g})" for row in of_process.itertuples())]
        for name, of_process in chosen.groupby("scenario", sort=False)
    }
    yield _table(["process", *dict.fromkeys(chosen["measure"])], list(pairs.values()))


def _null_part(tables: Tables) -> Iterator[str]:
    nulls = tables["nulls"]
    yield (
        f"## z and p\n\nAgainst the exact mean and spread and {branching_study.NULL_DRAWS} draws, {branching_study.NULL_SEQUENCES} "
        "sequences. Where the null is true, z has mean 0 and standard deviation 1, and p is uniform (Kolmogorov-Smirnov, both sides; "
        "and the side of too many small p alone, which ties cannot cause)."
    )
    rows = [
        [
            row["scenario"],
            f"{NULL_NAMES[row['null_id']]}, {row['statistic']}",
            "true" if row["holds"] else "false",
            f"{row['z_mean']:.2f} ({row['z_sd']:.2f})",
            _share(row, "rejected"),
            f"{row['ks_p']:.2g} / {row['ks_small_p']:.2g}",
        ]
        for _, row in nulls.iterrows()
    ]
    yield _table(["process", "null, statistic", "null is", "z mean (sd)", "p at most 0.05, %", "KS p, both / small"], rows)
    yield "![Distribution of p](figures/validity_p_values.png)"
    seam = nulls[(nulls["scenario"] == "branching") & (nulls["null_id"] == CIRCULAR_SHIFT)].set_index("statistic")
    yield (
        "**The seam of the circular shift.** A shifted layer is opened inside a run and closed where two unrelated ends meet. Layers "
        "with a memory along tokens therefore have more pairs than their own shifts, although nothing links the layers: for the "
        f"branching process z of b_tot is {seam.loc['b_tot', 'z_mean']:.2f} on average and "
        f"{_share(seam.loc['b_tot'], 'rejected')} per cent of the repetitions have p at most 0.05. The excess of z grows with the root "
        "of sequences times layers and falls with the root of tokens. A shift says something about the alignment of layers only, and "
        f"b_depth alone shows that: {_share(seam.loc['b_depth'], 'rejected')} per cent. Read `opt_shift_p_b_tot` and "
        "`opt_delta_b_tot_shift` with this in mind."
    )


def _surrogate_part(surrogates: pd.DataFrame) -> Iterator[str]:
    yield (
        "## What each surrogate sees through\n\nThe drives have no propagation at all: every layer follows a common rate. "
        f"Excess b_tot (pairs a site), and in brackets the per cent of {int(surrogates['rejected_n'].max())} repetitions in which it "
        f"is called structure at the 5 % level ({surrogate_study.SEQUENCES} sequences, {LAYERS} layers, {surrogate_study.TOKENS} tokens)."
    )
    names = [null_id for null_id in NULL_NAMES if null_id in set(surrogates["null_id"])]
    cell = {
        (row["scenario"], row["null_id"]): f"{row['excess']:+.3f} ({_share(row, 'rejected')})" for _, row in surrogates.iterrows()
    }
    processes = list(dict.fromkeys(surrogates["scenario"]))
    rows = [[name, *(cell[name, null_id] for null_id in names)] for name in processes]
    yield _table(["process", *(NULL_NAMES[null_id] for null_id in names)], rows)
    yield "![Surrogates](figures/validity_surrogates.png)"
    found = surrogates.set_index(["scenario", "null_id"])
    fooled, seen = (found.loc[("drive, smooth", null_id)] for null_id in (PERMUTATION, MARGIN_SWAP))
    banded, common = found.loc[("drive, banded", MARGIN_SWAP)], found.loc[("branching", COMMON_SHIFT)]
    yield (
        f"A smooth common drive is called structure by the permutation in {_share(fooled, 'rejected')} per cent of the repetitions, and "
        f"by the circular shift alike. The margin swap keeps what the drive does, the number of layers that each token excites, and "
        f"calls it structure in {_share(seen, 'rejected')}. It no longer sees through the drive when the layers have two of them: "
        f"{_share(banded, 'rejected')}. The swap is no proof of propagation either way: a cascade that excites all layers alike "
        "would be absorbed like a drive. The common shift changes only the seam; what little excess it shows "
        f"({common['excess']:+.3f} for the branching process) is that seam again, so it controls the size of the excess, not its p."
    )


def _memory_part(memory: pd.DataFrame) -> Iterator[str]:
    yield (
        f"## m along tokens\n\n{memory_study.SEQUENCES} sequences of {memory_study.TOKENS} tokens, {memory_study.LAGS} lags. The "
        "pipeline gives m without an interval; coverage is that of a bootstrap over sequences, made for this page in two cases."
    )
    rows = [
        [
            row["scenario"],
            f"{row['seen']:g}",
            "yes" if row["propagates"] else "no",
            _number(row["truth"]),
            f"{_number(row['mean'])} ({_number(row['sd'])})",
            _number(row["one_step"]),
            _percent(row, "available"),
            _share(row, "coverage"),
        ]
        for _, row in memory.iterrows()
    ]
    heads = ["process", "seen", "propagates", "m", "multistep (sd)", "one step", "available, %", "coverage, %"]
    yield _table(heads, rows)
    yield "![m along tokens](figures/validity_memory.png)"
    of = memory.set_index("scenario")
    yield (
        "m is the decay of correlations, whatever makes them. A smooth drive without any propagation has m = "
        f"{of.loc['drive, smooth', 'mean']:.2f}, sequences that merely differ in rate {of.loc['drive, sequence', 'mean']:.3f}."
    )


def _exponent_part(tables: Tables) -> Iterator[str]:
    growth, tails = tables["growth"], tables["tails"]
    yield (
        f"## Crackling and tails\n\ngamma over durations {exponent_study.D_MIN} to {exponent_study.D_MAX}. The truth of critical trees is the "
        "slope of their exact mean sizes in that range, below the asymptotic 2."
    )
    rows = [
        [
            row["scenario"],
            str(row["n_sequences"]),
            _number(row["truth"]),
            f"{_number(row['mean'])} ({_number(row['sd'])})",
            _percent(row, "available"),
            _share(row, "coverage"),
        ]
        for _, row in growth.iterrows()
    ]
    yield _table(["process", "sequences", "gamma", "estimate (sd)", "available, %", "coverage, %"], rows)
    yield (
        "The interval of gamma is too narrow and lies too low where long durations are rare: every duration counts alike in the fit, and "
        "the logarithm of a mean of few sizes is too small on average, in a replicate twice over. It gets better with more avalanches. "
        "Trees are also cut by the end of the raster, which more sequences do not mend. Lattices and drives have a gamma too."
    )
    verdicts = [
        [
            row["scenario"],
            _number(row["truth"]),
            f"{_number(row['mean'])} ({_number(row['sd'])})",
            _share(row, "coverage"),
            _share(row, "over_lognormal"),
            _share(row, "under_lognormal"),
            _share(row, "over_exponential"),
        ]
        for _, row in tails.iterrows()
    ]
    heads = ["sizes", "alpha", "estimate (sd)", "coverage, %", "over log-normal, %", "under log-normal, %", "over exponential, %"]
    yield f"Tails, {exponent_study.TAIL_SEQUENCES} sequences: alpha, and how often a law is preferred (Vuong, p below 0.05)."
    yield _table(heads, verdicts)
    yield "![Exponents](figures/validity_exponents.png)"
    yield (
        "The power law is never preferred to the log-normal, even where it is the truth, because the log-normal has it as a limit: the "
        "comparison can only reject it. It is preferred to the exponential by sizes of every other kind. Components of percolation and "
        "cut trees do have power-law sizes, and what the raster cuts off makes the fit miss their exponents."
    )


def _process_rows() -> list[list[str]]:
    answer = {True: "true", False: "false"}
    return [
        [one.name, one.text, *(answer[holds] for holds in (one.permutation_holds, one.shift_holds, one.swap_holds))]
        for one in SCENARIOS
    ]


def _where(flag: str) -> list[str]:
    return [one.name for one in SCENARIOS if getattr(one, flag)]


def _known(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["coverage"].notna()]


def _place(row: pd.Series) -> str:
    number = f", {row['n_sequences']} sequences" if "n_sequences" in row else ""
    return f"{row['scenario']}{', ' + row['measure'] if 'measure' in row else ''}{number}"


def _percent(row: Mapping[str, float] | pd.Series, column: str) -> str:
    return f"{100 * row[column]:.1f}"


def _share(row: pd.Series, column: str) -> str:
    """Per cent with its binomial interval, empty where there is none."""
    if np.isnan(row[column]):
        return ""
    return f"{_percent(row, column)} [{_percent(row, f'{column}_low')}, {_percent(row, f'{column}_high')}]"


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4g}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    frame = pd.DataFrame(list(rows), columns=list(heads))
    return markdown_head(frame, n=len(frame))


_HEAD: Final = """# Validity

Made by `make validate` from simulators of known truth (`avalanche_llm/simulate/`); all numbers are in
[validity.json](validity.json), none is typed by hand. They feed the functions that measure the model. A share is followed by its
exact 95 % binomial interval. A goal for coverage is met where every case lies in its range, one for false positives where no case
has a binomial interval wholly above 5 %."""

_PROCESSES: Final = """## The processes

Truths are exact: closed forms, and the transition matrix of directed percolation. The last columns say which null is true of the
process: permutation (tokens of a layer are exchangeable, layers unrelated), shift (layers are unrelated), swap (all rasters with
these counts by layer and by token are equally likely)."""

_READING: Final = """## How to read the project's numbers

- Fewer than about 64 sequences, or a raster with few pairs: intervals are too narrow. Report the number of sequences beside them.
- The interval of chi is too narrow at every number of sequences studied, most of all where activity has a memory.
- An excess over the permutation says that tokens or layers are not independent. It does not say that events make events.
- Compare with the margin swap before speaking of propagation, and remember that a drive which varies with depth passes it.
- m near 1 is what sequences of different rate give. gamma and a power law preferred to an exponential exist without dynamics.

Not compared here, because they are not among the project's locked dependencies: `mrestimator` (m) and `cc3d` (components)."""
