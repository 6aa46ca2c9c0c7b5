"""What each stage is called, needs, reads of the config and leaves behind: the one table that every caller uses.

The run store, the command line and the Dagster assets are all driven by it (SCIENCE section 6; spec 11).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from avalanche_llm.canon import load_canon
from avalanche_llm.errors import UsageError

_SLICE: Final = ("run", "pipeline.seq_len_tokens", "pipeline.burn_in_tokens", "pipeline.batch_windows", "models.{role}")
_CALIBRATE: Final = (*_SLICE, "datasets.A", "events", "determinism", "gains.baseline", "statistics.bootstrap_reps")
_GRID: Final = (*_CALIBRATE, "gains", "statistics")
_SELECT: Final = (*_GRID, "pipeline.gstar_method")


@dataclass(frozen=True)
class Stage:
    """One phase of the pipeline.

    needs: phase ids whose complete runs it reads. scope: dotted parts of the config that decide its result, those of
    its upstream included, so that two configs that agree on them may share the run. artifacts: logical name to path
    inside the run directory. of_each_role: whether BASE and INSTRUCT each have a run of it, or one run speaks of both.
    optional: artifacts that a complete run may lack.
    """

    phase_id: str
    command: str
    tag: str
    needs: tuple[str, ...]
    scope: tuple[str, ...]
    artifacts: Mapping[str, str]
    runs_model: bool
    of_each_role: bool
    optional: frozenset[str] = frozenset()


@lru_cache(maxsize=1)
def stages() -> Mapping[str, Stage]:
    """Every producing phase by its id, in pipeline order."""
    canon = load_canon()
    results = canon["PATH.RESULTS_DIR"]

    def files(**logical: str) -> Mapping[str, str]:
        return MappingProxyType({name: f"{results}/{canon['OUTPUT.' + key]}" for name, key in logical.items()})

    def stage(
        phase_id: str,
        needs: tuple[str, ...],
        scope: tuple[str, ...],
        artifacts: Mapping[str, str],
        runs_model: bool = False,
        optional: Iterable[str] = (),
    ) -> Stage:
        command = str(canon[f"CLI.CMD.{phase_id}"]).split()[3]
        twinned = f"{phase_id}_BASE" in canon["CLI.CMD"]
        tag = canon[f"STAGE_TAG.{phase_id}"]
        return Stage(phase_id, command, tag, needs, scope, artifacts, runs_model, twinned, frozenset(optional))

    def exported(tables: tuple[str, ...], figures: tuple[str, ...]) -> Mapping[str, str]:
        kinds = (("TABLE", tables, ("CSV", "PARQUET")), ("FIG", figures, ("PDF", "PNG")))
        return {
            f"{long_id}_{form.lower()}": canon[f"OUTPUT.{kind}_FILE_{form}"][long_id]
            for kind, short_ids, forms in kinds
            for short_id in short_ids
            for long_id in canon[f"ID.{kind}"]
            if long_id.startswith(short_id)
            for form in forms
        }

    calibrate, grid, select = "PHASE1_CALIBRATE", "PHASE2_GAIN_GRID", "PHASE2_SELECT_GSTAR"
    rasters, nulls, analysis = "PHASE3_EXTRACT_RASTERS", "PHASE4_RUN_NULLS", "PHASE5_ANALYZE_AND_EXPORT"
    generalize, arc, paper = "PHASE6_GENERALIZE_B_METRICS", "PHASE6_ARC_MCQ_EVAL", "PHASE7_PAPER_EXPORT"
    everything = (*_SELECT, "models", "datasets.B", "datasets.ARC_MCQ")
    folder = canon["PATH.PAPER_DIR"]
    sections = {f"paper_{name.lower()}": f"{folder}/{file}" for name, file in canon["OUTPUT.PAPER_SECTION"].items()}
    sections["paper_references"] = f"{folder}/{canon['OUTPUT.BIB_REFERENCES_BASENAME']}"
    printed = {"paper_pdf": f"{folder}/{canon['OUTPUT.PAPER_PDF_BASENAME']}"}
    twins = exported(("T07",), ())
    table = [
        stage(
            calibrate,
            (),
            _CALIBRATE,
            files(calibration_stats="CALIBRATION_STATS_NPZ_BASENAME", rate_targets="RATE_TARGETS_JSON_BASENAME"),
            runs_model=True,
        ),
        stage(
            grid,
            (calibrate,),
            _GRID,
            files(
                activation_events="ACTIVATION_EVENTS_PARQUET_BASENAME",
                tau_rate_matched="TAU_RATE_MATCHED_PARQUET_BASENAME",
                branching_sums="BRANCHING_SUMS_PARQUET_BASENAME",
                metrics="METRICS_PARQUET_BASENAME",
            ),
            runs_model=True,
        ),
        stage(select, (grid,), _SELECT, files(gstar="GSTAR_JSON_BASENAME")),
        stage(
            rasters,
            (calibrate, grid, select),
            _SELECT,
            files(
                rasters_token_layer="RASTER_NPZ_BASENAME",
                raster_tokens="RASTER_TOKENS_PARQUET_BASENAME",
                metrics="METRICS_PARQUET_BASENAME",
            ),
            runs_model=True,
        ),
        stage(
            nulls,
            (calibrate, grid, select, rasters),
            _SELECT,
            files(
                rasters_nulls="NULL_NPZ_BASENAME",
                tau_rate_matched="TAU_RATE_MATCHED_PARQUET_BASENAME",
                null_marginals="NULL_MARGINALS_PARQUET_BASENAME",
            ),
            runs_model=True,
        ),
        stage(
            analysis,
            (calibrate, grid, select, rasters, nulls),
            _SELECT,
            {
                **files(
                    metrics="METRICS_PARQUET_BASENAME",
                    avalanches="AVALANCHES_PARQUET_BASENAME",
                    null_comparison="NULL_COMPARISON_PARQUET_BASENAME",
                    signatures="SIGNATURES_JSON_BASENAME",
                    ablation_events="ABLATION_EVENTS_PARQUET_BASENAME",
                ),
                **exported(("T01", "T04", "T05", "T06"), ("F01", "F02", "F03", "F04", "F05", "F08", "F09", "F10", "F11")),
            },
            runs_model=True,
        ),
        stage(
            generalize,
            (calibrate, grid, select),
            (*_SELECT, "datasets.B"),
            {
                **files(
                    activation_events="ACTIVATION_EVENTS_PARQUET_BASENAME",
                    sequence_nll="SEQUENCE_NLL_PARQUET_BASENAME",
                    metrics="METRICS_PARQUET_BASENAME",
                ),
                **exported(("T02",), ("F06",)),
            },
            runs_model=True,
        ),
        stage(
            arc,
            (select,),
            (*_SELECT, "datasets.ARC_MCQ"),
            {**files(arc_questions="ARC_QUESTIONS_PARQUET_BASENAME"), **exported(("T03",), ("F07",))},
            runs_model=True,
        ),
        stage(
            paper,
            (analysis, generalize, arc),
            everything,
            {**sections, **files(claims="CLAIMS_JSON_BASENAME"), **twins, **printed},
            optional=(*twins, *printed),
        ),
        stage(
            "PHASE8_RELEASE", (paper,), everything, files(manifest="MANIFEST_SHA256_BASENAME", release_zip="RELEASE_ZIP_BASENAME")
        ),
        stage("REPORT", (paper,), everything, files(report="REPORT_HTML_BASENAME")),
    ]
    return MappingProxyType({entry.phase_id: entry for entry in table})


def stage_for_command(command: str) -> Stage:
    """The stage of a subcommand such as phase1_calibrate. Raises UsageError for a command that produces no run."""
    for stage in stages().values():
        if stage.command == command:
            return stage
    raise UsageError(f"{command!r} is not a producing phase; expected one of {', '.join(s.command for s in stages().values())}")
