"""What each stage is called, needs, reads of the config and leaves behind: the one table that every caller uses.

The run store, the command line and the Dagster assets are all driven by it (SCIENCE section 6; spec 11).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from avalanche_llm.canon import Canon, load_canon
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
    inside the run directory.
    """

    phase_id: str
    command: str
    tag: str
    needs: tuple[str, ...]
    scope: tuple[str, ...]
    artifacts: Mapping[str, str]
    runs_model: bool
    built: bool = True


@lru_cache(maxsize=4)
def stages(canon: Canon | None = None) -> Mapping[str, Stage]:
    """Every producing phase by its id, in pipeline order."""
    canon = canon or load_canon()
    results = canon["PATH.RESULTS_DIR"]

    def files(**logical: str) -> Mapping[str, str]:
        return MappingProxyType({name: f"{results}/{canon['OUTPUT.' + key]}" for name, key in logical.items()})

    def stage(
        phase_id: str,
        needs: tuple[str, ...],
        scope: tuple[str, ...],
        artifacts: Mapping[str, str] | None = None,
        runs_model: bool = False,
    ) -> Stage:
        command = str(canon[f"CLI.CMD.{phase_id}"]).split()[3]
        return Stage(
            phase_id, command, canon[f"STAGE_TAG.{phase_id}"], needs, scope, artifacts or {}, runs_model, bool(artifacts)
        )

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
    everything = (*_SELECT, "datasets.B", "datasets.ARC_MCQ")
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
            files(rasters_token_layer="RASTER_NPZ_BASENAME", metrics="METRICS_PARQUET_BASENAME"),
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
                ),
                **exported(("T01", "T04", "T05", "T06"), ("F01", "F02", "F03", "F04", "F05", "F08", "F09", "F10", "F11")),
            },
            runs_model=True,
        ),
        stage("PHASE6_GENERALIZE_B_METRICS", (calibrate, grid, select), (*_SELECT, "datasets.B"), runs_model=True),
        stage("PHASE6_ARC_MCQ_EVAL", (select,), (*_SELECT, "datasets.ARC_MCQ"), runs_model=True),
        stage("PHASE7_PAPER_EXPORT", (analysis, "PHASE6_GENERALIZE_B_METRICS", "PHASE6_ARC_MCQ_EVAL"), everything),
        stage("PHASE8_RELEASE", ("PHASE7_PAPER_EXPORT",), everything),
    ]
    return MappingProxyType({entry.phase_id: entry for entry in table})


def stage_for_command(command: str) -> Stage:
    """The stage of a subcommand such as phase1_calibrate. Raises UsageError for a command that produces no run."""
    for stage in stages().values():
        if stage.command == command:
            return stage
    raise UsageError(f"{command!r} is not a producing phase; expected one of {', '.join(s.command for s in stages().values())}")
