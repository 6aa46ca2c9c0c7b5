"""`run_all`: every phase in order; what is complete and verified is kept, what is missing or incomplete is run.

A config that names a BASE and an INSTRUCT model has both measured, the twin of the run's own role first: the paper then
finds both. A role or a model named on the command line is measured alone.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from avalanche_llm.errors import MissingArtifact
from avalanche_llm.io.store import Upstream
from avalanche_llm.phases.job import Job, JobRequest
from avalanche_llm.progress import progress
from avalanche_llm.stages import Stage, stages

Materialize = Callable[[Stage, JobRequest], str]
_log = logging.getLogger("avalanche_llm")


def run_all(request: JobRequest, materialize: Materialize) -> dict[str, Upstream]:
    """Run what is missing and return the complete run of every phase of the config's own role by phase id."""
    planned = list(steps(replace(request, allow_resume=True)))
    with progress("pipeline", len(planned), "phases") as advance:
        for place, (wanted, stage) in enumerate(planned, start=1):
            job = wanted.job()
            found = complete_run(job, stage)
            _log.info(
                "== %d of %d: %s %s%s",
                place,
                len(planned),
                stage.command,
                job.settings.run.model_role,
                "" if found is None else f", {found.run_id} is complete",
            )
            if found is None:
                materialize(stage, wanted)
            advance(1)
    job = request.job()
    return {stage.phase_id: job.upstream(stage.phase_id) for stage in stages().values()}


def steps(request: JobRequest) -> Iterator[tuple[JobRequest, Stage]]:
    """Every phase that `run_all` has to see complete, in order, with the request that makes it."""
    settings = request.job().settings
    chosen = request.overrides.model_role or request.overrides.model_id
    twin = "BASE" if settings.run.model_role == "INSTRUCT" else "INSTRUCT"
    if not chosen and getattr(settings.models, twin) is not None:
        other = replace(request, overrides=replace(request.overrides, model_role=twin))
        yield from ((other, stage) for stage in stages().values() if stage.of_each_role)
    yield from ((request, stage) for stage in stages().values())


def complete_run(job: Job, stage: Stage) -> Upstream | None:
    """The run that already answers this job for a stage, every artifact's hash checked; None if it is still to be made.

    Raises MissingArtifact for a damaged or ambiguous one: neither may be passed over in silence.
    """
    scope = job.config.scope_sha256(stage.scope)
    if not any(run.record["hashes"]["scope_sha256"] == scope for run in job.store.complete_runs(stage.tag)):
        return None
    found = job.store.find(stage, job.config, pinned=job.pinned)
    for name in found.record["artifacts"]:
        found.artifact(name)
    return found


def pending(request: JobRequest) -> Iterator[tuple[Job, Stage]]:
    """The phases that `run_all` would run."""
    for wanted, stage in steps(request):
        job = wanted.job()
        try:
            missing = complete_run(job, stage) is None
        except MissingArtifact:
            missing = True
        if missing:
            yield job, stage
