"""Where steps run: in one process unless a job says otherwise; on a Ray cluster for the jobs that exist with the extra `ray`.

On Ray each step is a job of the cluster with the resources of its op's tag. A step that no node can hold would wait for
ever without a word, so the cluster is looked at first and the run refused with what is missing.
"""

import json
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import inf
from types import MappingProxyType
from typing import Any, Final

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements

from avalanche_llm.errors import EnvironmentProblem

RAY_TAG: Final = "dagster-ray/config"
STEP_GPUS: Final = "AVALANCHE_STEP_GPUS"
"""GPUs that a step with a model takes on Ray: 1 unless set; 0 for a cluster of CPUs, 0.5 for two steps on a GPU."""
AUTOSCALES: Final = "AVALANCHE_RAY_AUTOSCALES"
"""Set to 1 where nodes appear when they are needed: what no node offers now is then waited for."""
RAY_NAMES: Final = MappingProxyType({"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"})
RETRIES: Final = 2


def step_tags(*, runs_model: bool) -> dict[str, Any]:
    """The tags that say what a step takes on Ray. Other executors pass over them."""
    return {RAY_TAG: {"num_cpus": 1.0, "num_gpus": _gpus_of_a_step() if runs_model else 0.0}}


def has_ray() -> bool:
    """Whether the extra `ray` is installed."""
    return find_spec("dagster_ray") is not None


def ray_executor() -> dg.ExecutorDefinition:
    """The executor of dagster-ray, after a look at what the cluster offers."""
    from dagster_ray import ray_executor as plain

    @dg.executor(name="ray", config_schema=plain.config_schema, requirements=multiple_process_executor_requirements())
    def checked(context: dg.InitExecutorContext) -> dg.Executor:
        config: Any = context.executor_config["ray"]
        if os.environ.get(AUTOSCALES, "0") in ("", "0"):
            missing = missing_resources(steps_of(context.job.get_definition(), config), nodes_of(config.get("address")))
            if missing:
                raise EnvironmentProblem(f"the Ray cluster cannot hold {'; '.join(missing)}. Set {STEP_GPUS}, or add a node")
        executor: dg.Executor = plain.executor_creation_fn(context)
        return executor

    return checked


def steps_of(job: dg.JobDefinition, config: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What each op of a job takes, by Ray's resource names. The executor's own numbers go before those of a tag."""
    return {op.name: _wanted(config, json.loads(op.tags.get(RAY_TAG, "{}"))) for op in job.graph.iterate_op_defs()}


def missing_resources(steps: Mapping[str, Mapping[str, float]], nodes: Sequence[Mapping[str, float]]) -> list[str]:
    """One line for every step that fits on no single node: what it takes and the most that a node offers."""
    if not nodes:
        return ["any step: no node is alive"]
    lines = []
    for name, wanted in sorted(steps.items()):
        if any(all(node.get(kind, 0.0) >= amount for kind, amount in wanted.items()) for node in nodes):
            continue
        takes = ", ".join(
            f"{amount:g} {kind} (most on a node: {max(node.get(kind, 0.0) for node in nodes):g})"
            for kind, amount in sorted(wanted.items())
        )
        lines.append(f"step {name}: it takes {takes} on one node")
    return lines


def nodes_of(address: str | None) -> list[dict[str, float]]:
    """The resources of every live node, from the cluster's job server."""
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        nodes = list_nodes(address=address, filters=[("state", "=", "ALIVE")])
    except (OSError, RuntimeError, RayStateApiException) as error:
        raise EnvironmentProblem(
            f"no Ray cluster answers at {address or 'RAY_ADDRESS'} ({error}); set execution.config.ray.address to its job server"
        ) from error
    return [dict(node.resources_total) for node in nodes]


def _wanted(config: Mapping[str, Any], tag: Mapping[str, Any]) -> dict[str, float]:
    amounts = {kind: config.get(name) or tag.get(name) or 0.0 for name, kind in RAY_NAMES.items()}
    own = {**(config.get("resources") or {}), **(tag.get("resources") or {})}
    return {kind: float(amount) for kind, amount in (amounts | own).items() if amount}


def _gpus_of_a_step() -> float:
    text = os.environ.get(STEP_GPUS) or "1"
    try:
        gpus = float(text)
    except ValueError:
        gpus = -1.0
    if not 0 <= gpus < inf:
        raise EnvironmentProblem(f"{STEP_GPUS} must be a number of GPUs, 0 or more, found {text!r}")
    return gpus
