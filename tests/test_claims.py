"""Verdicts of the paper from small tables made by hand: what holds, what does not, and what cannot be decided."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from small_runs import begun_run

from avalanche_llm.errors import MissingArtifact
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.paper import claims_elsewhere, claims_on_a
from avalanche_llm.paper.claim import Claim
from avalanche_llm.paper.facts import Origin, Sheet
from avalanche_llm.paper.inputs import CELL, HELD_OUT, SELECTIONS, VERDICTS, PaperInputs, runs_behind
from avalanche_llm.paper.rows import Column, rows_of
from avalanche_llm.paper.rules import above, no_worse, preferred
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.paper_export import twin_runs
from avalanche_llm.phases.select_gstar import select_gstar
from avalanche_llm.stages import stages

ORIGIN = Origin("RUN_S05_000000000000", "PHASE5_ANALYZE_AND_EXPORT", "T01_SUMMARY_parquet", "tables/t.parquet", "0" * 64)
CELLS = [("SPIKE_ONE_SIDED_POS", 1e-4), ("SPIKE_TWO_SIDED_ABS", 1e-4)]
NONE = float("nan")


def sheet(**columns: list[Any]) -> Sheet:
    """Two rows, one a cell."""
    frame = pd.DataFrame({"spike_def_id": [cell[0] for cell in CELLS], "target_rate": [cell[1] for cell in CELLS], **columns})
    return Sheet(ORIGIN, CELL, frame)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return tiny.job_of(tiny.REPO / "configs" / "demo.yaml", tmp_path / "runs")


def decide(make: Callable[[PaperInputs], Claim], job: Job, **sheets: Sheet) -> Claim:
    return make(PaperInputs(job, {}, {}, sheets))


def likelihood(job: Job, *, g: list[float], low: list[float], high: list[float]) -> Claim:
    change = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    columns = {"opt_diff_nll_mean": change, "opt_diff_nll_mean_ci_low": low, "opt_diff_nll_mean_ci_high": high}
    return decide(claims_elsewhere._likelihood, job, T02_GENERALIZATION=sheet(g_condition=["gstar"] * 2, g=g, **columns))


def test_likelihood_is_not_kept_by_an_interval_too_wide_to_tell(job: Job) -> None:
    wide = likelihood(job, g=[0.7, 0.8], low=[-0.1, -0.1], high=[0.5, 0.5])
    assert wide.verdict == "not supported"
    assert "in 0 of 2 cells, and in 0 the interval lies above zero" in str(wide.sentence)


def test_likelihood_is_kept_where_the_whole_interval_says_so(job: Job) -> None:
    assert likelihood(job, g=[0.7, 0.8], low=[-0.3, -0.3], high=[-0.1, 0.0]).verdict == "supported"


def test_likelihood_compares_nothing_where_gstar_is_the_baseline(job: Job) -> None:
    assert likelihood(job, g=[1.0, 1.0], low=[0.0, 0.0], high=[0.0, 0.0]).verdict == "undetermined"
    one = likelihood(job, g=[1.0, 0.8], low=[0.0, 0.1], high=[0.0, 0.2])
    assert one.verdict == "not supported"
    assert "in 0 of 1 cells" in str(one.sentence)


def gain_of_questions(job: Job, low: list[float]) -> Claim:
    columns = {"opt_delta_accuracy": [0.1, 0.1], "opt_delta_accuracy_ci_low": low, "opt_delta_acc_cloze": [0.0, 0.0], "opt_mcnemar_p": [0.5, 0.5]}
    return decide(claims_elsewhere._task_gain, job, T03_ARC=sheet(g_condition=["gstar"] * 2, g=[0.7, 0.8], **columns))


@pytest.mark.parametrize(
    ("low", "verdict"),
    [([NONE, NONE], "undetermined"), ([0.05, NONE], "supported"), ([-0.05, NONE], "not supported"), ([0.05, -0.05], "mixed")],
)
def test_what_is_not_available_decides_nothing(job: Job, low: list[float], verdict: str) -> None:
    assert gain_of_questions(job, low).verdict == verdict


def test_excess_of_a_silent_cell_decides_nothing(job: Job) -> None:
    silent = sheet(delta_b_tot=[NONE, NONE], b_tot=[NONE, NONE], opt_delta_b_tot_ci_low=[NONE, NONE])
    claim = decide(claims_elsewhere._excess_on_b, job, T02_GENERALIZATION=silent)
    assert claim.verdict == "undetermined"
    assert "in 0 of 0 cells; its value is n/a" in str(claim.sentence)


def signatures(job: Job, status: list[str], agrees: list[bool]) -> Claim:
    found = sheet(gstar_status=status, agrees=agrees, chi_peak_g=[0.9, 0.9], distance=[0.2, 0.1])
    return decide(claims_on_a._signatures, job, **{VERDICTS: found})


def test_signatures_agree_only_with_a_crossing(job: Job) -> None:
    assert signatures(job, ["grid_edge", "no_crossing"], [True, True]).verdict == "undetermined"
    assert signatures(job, ["bracketed", "grid_edge"], [True, True]).verdict == "supported"
    assert signatures(job, ["bracketed", "grid_edge"], [False, True]).verdict == "not supported"


@pytest.mark.parametrize(
    ("method", "title"),
    [
        ("btot_near_one", "b_tot crosses one inside the gain grid"),
        ("excess_peak", "delta_b_tot peaks inside the gain grid"),
        ("mr_near_one", "m along tokens crosses one inside the gain grid"),
    ],
)
def test_crossing_is_claimed_of_what_the_method_looks_at(method: str, title: str, config: Path, tmp_path: Path) -> None:
    job = tiny.job_of(config, tmp_path, gstar_method=method)
    found = sheet(status=["bracketed", "grid_edge"], distance=[0.2, 0.1], criterion=[0.31, 0.33], gstar=[0.9, 1.3])
    claim = decide(claims_on_a._crossing, job, **{SELECTIONS: found})
    assert claim.title == title
    assert str(claim.sentence).startswith(f"{title.removesuffix('inside the gain grid')}at the selected gain in 1 of 2 cells")
    assert ("is 0.310 to 0.330, and the distance |b_tot - one| is" in str(claim.sentence)) == (method != "btot_near_one")
    assert claim.verdict == "mixed"


def ablations(job: Job, g: float) -> Claim:
    rows = [
        {"spike_def_id": cell[0], "target_rate": cell[1], "g_condition": "gstar", "g": g, "intervention_id": name, "b_tot": b_tot}
        for cell in CELLS
        for name, b_tot in (("MLP_GLOBAL", 0.95), ("ATTN_GLOBAL", 0.80))
    ]
    return decide(claims_on_a._ablations, job, T06_ABLATIONS=Sheet(ORIGIN, (*CELL, "intervention_id"), pd.DataFrame(rows)))


def test_ablations_say_that_the_gain_was_selected_on_the_mlps(job: Job) -> None:
    assert ablations(job, 0.7).verdict == "supported"
    assert "selected on the MLPs for just this distance" in str(ablations(job, 0.7).sentence)
    assert ablations(job, 1.0).verdict == "undetermined"


def test_ablations_say_what_else_the_gain_was_selected_for(config: Path, tmp_path: Path) -> None:
    job = tiny.job_of(config, tmp_path, gstar_method="excess_peak")
    assert "The gain was selected on the MLPs for the largest delta_b_tot, and" in str(ablations(job, 0.7).sentence)


@pytest.mark.parametrize(
    ("z", "verdict"), [([1.0, NONE], "supported"), ([5.0, NONE], "not supported"), ([NONE, NONE], "undetermined")]
)
def test_held_out_rates_that_are_not_available_decide_nothing(job: Job, z: list[float], verdict: str) -> None:
    held = sheet(heldout_rate_z_max=z, heldout_rate_max_rel_err=[0.1, 0.1])
    assert decide(claims_on_a._rates_held_out, job, **{HELD_OUT: held}).verdict == verdict


@pytest.mark.parametrize(
    ("low", "verdict"), [([0.05, 0.01], "supported"), ([0.05, -0.01], "mixed"), ([-0.05, NONE], "not supported")]
)
def test_swap_is_decided_by_its_interval(job: Job, low: list[float], verdict: str) -> None:
    summary = sheet(
        g=[1.0, 1.0], delta_b_tot=[0.2, 0.2], opt_swap_delta_b_tot=[0.1, 0.1], opt_swap_delta_b_tot_ci_low=low
    )
    chosen = sheet(gstar=[1.0, 1.0])
    claim = decide(claims_on_a._beyond_swap, job, T01_SUMMARY=summary, **{SELECTIONS: chosen})
    assert claim.verdict == verdict
    assert "0.500 of the excess" in str(claim.sentence)
    assert "opt_swap_delta_b_tot / delta_b_tot" in {fact.column for fact in claim.sentence.facts}  # what was made of what


def test_rules_hold_for_no_value_that_is_not_available() -> None:
    missing, there = np.array([NONE]), np.array([0.1])
    assert not above(missing)[0] and not no_worse(missing)[0]
    assert not preferred(missing, there, 0.05)[0] and not preferred(there, missing, 0.05)[0]


def test_rules_decide_by_the_nearer_end_of_an_interval() -> None:
    assert above(np.array([-0.1, 0.0, 0.1])).tolist() == [False, False, True]
    assert above(pd.Series([0.3, 0.3]), pd.Series([0.25, 0.3])).tolist() == [True, False]
    assert no_worse(np.array([-0.1, 0.0, 0.1])).tolist() == [True, True, False]
    ratio, p = np.array([2.0, 2.0, -2.0]), np.array([0.01, 0.05, 0.01])
    assert preferred(ratio, p, 0.05).tolist() == [True, False, False]


# --- tables of the paper


def test_rows_of_shows_the_interval_behind_the_value() -> None:
    found = sheet(b_tot=[0.9, NONE], opt_b_tot_ci_low=[0.8, NONE], opt_b_tot_ci_high=[1.0, NONE])
    lines = str(rows_of(found, (Column("b_tot", "b_tot", "opt_b_tot_ci"),))).splitlines()
    assert lines[2:] == ["| one-sided | 0.0001 | 0.900 [0.800, 1.00] |", "| two-sided | 0.0001 | n/a |"]


def test_rows_of_loses_no_column_in_silence() -> None:
    with pytest.raises(KeyError, match="gstar_ci_low"):
        rows_of(sheet(gstar=[0.7, 0.7]), ("gstar", "gstar_ci_low"))


# --- the runs behind the paper


class Begun:
    """A phase 7 run that has just been begun: all that is read of it here are its dependencies."""

    run_id = "RUN_S07_000000000000"

    def __init__(self, *upstream: Upstream) -> None:
        self.record: dict[str, Any] = {"dependencies": [run.dependency() for run in upstream]}

    def artifact(self, name: str) -> Path:
        raise AssertionError(name)


def test_runs_behind_follows_the_records(config: Path, pipeline: Path) -> None:
    job = tiny.job_of(config, pipeline)
    own, twin = runs_behind(job, Begun(job.upstream("PHASE2_SELECT_GSTAR")))
    assert list(own) == ["PHASE1_CALIBRATE", "PHASE2_GAIN_GRID", "PHASE2_SELECT_GSTAR"]
    assert not twin


def test_runs_behind_refuses_two_runs_of_one_phase(config: Path, pipeline: Path, tmp_path: Path) -> None:
    job = tiny.job_of(config, tiny.copied(pipeline, tmp_path / "runs"), run_id_mode="timestamp_counter")
    first = job.upstream("PHASE2_SELECT_GSTAR")
    second = job.store.get(select_gstar(job))
    with pytest.raises(MissingArtifact, match=r"both lie behind this paper as PHASE2_SELECT_GSTAR"):
        runs_behind(job, Begun(first, second))


def test_twin_runs_are_intact_and_an_ambiguous_twin_is_not_unmeasured(tmp_path: Path) -> None:
    """Two complete analyses of the other role fit: which one is meant has to be said, it is not "only one was measured"."""
    config = tiny.write_config(tmp_path / "c.yaml", tmp_path / "a", models__BASE={"hf_id": str(tmp_path / "b")})
    runs = tmp_path / "runs"
    needs = stages()["PHASE7_PAPER_EXPORT"].needs
    own = tiny.job_of(config, runs)
    assert twin_runs(own, needs) == []
    base = tiny.job_of(config, runs, model_role="BASE")
    before = ("PHASE1_CALIBRATE", "PHASE2_GAIN_GRID", "PHASE2_SELECT_GSTAR", "PHASE3_EXTRACT_RASTERS", "PHASE4_RUN_NULLS")
    for phase in before:
        begun_run(base, stages()[phase]).complete()
    begun_run(base, stages()["PHASE6_GENERALIZE_B_METRICS"]).complete()
    assert twin_runs(own, needs) == []  # without its analysis there is nothing to put beside INSTRUCT
    begun_run(base, stages()["PHASE5_ANALYZE_AND_EXPORT"]).complete()
    assert [run.phase_id for run in twin_runs(own, needs)] == ["PHASE5_ANALYZE_AND_EXPORT", "PHASE6_GENERALIZE_B_METRICS"]
    other = tiny.copied(runs, tmp_path / "damaged")
    tiny.flip_a_byte(tiny.run_of(other, "S01") / "results" / "calibration_stats.npz")
    with pytest.raises(MissingArtifact, match=r"RUN_S01_\w+ is changed: results/calibration_stats\.npz changed"):
        twin_runs(replace(own, store=RunStore(other)), needs)
    begun_run(replace(base, run_id_mode="timestamp_counter"), stages()["PHASE5_ANALYZE_AND_EXPORT"]).complete()
    with pytest.raises(MissingArtifact, match="all fit as upstream phase5_analyze_and_export"):
        twin_runs(own, needs)
