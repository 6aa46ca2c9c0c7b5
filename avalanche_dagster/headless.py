"""What the command line calls: materialize one phase in this process, recorded under the command's name."""

from typing import Any

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError

from avalanche_dagster.definitions import defs
from avalanche_dagster.instance import open_instance, process_tags
from avalanche_dagster.resources import instrument_config
from avalanche_llm.errors import SchemaError
from avalanche_llm.phases.job import JobRequest
from avalanche_llm.stages import Stage


def materialize_phase(stage: Stage, request: JobRequest) -> str:
    """Run a phase as its Dagster job and return the id of the run directory. Errors of the phase come out unchanged."""
    with open_instance() as instance:
        return materialize_in(instance, stage, request)


def materialize_in(instance: dg.DagsterInstance, stage: Stage, request: JobRequest) -> str:
    """The same in a given instance."""
    role = request.job().settings.run.model_role
    try:
        result = defs.resolve_job_def(stage.command).execute_in_process(
            instance=instance,
            partition_key=role,
            run_config={"resources": {"instrument": {"config": instrument_config(request)}}, "loggers": _quiet()},
            tags=process_tags(),
            raise_on_error=True,
        )
    except DagsterExecutionInterruptedError as error:
        raise KeyboardInterrupt from error
    run_ids = {
        str(event.step_materialization_data.materialization.metadata["run_id"].value)
        for event in result.get_asset_materialization_events()
    }
    if len(run_ids) != 1:
        raise SchemaError(f"{stage.command} recorded run ids {sorted(run_ids)}; expected one")
    return run_ids.pop()


def _quiet() -> dict[str, Any]:
    return {"console": {"config": {"log_level": "CRITICAL"}}}
