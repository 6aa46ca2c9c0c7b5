"""Asset checks: which artifact has which, what each means, whether it blocks; what is measured is in `measures`.

A phase reaches these verdicts before it completes and stops where one that blocks fails. Here the numbers are read back with the
library's own functions, so that a reader sees them and a run that another machine made is held to the same.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import dagster as dg

from avalanche_dagster import measures
from avalanche_dagster.measures import Measure, Measured
from avalanche_dagster.specs import asset_key
from avalanche_llm.errors import MissingArtifact
from avalanche_llm.io.store import Upstream
from avalanche_llm.stages import Stage


@dataclass(frozen=True)
class Check:
    """What a check asks, how it is measured, and whether a later result would be wrong where it fails."""

    meaning: str
    measure: Measure
    blocking: bool = True


CHECKS: Final = MappingProxyType(
    {
        "artifact_hash_holds": Check("The file still has the sha256 that its run recorded.", measures.hash_holds),
        "hook_match": Check(
            "What is read at the down projections is what gate, up and act compute; the number is the largest difference.",
            measures.hook_match,
        ),
        "no_nan": Check("Every number that must be there is there and finite.", measures.no_nan),
        "rate_match_abs": Check(
            "Every threshold keeps its rate within the absolute tolerance; the number is the largest error.",
            measures.rate_match("abs"),
        ),
        "rate_match_rel": Check(
            "Every threshold keeps its rate within the relative tolerance, or within one event, and no layer is silent; "
            "the number is the largest error.",
            measures.rate_match("rel"),
        ),
        "b_tot_defined": Check("No raster is silent: total branching has a value in every condition.", measures.b_tot_defined),
        "gstar_bracketed": Check(
            "What the rule looks at crosses one, or peaks, in every cell; else g* only fits the rule best.",
            measures.gstar_bracketed,
            blocking=False,
        ),
        "slices_disjoint": Check("Calibration and rasters share no window of data set A.", measures.slices_disjoint),
        "marginals_exact": Check("Every surrogate keeps exactly the marginals that its null promises.", measures.marginals_exact),
        "rows_cover_grid": Check(
            "One row for every definition, rate and gain of the config, none twice, none besides.", measures.rows_cover_grid
        ),
        "signatures_agree": Check(
            "Susceptibility peaks near g* for every definition and rate.", measures.signatures_agree, blocking=False
        ),
        "pairs_complete": Check(
            "g = 1 and g* are both there for every definition and rate of the config.", measures.pairs_complete
        ),
        "claims_supported": Check(
            "Every claim of the paper has the verdict supported; another verdict is a finding, not an error.",
            measures.claims_supported,
            blocking=False,
        ),
    }
)
OF_ARTIFACT: Final = MappingProxyType(
    {
        ("phase1_calibrate", "calibration_stats"): ("hook_match", "no_nan"),
        ("phase2_gain_grid", "activation_events"): ("no_nan",),
        ("phase2_gain_grid", "tau_rate_matched"): ("rate_match_abs", "rate_match_rel", "no_nan"),
        ("phase2_gain_grid", "branching_sums"): ("no_nan",),
        ("phase2_gain_grid", "metrics"): ("b_tot_defined", "rows_cover_grid"),
        ("phase2_select_gstar", "gstar"): ("gstar_bracketed",),
        ("phase3_extract_rasters", "rasters_token_layer"): ("slices_disjoint",),
        ("phase4_run_nulls", "null_marginals"): ("marginals_exact",),
        ("phase4_run_nulls", "tau_rate_matched"): ("rate_match_abs", "rate_match_rel", "no_nan"),
        ("phase5_analyze_and_export", "T01_SUMMARY_parquet"): ("rows_cover_grid", "no_nan"),
        ("phase5_analyze_and_export", "signatures"): ("signatures_agree",),
        ("phase6_generalize_b_metrics", "sequence_nll"): ("no_nan",),
        ("phase6_generalize_b_metrics", "T02_GENERALIZATION_parquet"): ("pairs_complete", "no_nan"),
        ("phase6_arc_mcq_eval", "T03_ARC_parquet"): ("pairs_complete", "no_nan"),
        ("phase7_paper_export", "claims"): ("claims_supported",),
    }
)


def check_names(stage: Stage, name: str) -> tuple[str, ...]:
    """The checks of one artifact: the hash check for each that must be there (dagster wants every declared check reported)."""
    if name in stage.optional:
        return ()
    return ("artifact_hash_holds", *OF_ARTIFACT.get((stage.command, name), ()))


def check_specs(stage: Stage) -> list[dg.AssetCheckSpec]:
    """Every check of a stage."""
    return [
        dg.AssetCheckSpec(check, asset=asset_key(stage, name), blocking=CHECKS[check].blocking, description=CHECKS[check].meaning)
        for name in stage.artifacts
        for check in check_names(stage, name)
    ]


def checks_of(stage: Stage, name: str, run: Upstream) -> list[dg.AssetCheckResult]:
    """The measured result of every check of one artifact. An artifact that does not hold fails them all, with the reason."""
    return [_result(check, stage, name, _measured(check, name, run)) for check in check_names(stage, name)]


def _measured(check: str, name: str, run: Upstream) -> Measured:
    try:
        return CHECKS[check].measure(run, name)
    except MissingArtifact as error:
        return Measured(False, {"problem": str(error)})


def _result(check: str, stage: Stage, name: str, found: Measured) -> dg.AssetCheckResult:
    severe = CHECKS[check].blocking and found.serious
    return dg.AssetCheckResult(
        passed=found.passed,
        check_name=check,
        asset_key=asset_key(stage, name),
        metadata=found.numbers,
        severity=dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN,
    )
