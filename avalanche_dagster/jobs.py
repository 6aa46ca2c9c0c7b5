"""One job a command, named as the command, and `full_pipeline` over all of them."""

import dagster as dg

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
