"""Phase 2's grid as a graph: plan, one mapped step a gain, publish. Steps pass paths; a resumed run maps only what is missing."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from avalanche_dagster.checks import check_specs
from avalanche_dagster.executors import step_tags
from avalanche_dagster.instance import claim_run
from avalanche_dagster.partitions import GPU_POOL, model_roles
from avalanche_dagster.resources import Instrument
from avalanche_dagster.results import results_of
from avalanche_dagster.specs import asset_specs, upstream_keys
from avalanche_llm.stages import stages

STAGE = stages()["PHASE2_GAIN_GRID"]


_UPSTREAM = {key.to_python_identifier(): key for key in upstream_keys(STAGE)}
_SPECS = {spec.key.to_python_identifier(): spec for spec in asset_specs(STAGE)}
_IN_A_KEY = str.maketrans({".": "_", "-": "m", "+": "p"})  # a mapping key is one word; repr tells any two gains apart
_CHECKS = [check.get_python_identifier() for check in check_specs(STAGE)]


@dg.op(
    ins={name: dg.In(dg.Nothing) for name in _UPSTREAM},
    out={"begun": dg.Out(str), "gains": dg.DynamicOut(float, is_required=False)},
    tags=step_tags(runs_model=False),
)
def plan_gains(context: dg.OpExecutionContext, instrument: Instrument) -> Iterator[Any]:
    """Begin the run; one output for each gain that has no part file yet.

    Dagster skips what collects nothing, so a grid that only has to be published maps its last gain, whose part is kept.
    """
    from avalanche_llm.phases.gain_grid import plan_grid

    claim_run(context)
    job = instrument.job(context.partition_key)
    plan = plan_grid(job)
    yield dg.Output(plan.run_id, "begun")
    for gain in plan.missing or job.settings.gains.grid[-1:]:
        yield dg.DynamicOutput(gain, mapping_key=f"g_{gain!r}".translate(_IN_A_KEY), output_name="gains")


@dg.op(pool=GPU_POOL, tags=step_tags(runs_model=True))
def measure_gain(context: dg.OpExecutionContext, instrument: Instrument, run_id: str, gain: float) -> str:
    """One forward pass over the calibration slice at one gain; the path of its part file."""
    from avalanche_llm.phases.gain_grid import measure_gain as measure

    return str(measure(instrument.job(context.partition_key), run_id, gain))


@dg.op(out={name: dg.Out(dg.Nothing) for name in (*_SPECS, *_CHECKS)}, tags=step_tags(runs_model=False))
def publish_grid(
    context: dg.OpExecutionContext, instrument: Instrument, run_id: str, parts: list[str]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Thresholds, branching and metrics from all parts; the run becomes complete and its artifacts are recorded."""
    from avalanche_llm.phases.gain_grid import publish_grid as publish

    job = instrument.job(context.partition_key)
    publish(job, run_id)
    yield from results_of(STAGE, job.store.get(run_id))


@dg.graph_multi_asset(
    name=f"{STAGE.command}_steps",  # the job has the command's name, and names are unique in a code location
    ins={name: dg.AssetIn(key, dagster_type=dg.Nothing) for name, key in _UPSTREAM.items()},
    outs={
        name: dg.AssetOut(
            key=spec.key,
            dagster_type=dg.Nothing,
            description=spec.description,
            code_version=spec.code_version,
            kinds=set(spec.kinds),
            owners=list(spec.owners),
        )
        for name, spec in _SPECS.items()
    },
    check_specs=check_specs(STAGE),
    partitions_def=model_roles,
    group_name="phase2",  # dagster takes a graph's group from here and drops the one of an AssetOut
)
def phase2_gain_grid(**upstream: Any) -> dict[str, Any]:
    """The grid as a graph over the gains that are still to be measured."""
    run_id, gains = plan_gains(**upstream)
    parts = gains.map(lambda gain: measure_gain(run_id, gain)).collect()
    outputs = publish_grid(run_id, parts)
    return dict(zip((*_SPECS, *_CHECKS), outputs, strict=True))
