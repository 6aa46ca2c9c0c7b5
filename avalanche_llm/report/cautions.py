"""What a reader must know before any number: the warnings at the top of the report, each with its k of n (spec 02, spec 24)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from avalanche_llm.paper.facts import written
from avalanche_llm.report.checks import Check
from avalanche_llm.report.gather import Evidence, Side

HALF: Final = 0.5
NON_CLAIMS: Final = (
    "No model is called critical here. Branching near one, a power law that fits and a peak of chi are each no evidence of "
    "criticality; branching says nothing of ability; a common drive can look like propagation."
)


@dataclass(frozen=True)
class Caution:
    """One warning: what is wrong or easily misread, where that is read, and in how many cases (k of n; n = 0: uncounted)."""

    headline: str
    text: str
    source: str
    k: int = 0
    n: int = 0


def cautions(evidence: Evidence, checks: Sequence[Check]) -> list[Caution]:
    """Every warning that applies, the gravest first."""
    found = [caution for side in evidence.sides for caution in _of_side(side, len(evidence.sides) > 1)]
    return [*_failed(checks), *found, *_of_runs(evidence)]


def _failed(checks: Iterable[Check]) -> Iterator[Caution]:
    checks = list(checks)
    failed = [check for check in checks if not check.passed]
    if failed:
        names = ", ".join(dict.fromkeys(check.name for check in failed))
        yield Caution("Some checks do not hold", f"{names}: see Checks for their values.", "checks", len(failed), len(checks))


def _of_side(side: Side, named: bool) -> Iterator[Caution]:
    whose = f"{side.role}: " if named else ""
    summary = side.frame("PHASE5_ANALYZE_AND_EXPORT", "T01_SUMMARY_parquet")
    yield from _gstar(side, whose)
    yield from _density(side, summary, whose)
    yield from _rates(side, side.settings.events.rate_match_tol_rel, whose)


def _gstar(side: Side, whose: str) -> Iterator[Caution]:
    statuses = [row["status"] for row in side.selections]
    missed = sum(status != "bracketed" for status in statuses)
    if missed:
        at_edge, uncrossed = statuses.count("grid_edge"), statuses.count("no_crossing")
        yield Caution(
            f"{whose}g* locates nothing",
            f"{side.criterion.missed} at the chosen gain, which is only the gain of the grid with {side.criterion.rule}: "
            f"{at_edge} at an edge of the grid, {uncrossed} inside it.",
            _source(side, "PHASE2_SELECT_GSTAR", "gstar"),
            missed,
            len(statuses),
        )


def _density(side: Side, summary: pd.DataFrame, whose: str) -> Iterator[Caution]:
    share = summary["b_tot_perm"] / summary["b_tot"]
    yield Caution(
        f"{whose}Density alone explains much of b_tot",
        "With independent sites of occupancy p, b_tot is about 2p, so “b_tot near one” says that about half of the sites are "
        f"occupied. Rasters permuted within their layers keep the density and reach {_percent(share.min())} to "
        f"{_percent(share.max())} of the measured b_tot, over half of it in the conditions counted here. Read delta_b, the "
        "excess over that expectation.",
        _source(side, "PHASE5_ANALYZE_AND_EXPORT", "T01_SUMMARY_parquet"),
        int((share > HALF).sum()),
        len(summary),
    )
    dense = int((summary["opt_occupancy_over_pc_4n"] > 1.0).sum())
    if dense:
        yield Caution(
            f"{whose}Rasters denser than the percolation threshold",
            "Above it (p = 0.593, four neighbours) independent sites already form components that cross the raster; large "
            "avalanches there are no finding.",
            _source(side, "PHASE5_ANALYZE_AND_EXPORT", "T01_SUMMARY_parquet"),
            dense,
            len(summary),
        )


def _rates(side: Side, tolerance: float, whose: str) -> Iterator[Caution]:
    places = (
        ("PHASE3_EXTRACT_RASTERS", "metrics", "heldout_rate_max_rel_err", "held-out windows of data set A"),
        ("PHASE6_GENERALIZE_B_METRICS", "T02_GENERALIZATION_parquet", "opt_heldout_rate_max_rel_err", "data set B"),
    )
    for phase_id, artifact, column, text in places:
        if phase_id not in side.runs:
            continue
        errors = side.frame(phase_id, artifact)[column].dropna()
        missed = int((errors > tolerance).sum())
        if missed:
            yield Caution(
                f"{whose}Event rates do not hold on {text}",
                f"Thresholds were fitted on the calibration windows to {100 * tolerance:g} %. On {text} the worst layer misses "
                f"its target rate by {_percent(errors.min())} to {_percent(errors.max())}.",
                _source(side, phase_id, artifact),
                missed,
                len(errors),
            )


def _of_runs(evidence: Evidence) -> Iterator[Caution]:
    versions = list(dict.fromkeys(run.record["hashes"]["code_version"] for run in evidence.runs))
    if len(versions) > 1:
        yield Caution("The runs were made by different code", f"{', '.join(versions)}.", "run records")
    loose = sorted({what for run in evidence.runs for what in run.record["determinism"]["unavailable"]})
    if loose:
        yield Caution("Not every kernel was deterministic", f"{', '.join(loose)}.", "run records")


def _percent(share: float) -> str:
    return f"{written(100.0 * float(share))} %"


def _source(side: Side, phase_id: str, artifact: str) -> str:
    run = side.runs[phase_id]
    return f"{run.run_id}/{run.record['artifacts'][artifact]}"
