"""The checks of a measurement with their values, read from the artifacts that the phases left (spec 24).

Each says what was asked, whether it holds, and the numbers that decide it. Phases that reached a verdict of their own wrote it
down; here it is read, not reached a second time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

from avalanche_llm.events.rate_match import Thresholds
from avalanche_llm.report.gather import Evidence, Side

Numbers = Mapping[str, int | float]
GRID_COLUMNS = ["spike_def_id", "target_rate", "g"]


@dataclass(frozen=True)
class Check:
    """One check of one run."""

    name: str
    question: str
    role: str
    run_id: str
    passed: bool
    numbers: Numbers


def checks_of(evidence: Evidence) -> list[Check]:
    """The files of the whole chain, then every check of each model's runs in the order of the phases."""
    found = [_files(evidence)]
    for side in evidence.sides:
        for phase_id, name, question, measure in _CHECKS:
            if phase_id in side.runs:
                passed, numbers = measure(side)
                found.append(Check(name, question, side.role, side.runs[phase_id].run_id, passed, numbers))
    return found


def _files(evidence: Evidence) -> Check:
    """That evidence could be gathered says that they hold; here are the numbers."""
    files = sum(len(run.record["artifact_index"]) for run in evidence.runs)
    numbers: Numbers = {"files": files, "runs": len(evidence.runs)}
    question = "Has every file below the paper the sha256 on record?"
    return Check("artifact_hash_holds", question, "", f"all runs below {evidence.paper.run_id}", True, numbers)


def _rate_match(kind: str) -> Callable[[Side], tuple[bool, Numbers]]:
    def measure(side: Side) -> tuple[bool, Numbers]:
        rows = side.frame("PHASE2_GAIN_GRID", "tau_rate_matched")
        found, events = Thresholds.from_rows(rows), side.settings.events
        within = {"abs": found.within_abs, "rel": found.within_rel}[kind](rows["r_star"].to_numpy(), events)
        return bool(within.all()), {
            "outside": int((~within).sum()),
            "largest error": float(rows[f"{kind}_err"].max()),
            "most ties": int(rows["n_ties"].max()),
            "thresholds": len(rows),
        }

    return measure


def _b_tot_defined(side: Side) -> tuple[bool, Numbers]:
    rows = side.frame("PHASE2_GAIN_GRID", "metrics")
    silent = int(rows["b_tot"].isna().sum())
    return silent == 0, {"silent rasters": silent, "conditions": len(rows)}


def _gstar_bracketed(side: Side) -> tuple[bool, Numbers]:
    counts = {
        status: sum(row["status"] == status for row in side.selections) for status in ("bracketed", "grid_edge", "no_crossing")
    }
    named: Numbers = {status.replace("_", " "): count for status, count in counts.items()}
    return counts["bracketed"] == len(side.selections), named


def _slices_disjoint(side: Side) -> tuple[bool, Numbers]:
    calibration, rasters = (
        set(side.runs[phase_id].record["dataset"][role]["chunk_index"])
        for phase_id, role in (("PHASE1_CALIBRATE", "A_CALIBRATION"), ("PHASE3_EXTRACT_RASTERS", "A_RASTERS"))
    )
    shared = len(calibration & rasters)
    return shared == 0, {"in both": shared, "calibration": len(calibration), "rasters": len(rasters)}


def _marginals_exact(side: Side) -> tuple[bool, Numbers]:
    rows = side.frame("PHASE4_RUN_NULLS", "null_marginals")
    broken = int((~rows["marginals_exact"]).sum())
    return broken == 0, {"broken": broken, "surrogates": len(rows), "cells": int(rows["cells"].sum())}


def _rows_cover_grid(side: Side) -> tuple[bool, Numbers]:
    """Against the grid of the config: a gain that is missing altogether would not be missed by the table itself."""
    rows = side.frame("PHASE5_ANALYZE_AND_EXPORT", "T01_SUMMARY_parquet")[GRID_COLUMNS]
    events = side.settings.events
    expected = set(product(events.spike_defs, events.target_rates, side.settings.gains.grid))
    found = list(rows.itertuples(index=False, name=None))
    return len(found) == len(expected) and set(found) == expected, {"rows": len(found), "expected": len(expected)}


def _signatures_agree(side: Side) -> tuple[bool, Numbers]:
    verdicts = side.json("PHASE5_ANALYZE_AND_EXPORT", "signatures")["verdicts"]
    agree = sum(bool(verdict["agrees"]) for verdict in verdicts)
    return agree == len(verdicts), {"agree": agree, "conditions": len(verdicts)}


def _pairs_complete(phase_id: str, artifact: str) -> Callable[[Side], tuple[bool, Numbers]]:
    def measure(side: Side) -> tuple[bool, Numbers]:
        found = side.frame(phase_id, artifact).groupby(["spike_def_id", "target_rate"])["g_condition"]
        whole = int(found.agg(lambda conditions: sorted(conditions) == ["g1", "gstar"]).sum())
        wanted = len(side.settings.events.spike_defs) * len(side.settings.events.target_rates)
        return whole == wanted == len(found), {"broken": max(wanted, len(found)) - whole, "pairs": wanted}

    return measure


_CHECKS: tuple[tuple[str, str, str, Callable[[Side], tuple[bool, Numbers]]], ...] = (
    (
        "PHASE2_GAIN_GRID",
        "rate_match_abs",
        "Does every layer reach its target rate within the absolute tolerance?",
        _rate_match("abs"),
    ),
    (
        "PHASE2_GAIN_GRID",
        "rate_match_rel",
        "Does every layer reach its target rate within the relative tolerance?",
        _rate_match("rel"),
    ),
    ("PHASE2_GAIN_GRID", "b_tot_defined", "Does every raster of the grid hold an event?", _b_tot_defined),
    ("PHASE2_SELECT_GSTAR", "gstar_bracketed", "Is every g* bracketed inside the grid?", _gstar_bracketed),
    ("PHASE3_EXTRACT_RASTERS", "slices_disjoint", "Are the windows of the rasters new to the calibration?", _slices_disjoint),
    ("PHASE4_RUN_NULLS", "marginals_exact", "Does every surrogate keep what it must keep?", _marginals_exact),
    ("PHASE5_ANALYZE_AND_EXPORT", "rows_cover_grid", "Has T01 one row for each condition?", _rows_cover_grid),
    (
        "PHASE5_ANALYZE_AND_EXPORT",
        "signatures_agree",
        "Is chi largest near g* in every condition?",
        _signatures_agree,
    ),
    (
        "PHASE6_GENERALIZE_B_METRICS",
        "pairs_complete",
        "Has T02 both gains of every condition?",
        _pairs_complete("PHASE6_GENERALIZE_B_METRICS", "T02_GENERALIZATION_parquet"),
    ),
    (
        "PHASE6_ARC_MCQ_EVAL",
        "pairs_complete",
        "Has T03 both gains of every condition?",
        _pairs_complete("PHASE6_ARC_MCQ_EVAL", "T03_ARC_parquet"),
    ),
)
