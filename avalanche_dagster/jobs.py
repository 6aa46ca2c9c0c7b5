"""One job a command, named as the command, `full_pipeline` over all of them, and with the extra `ray` two jobs on a cluster."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from avalanche_dagster.executors import RETRIES, has_ray, ray_executor
from avalanche_dagster.specs import asset_key
from avalanche_llm.stages import stages

phase_jobs = [
    dg.define_asset_job(
        stage.command,
        selection=dg.AssetSelection.assets(*(asset_key(stage, name) for name in stage.artifacts)),
        executor_def=dg.in_process_executor,
        description=f"What `python -m avalanche_llm {stage.command}` runs.",
    )
    for stage in stages().values()
]

full_pipeline = dg.define_asset_job(
    "full_pipeline",
    selection=dg.AssetSelection.all(),
    executor_def=dg.in_process_executor,
    description="Every phase in order. GPU steps share one process, so the model loads once.",
)


def ray_jobs() -> list[UnresolvedAssetJobDefinition]:
    """The grid and the whole pipeline with each step a job of a Ray cluster; none where dagster-ray is not installed.

    A worker may vanish there, so a step is tried again: the run must allow resuming.
    """
    if not has_ray():
        return []
    executor, grid = ray_executor(), stages()["PHASE2_GAIN_GRID"]
    selections = {
        grid.command: dg.AssetSelection.assets(*(asset_key(grid, name) for name in grid.artifacts)),
        full_pipeline.name: dg.AssetSelection.all(),
    }
    return [
        dg.define_asset_job(
            f"{name}_on_ray",
            selection=selection,
            executor_def=executor,
            op_retry_policy=dg.RetryPolicy(max_retries=RETRIES),
            description=f"{name} with every step on a Ray cluster, the gains of the grid side by side (docs/platform.md).",
        )
        for name, selection in selections.items()
    ]
