"""Every asset check: its numbers on an honest measurement, and an artifact that makes it fail, alone where it should be alone."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import tiny

from avalanche_dagster.checks import CHECKS, OF_ARTIFACT, check_specs, checks_of
from avalanche_dagster.definitions import defs
from avalanche_llm.io.artifacts import RECORD_NAME, index_by_path
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.stages import Stage, stage_for_command, stages

WARNINGS = {"gstar_bracketed", "signatures_agree", "claims_supported"}
CELLS = 2 * len(tiny.RATES)
Change = Callable[[bytes], bytes]


def verdicts(runs: Path, command: str, name: str) -> dict[str, dg.AssetCheckResult]:
    stage = stage_for_command(command)
    run = RunStore(runs).get(tiny.run_of(runs, stage.tag).name)
    return {str(result.check_name): result for result in checks_of(stage, name, run)}


def numbers(result: dg.AssetCheckResult) -> dict[str, Any]:
    return {key: value.value for key, value in result.metadata.items()}


@pytest.fixture
def runs(materialized: Path, tmp_path: Path) -> Path:
    """Complete runs of our own, writable."""
    return tiny.copied(materialized / "runs", tmp_path / "runs")


def rows(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    """A parquet artifact with other rows."""

    def changed(data: bytes) -> bytes:
        target = io.BytesIO()
        change(pd.read_parquet(io.BytesIO(data))).to_parquet(target, index=False)
        return target.getvalue()

    return changed


def put(place: int, **values: Any) -> Change:
    """One row of a parquet artifact with other values."""

    def changed(table: pd.DataFrame) -> pd.DataFrame:
        for column, value in values.items():
            table[column] = table[column].astype(type(value)) if table[column].dtype.kind in "iu" else table[column]
            table.loc[place, column] = value
        return table

    return rows(changed)


def document(change: Callable[[Any], None]) -> Change:
    """A JSON artifact after a change in place."""

    def changed(data: bytes) -> bytes:
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return changed


def nan_in_sigma(data: bytes) -> bytes:
    with np.load(io.BytesIO(data)) as arrays:
        content = dict(arrays)
    content["sigma"][0, 0] = np.nan
    target = io.BytesIO()
    np.savez(target, **content)
    return target.getvalue()


def test_an_honest_measurement_passes_every_check_that_blocks(materialized: Path) -> None:
    seen = set()
    for stage in stages().values():
        run = RunStore(materialized / "runs").get(tiny.run_of(materialized / "runs", stage.tag).name)
        for name in run.record["artifacts"]:
            for result in checks_of(stage, name, run):
                seen.add(result.check_name)
                assert result.metadata, result
                expected = dg.AssetCheckSeverity.WARN if result.check_name in WARNINGS else dg.AssetCheckSeverity.ERROR
                assert result.severity == expected
                assert result.passed or result.check_name in WARNINGS, result
    assert seen == set(CHECKS)


def test_every_check_of_a_wrong_later_result_blocks() -> None:
    assert {name for name, check in CHECKS.items() if not check.blocking} == WARNINGS
    for stage in stages().values():
        for spec in check_specs(stage):
            assert spec.blocking is (spec.name not in WARNINGS)
            assert spec.description
    for command, name in OF_ARTIFACT:
        assert name in stage_for_command(command).artifacts


def test_numbers_of_the_checks_are_those_of_the_artifacts(materialized: Path) -> None:
    runs = materialized / "runs"
    stats = verdicts(runs, "phase1_calibrate", "calibration_stats")
    assert numbers(stats["hook_match"]) == {"layers_compared": tiny.N_LAYERS, "largest_difference": 0.0, "tolerance": 1e-5}
    assert numbers(stats["no_nan"]) == {"values": 2 * tiny.N_LAYERS * tiny.D_FF, "not_finite": 0}
    table = pd.read_parquet(tiny.run_of(runs, "S02") / "results" / "tau_rate_matched.parquet")
    taus = verdicts(runs, "phase2_gain_grid", "tau_rate_matched")
    thresholds = CELLS * len(tiny.GAINS) * tiny.N_LAYERS
    common = {"outside": 0, "thresholds": thresholds, "most_ties": table["n_ties"].max()}
    assert numbers(taus["rate_match_abs"]) == {"largest_error": table["abs_err"].max(), "tolerance": 0.0005, **common}
    assert numbers(taus["rate_match_rel"]) == {"largest_error": table["rel_err"].max(), "tolerance": 0.02, **common}
    summary = verdicts(runs, "phase5_analyze_and_export", "T01_SUMMARY_parquet")
    cells = CELLS * len(tiny.GAINS)
    assert numbers(summary["rows_cover_grid"]) == {"rows": cells, "expected": cells, "missing": 0, "unexpected": 0, "twice": 0}
    slices = numbers(verdicts(runs, "phase3_extract_rasters", "rasters_token_layer")["slices_disjoint"])
    assert slices == {"calibration": tiny.N_WINDOWS, "rasters": tiny.N_WINDOWS, "in_both": 0}
    marginals = numbers(verdicts(runs, "phase4_run_nulls", "null_marginals")["marginals_exact"])
    assert (marginals["surrogates"] > 0, marginals["broken"]) == (True, 0)


# a rate far off in absolute terms, near in relative ones; and the reverse
ABS_ALONE = {"n_samples": 100_000, "r_star": 0.1, "kept_events": 10_100, "wanted_events": 10_000}
REL_ALONE = {"n_samples": 100_000, "r_star": 0.001, "kept_events": 110, "wanted_events": 100}
SILENT = {"n_samples": 100_000, "r_star": 1e-5, "kept_events": 0, "wanted_events": 1}


@pytest.mark.parametrize("command", ["phase2_gain_grid", "phase4_run_nulls"])
@pytest.mark.parametrize(
    ("values", "failed"), [(ABS_ALONE, "rate_match_abs"), (REL_ALONE, "rate_match_rel"), (SILENT, "rate_match_rel")]
)
def test_each_rate_match_fails_alone(runs: Path, command: str, values: dict[str, Any], failed: str) -> None:
    def one_layer(table: pd.DataFrame) -> pd.DataFrame:
        met = table.assign(n_samples=100_000, r_star=0.01, kept_events=1_000, wanted_events=1_000)
        for column, value in values.items():
            met.loc[3, column] = value
        return met

    tiny.rewritten(tiny.run_of(runs, stage_for_command(command).tag), "tau_rate_matched", rows(one_layer))
    found = verdicts(runs, command, "tau_rate_matched")
    assert {name for name, result in found.items() if not result.passed} == {failed}
    assert numbers(found[failed])["outside"] == 1
    assert found[failed].severity == dg.AssetCheckSeverity.ERROR


SPOILED: list[tuple[str, str, str, Change]] = [
    ("no_nan", "phase1_calibrate", "calibration_stats", nan_in_sigma),
    ("no_nan", "phase2_gain_grid", "activation_events", put(5, z=float("inf"))),
    ("no_nan", "phase2_gain_grid", "tau_rate_matched", put(5, tau=float("nan"))),
    ("no_nan", "phase2_gain_grid", "branching_sums", put(5, perm_time_pairs=float("nan"))),
    ("no_nan", "phase4_run_nulls", "tau_rate_matched", put(5, tau=float("nan"))),
    ("no_nan", "phase5_analyze_and_export", "T01_SUMMARY_parquet", put(2, b_tot=float("nan"))),
    ("no_nan", "phase6_generalize_b_metrics", "sequence_nll", put(2, nll_sum=float("nan"))),
    ("no_nan", "phase6_generalize_b_metrics", "T02_GENERALIZATION_parquet", put(2, nll_mean=float("nan"))),
    ("no_nan", "phase6_arc_mcq_eval", "T03_ARC_parquet", put(1, accuracy=float("nan"))),
    ("b_tot_defined", "phase2_gain_grid", "metrics", put(1, b_tot=float("nan"))),
    ("rows_cover_grid", "phase2_gain_grid", "metrics", rows(lambda table: table[table["g"] != 1.1])),
    ("rows_cover_grid", "phase5_analyze_and_export", "T01_SUMMARY_parquet", rows(lambda table: table.iloc[1:])),
    ("rows_cover_grid", "phase5_analyze_and_export", "T01_SUMMARY_parquet", rows(lambda table: table[table["g"] != 1.1])),
    ("rows_cover_grid", "phase5_analyze_and_export", "T01_SUMMARY_parquet", rows(lambda table: pd.concat([table, table[:1]]))),
    ("rows_cover_grid", "phase5_analyze_and_export", "T01_SUMMARY_parquet", rows(lambda table: table.assign(g=table["g"] + 1e-9))),
    ("marginals_exact", "phase4_run_nulls", "null_marginals", put(0, marginals_exact=False)),
    ("pairs_complete", "phase6_generalize_b_metrics", "T02_GENERALIZATION_parquet", rows(lambda table: table.iloc[1:])),
    ("pairs_complete", "phase6_arc_mcq_eval", "T03_ARC_parquet", rows(lambda table: table[table["target_rate"] != tiny.RATES[0]])),
]


@pytest.mark.parametrize(("check", "command", "name", "change"), SPOILED, ids=[f"{row[0]}-{row[2]}-{i}" for i, row in enumerate(SPOILED)])
def test_a_spoiled_artifact_fails_its_check_alone(runs: Path, check: str, command: str, name: str, change: Change) -> None:
    tiny.rewritten(tiny.run_of(runs, stage_for_command(command).tag), name, change)
    found = verdicts(runs, command, name)
    assert {failed for failed, result in found.items() if not result.passed} == {check}
    assert found[check].severity == dg.AssetCheckSeverity.ERROR


@pytest.mark.parametrize("status", ["bracketed", "grid_edge", "no_crossing"])
def test_gstar_bracketed_counts_the_status_of_every_cell(runs: Path, status: str) -> None:
    def first(content: Any) -> None:
        for row in content["selections"]:
            row["status"] = "bracketed"
        content["selections"][0]["status"] = status

    tiny.rewritten(tiny.run_of(runs, "S02B"), "gstar", document(first))
    found = verdicts(runs, "phase2_select_gstar", "gstar")["gstar_bracketed"]
    assert (found.passed, found.severity) == (status == "bracketed", dg.AssetCheckSeverity.WARN)
    assert sum(numbers(found).values()) == CELLS
    assert numbers(found)[status] >= 1


@pytest.mark.parametrize("agrees", [True, False])
def test_signatures_agree_is_a_warning(runs: Path, agrees: bool) -> None:
    def first(content: Any) -> None:
        for verdict in content["verdicts"]:
            verdict["agrees"] = True
        content["verdicts"][0]["agrees"] = agrees

    tiny.rewritten(tiny.run_of(runs, "S05"), "signatures", document(first))
    found = verdicts(runs, "phase5_analyze_and_export", "signatures")["signatures_agree"]
    assert (found.passed, found.severity) == (agrees, dg.AssetCheckSeverity.WARN)
    assert numbers(found) == {"agree": CELLS - (not agrees), "cells": CELLS}


def test_claims_supported_fails_for_one_other_verdict(runs: Path) -> None:
    def all_but_one(content: Any) -> None:
        for claim in content["claims"]:
            claim["verdict"] = "supported"
        content["claims"][-1]["verdict"] = "not supported"

    tiny.rewritten(tiny.run_of(runs, "S07"), "claims", document(all_but_one))
    found = verdicts(runs, "phase7_paper_export", "claims")["claims_supported"]
    assert (found.passed, numbers(found)["not_supported"]) == (False, 1)


def test_slices_disjoint_fails_for_one_shared_window(runs: Path) -> None:
    calibration = json.loads((tiny.run_of(runs, "S01") / RECORD_NAME).read_bytes())["dataset"]["A_CALIBRATION"]["chunk_index"]

    def share(record: dict[str, Any]) -> None:
        record["dataset"]["A_RASTERS"]["chunk_index"][0] = calibration[0]

    tiny.edited(tiny.run_of(runs, "S03"), share)
    found = verdicts(runs, "phase3_extract_rasters", "rasters_token_layer")
    assert {name for name, result in found.items() if not result.passed} == {"slices_disjoint"}
    assert numbers(found["slices_disjoint"])["in_both"] == 1


@pytest.mark.parametrize(
    ("layers", "largest", "severity"),
    [(3, 2e-5, dg.AssetCheckSeverity.ERROR), (0, 0.0, dg.AssetCheckSeverity.WARN), (None, None, dg.AssetCheckSeverity.WARN)],
)
def test_hook_match_fails_beyond_its_tolerance_and_warns_where_nothing_was_compared(
    runs: Path, layers: int | None, largest: float | None, severity: dg.AssetCheckSeverity
) -> None:
    found = {"hook_layers_compared": layers, "hook_largest_difference": largest}
    tiny.edited(tiny.run_of(runs, "S01"), lambda record: record["model"].update(found))
    found = verdicts(runs, "phase1_calibrate", "calibration_stats")
    assert {name for name, result in found.items() if not result.passed} == {"hook_match"}
    assert found["hook_match"].severity == severity


@pytest.mark.parametrize("stage", stages().values(), ids=lambda stage: stage.command)
def test_a_changed_byte_fails_every_check_of_its_artifact_and_of_no_other(runs: Path, stage: Stage) -> None:
    folder = tiny.run_of(runs, stage.tag)
    run = RunStore(runs).get(folder.name)
    changed, *others = run.record["artifacts"]
    path = folder / run.record["artifacts"][changed]
    path.write_bytes(path.read_bytes() + b"\n")
    found = {result.check_name: result for result in checks_of(stage, changed, run)}
    assert found
    for result in found.values():
        assert not result.passed
        assert f"{path.name} changed since it was recorded" in numbers(result)["problem"]
    assert all(result.passed for name in others for result in checks_of(stage, name, run) if result.check_name not in WARNINGS)
    expected = index_by_path(run.record)[run.record["artifacts"][others[0]]]["bytes"] if others else 0
    assert not others or numbers(checks_of(stage, others[0], run)[0]) == {"bytes": expected}


def test_a_failed_check_that_blocks_stops_the_phase_after_it(
    config: Path, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the platform: the grid is complete, its check fails, and g* is not chosen."""
    runs = tiny.copied(pipeline, tmp_path / "runs", "S01")
    from avalanche_dagster import measures

    def beyond(run: Upstream, name: str) -> measures.Measured:
        return measures.Measured(False, {"outside": 1})

    check = CHECKS["rate_match_rel"]
    monkeypatch.setattr("avalanche_dagster.checks.CHECKS", {**CHECKS, "rate_match_rel": type(check)(check.meaning, beyond)})
    selected = dg.AssetSelection.groups("phase2")
    job = dg.Definitions(
        assets=defs.assets, jobs=[dg.define_asset_job("both", selection=selected)], resources=defs.resources, executor=dg.in_process_executor
    ).resolve_job_def("both")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            instance=instance,
            partition_key="INSTRUCT",
            run_config={"resources": {"instrument": {"config": {"config": str(config), "runs_dir": str(runs)}}}},
            raise_on_error=False,
        )
    assert not result.success
    assert len(list(runs.glob("RUN_S02_*"))) == 1
    assert not list(runs.glob("RUN_S02B_*"))
