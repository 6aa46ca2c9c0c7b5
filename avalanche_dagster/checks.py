"""Asset checks: the verdicts that a phase reached before it completed, with their numbers. None computes a second truth."""

import json
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from avalanche_dagster.specs import asset_key
from avalanche_llm.errors import MissingArtifact
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.stages import Stage

BLOCKING = {
    "artifact_hash_holds": True,
    "rate_match_abs": True,
    "rate_match_rel": True,
    "b_tot_defined": True,
    "gstar_bracketed": False,
    "slices_disjoint": True,
    "marginals_exact": True,
    "rows_cover_grid": True,
    "signatures_agree": False,
    "pairs_complete": True,
    "claims_supported": False,
}
MEANING = {
    "artifact_hash_holds": "The file still has the sha256 that its run recorded.",
    "rate_match_abs": "Every threshold passes the rate match; the number is the largest absolute error.",
    "rate_match_rel": "Every threshold passes the rate match; the number is the largest relative error.",
    "b_tot_defined": "No raster is silent: total branching has a value in every condition.",
    "gstar_bracketed": "What the rule looks at crosses one, or peaks, in every cell; else g* only fits the rule best.",
    "slices_disjoint": "Calibration and rasters share no window of data set A.",
    "marginals_exact": "Every surrogate keeps exactly the marginals that its null promises.",
    "rows_cover_grid": "One row for every definition, rate and gain, none twice.",
    "signatures_agree": "Susceptibility peaks near g* for every definition and rate.",
    "pairs_complete": "g = 1 and g* are both there for every definition and rate.",
    "claims_supported": "Every claim of the paper has the verdict supported; another verdict is a finding, not an error.",
}
OF_ARTIFACT = {
    ("phase2_gain_grid", "tau_rate_matched"): ("rate_match_abs", "rate_match_rel"),
    ("phase2_gain_grid", "metrics"): ("b_tot_defined",),
    ("phase2_select_gstar", "gstar"): ("gstar_bracketed",),
    ("phase3_extract_rasters", "rasters_token_layer"): ("slices_disjoint",),
    ("phase4_run_nulls", "null_marginals"): ("marginals_exact",),
    ("phase5_analyze_and_export", "T01_SUMMARY_parquet"): ("rows_cover_grid",),
    ("phase5_analyze_and_export", "signatures"): ("signatures_agree",),
    ("phase6_generalize_b_metrics", "T02_GENERALIZATION_parquet"): ("pairs_complete",),
    ("phase6_arc_mcq_eval", "T03_ARC_parquet"): ("pairs_complete",),
    ("phase7_paper_export", "claims"): ("claims_supported",),
}


def check_names(stage: Stage, name: str) -> tuple[str, ...]:
    """The checks of one artifact: the hash check for each that must be there (dagster wants every declared check reported)."""
    if name in stage.optional:
        return ()
    return ("artifact_hash_holds", *OF_ARTIFACT.get((stage.command, name), ()))


def check_specs(stage: Stage) -> list[dg.AssetCheckSpec]:
    """Every check of a stage."""
    return [
        dg.AssetCheckSpec(check, asset=asset_key(stage, name), blocking=BLOCKING[check], description=MEANING[check])
        for name in stage.artifacts
        for check in check_names(stage, name)
    ]


def checks_of(stage: Stage, name: str, run: Upstream) -> list[dg.AssetCheckResult]:
    """The measured result of every check of one artifact."""
    return [_CHECKS[check](stage, name, run) for check in check_names(stage, name)]


def _result(check: str, stage: Stage, name: str, passed: bool, **metadata: Any) -> dg.AssetCheckResult:
    severity = dg.AssetCheckSeverity.ERROR if BLOCKING[check] else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(
        passed=passed, check_name=check, asset_key=asset_key(stage, name), metadata=metadata, severity=severity
    )


def _hash_holds(stage: Stage, name: str, run: Upstream) -> dg.AssetCheckResult:
    try:
        run.artifact(name)
    except MissingArtifact as error:
        return _result("artifact_hash_holds", stage, name, False, problem=str(error))
    return _result("artifact_hash_holds", stage, name, True)


def _rate(kind: str) -> Any:
    def check(stage: Stage, name: str, run: Upstream) -> dg.AssetCheckResult:
        rows = pq.read_table(run.artifact(name)).to_pandas()
        return _result(
            f"rate_match_{kind}",
            stage,
            name,
            bool(rows["rate_match_pass"].all()),
            largest_error=float(rows[f"{kind}_err"].max()),
            most_ties=int(rows["n_ties"].max()),
            thresholds=len(rows),
        )

    return check


