"""A sensor, off by default, that starts phase 5 for every phase 4 run that completes or is registered."""

from pathlib import Path

import dagster as dg

from avalanche_dagster.jobs import phase_jobs
from avalanche_dagster.specs import asset_key
from avalanche_llm.io.artifacts import CONFIG_NAME
from avalanche_llm.stages import stages

NULLS, ANALYSIS = stages()["PHASE4_RUN_NULLS"], stages()["PHASE5_ANALYZE_AND_EXPORT"]


@dg.asset_sensor(
    asset_key=asset_key(NULLS, "null_marginals"),
    job=next(job for job in phase_jobs if job.name == ANALYSIS.command),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Starts phase 5 when phase 4 is complete, with the config that phase 4 was run with.",
)
def analyze_when_nulls_are_complete(context: dg.SensorEvaluationContext, asset_event: dg.EventLogEntry) -> dg.RunRequest:
    """One run request a phase 4 run, which is named as upstream; its own resolved config is the config of both."""
    materialization = asset_event.asset_materialization
    if materialization is None or materialization.partition is None:
        raise dg.DagsterInvariantViolationError("the sensor follows materializations of a partitioned asset alone")
    run_id = str(materialization.metadata["run_id"].value)
    folder = next(
        parent for parent in Path(str(materialization.metadata["artifact_path"].value)).parents if parent.name == run_id
    )
    instrument = {"config": str(folder / CONFIG_NAME), "runs_dir": str(folder.parent), "dep": [run_id], "allow_resume": True}
    return dg.RunRequest(
        run_key=str(folder),  # the same content under another runs folder is another run to analyse
        partition_key=materialization.partition,
        run_config={"resources": {"instrument": {"config": instrument}}},
    )
