"""A phase that is one step: a multi-asset from the stage table and the library function that does the work."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from avalanche_dagster.checks import check_specs
from avalanche_dagster.executors import step_tags
from avalanche_dagster.instance import claim_run
from avalanche_dagster.partitions import GPU_POOL
from avalanche_dagster.resources import Instrument
from avalanche_dagster.results import results_of
from avalanche_dagster.specs import asset_specs
from avalanche_llm.phases.job import Job
from avalanche_llm.stages import stages

PhaseFunction = Callable[[Job], str]


def phase_assets(phase_id: str, load: Callable[[str], PhaseFunction]) -> dg.AssetsDefinition:
    """The multi-asset of a phase. `load` imports the function late: definitions load without torch."""
    stage = stages()[phase_id]

    @dg.multi_asset(
        name=f"{stage.command}_step",  # the job has the command's name, and names are unique in a code location
        specs=asset_specs(stage),
        check_specs=check_specs(stage),
        pool=GPU_POOL if stage.runs_model else None,
        op_tags=step_tags(runs_model=stage.runs_model),
    )
    def assets(context: dg.AssetExecutionContext, instrument: Instrument) -> Iterator[dg.MaterializeResult[Any]]:
        claim_run(context)
        job = instrument.job(context.partition_key)
        run_id = load(phase_id)(job)
        context.log.info(f"run {job.store.root / run_id}")
        yield from results_of(stage, job.store.get(run_id))

    return assets
