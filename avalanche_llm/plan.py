"""What a phase would do, without doing it: run id, upstream runs, and what it would cost."""

from dataclasses import dataclass

from avalanche_llm.cost import Cost, cost_of, over_budget
from avalanche_llm.errors import MissingArtifact
from avalanche_llm.phases.job import Job
from avalanche_llm.run_id import content_run_id
from avalanche_llm.stages import Stage, stages


@dataclass(frozen=True)
class Plan:
    """The plan of one phase."""

    stage: Stage
    run_id: str
    state: str
    upstream: dict[str, str]
    cost: Cost
    over_budget: tuple[str, ...]


def plan_phase(job: Job, stage: Stage) -> Plan:
    """The plan of `stage` for this job. Nothing is created and no model is loaded."""
    cost = cost_of(job.settings, stage, job.n_gstar())
    run_id = (
        content_run_id(stage.tag, job.config.canonical)
        if job.run_id_mode == "content_hash"
        else f"RUN_{stage.tag}_<time>_<counter>"
    )
    upstream = {phase: _upstream(job, phase) for phase in stage.needs}
    return Plan(stage, run_id, job.store.state(run_id), upstream, cost, over_budget(job.settings, cost))


def _upstream(job: Job, phase_id: str) -> str:
    try:
        return job.upstream(phase_id).run_id
    except MissingArtifact as error:
        return f"missing: {error}"


def plan_lines(plan: Plan, job: Job) -> list[str]:
    """The plan as text for a terminal."""
    return [
        f"phase       {plan.stage.command}",
        f"model       {job.settings.run.model_role} {job.settings.model.hf_id}",
        f"config      sha256 {job.config.sha256}",
        f"run         {job.store.root / plan.run_id} ({plan.state})",
        *(f"upstream    {stages()[phase].command}: {found}" for phase, found in plan.upstream.items()),
        f"cost        {_cost_line(plan.cost, job)}",
        *(f"over budget {line}" for line in plan.over_budget),
    ]


def _cost_line(cost: Cost, job: Job) -> str:
    if not cost.n_passes:
        return "no forward passes"
    if not cost.n_windows:
        return f"{cost.n_passes} passes over every question; cost unknown (the data set is not on this machine)"
    passes = f"{cost.n_passes} passes, {cost.n_windows} windows in all"
    if cost.flops is None or cost.seconds is None or cost.memory_gib is None:
        return f"{passes}; cost unknown ({cost.unknown})"
    run = job.settings.run
    amounts = f"{cost.flops:.3g} FLOP, {cost.seconds:.0f} s and {cost.memory_gib:.1f} GiB"
    return f"{passes}; about {amounts} on {run.device} in {run.dtype}"