def _b_tot_defined(stage: Stage, name: str, run: Upstream) -> dg.AssetCheckResult:
    rows = pq.read_table(run.artifact(name), columns=["b_tot", "g"]).to_pandas()
    silent = int(rows["b_tot"].isna().sum())
    return _result("b_tot_defined", stage, name, silent == 0, silent_rasters=silent, rows=len(rows))


def _gstar_bracketed(stage: Stage, name: str, run: Upstream) -> dg.AssetCheckResult:
    selections = json.loads(run.artifact(name).read_bytes())["selections"]
    counts = {status: sum(row["status"] == status for row in selections) for status in ("bracketed", "grid_edge", "no_crossing")}
    return _result("gstar_bracketed", stage, name, counts["bracketed"] == len(selections), **counts)


def _slices_disjoint(stage: Stage, name: str, run: Upstream) -> dg.AssetCheckResult:
    dependencies = {dependency["phase_id"]: dependency["run_id"] for dependency in run.record["dependencies"]}
    first = RunStore(run.folder.parent).get(dependencies["PHASE1_CALIBRATE"])
    calibration = set(first.record["dataset"]["A_CALIBRATION"]["chunk_index"])
    rasters = set(run.record["dataset"]["A_RASTERS"]["chunk_index"])
    shared = len(calibration & rasters)
    return _result(
        "slices_disjoint", stage, name, shared == 0, calibration=len(calibration), rasters=len(rasters), in_both=shared
    )


def _marginals_exact(stage: Stage, name: str, run: Upstream) -> dg.AssetCheckResult:
    rows = pq.read_table(run.artifact(name)).to_pandas()
    broken = int((~rows["marginals_exact"]).sum())
    return _result(
        "marginals_exact", stage, name, broken == 0, surrogates=len(rows), cells=int(rows["cells"].sum()), broken=broken
    )


def _rows_cover_grid(stage: Stage, name: str, run: Upstream) -> dg.AssetCheckResult:
    rows = pq.read_table(run.artifact(name), columns=["spike_def_id", "target_rate", "g"]).to_pandas()
    cells = rows.drop_duplicates()
    expected = int(rows["spike_def_id"].nunique() * rows["target_rate"].nunique() * rows["g"].nunique())
    return _result("rows_cover_grid", stage, name, len(rows) == len(cells) == expected, rows=len(rows), expected=expected)


def _signatures_agree(stage: Stage, name: str, run: Upstream) -> dg.AssetCheckResult:
    verdicts = json.loads(run.artifact(name).read_bytes())["verdicts"]
    agree = sum(verdict["agrees"] for verdict in verdicts)
    return _result("signatures_agree", stage, name, agree == len(verdicts), agree=agree, cells=len(verdicts))


def _pairs_complete(stage: Stage, name: str, run: Upstream) -> dg.AssetCheckResult:
    rows = pq.read_table(run.artifact(name), columns=["spike_def_id", "target_rate", "g_condition"]).to_pandas()
    pairs = rows.groupby(["spike_def_id", "target_rate"])["g_condition"].agg(lambda found: sorted(found) == ["g1", "gstar"])
    return _result("pairs_complete", stage, name, bool(pairs.all()), cells=len(pairs), broken=int((~pairs).sum()))


def _claims_supported(stage: Stage, name: str, run: Upstream) -> dg.AssetCheckResult:
    verdicts = [claim["verdict"] for claim in json.loads(run.artifact(name).read_bytes())["claims"]]
    counts = {verdict.replace(" ", "_"): verdicts.count(verdict) for verdict in sorted(set(verdicts))}
    return _result("claims_supported", stage, name, set(verdicts) == {"supported"}, **counts)


_CHECKS = {
    "artifact_hash_holds": _hash_holds,
    "rate_match_abs": _rate("abs"),
    "rate_match_rel": _rate("rel"),
    "b_tot_defined": _b_tot_defined,
    "gstar_bracketed": _gstar_bracketed,
    "marginals_exact": _marginals_exact,
    "rows_cover_grid": _rows_cover_grid,
    "signatures_agree": _signatures_agree,
    "slices_disjoint": _slices_disjoint,
    "pairs_complete": _pairs_complete,
    "claims_supported": _claims_supported,
}
