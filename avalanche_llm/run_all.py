"""`run_all`: every built phase in order; what is complete and verified is kept, what is missing or incomplete is run."""

import logging
from collections.abc import Callable
from dataclasses import replace

from avalanche_llm.errors import MissingArtifact
from avalanche_llm.io.store import Upstream
from avalanche_llm.phases.job import Job, JobRequest
from avalanche_llm.stages import Stage, stages

Materialize = Callable[[Stage, JobRequest], str]
_log = logging.getLogger("avalanche_llm")


def run_all(request: JobRequest, materialize: Materialize) -> dict[str, Upstream]:
    """Run what is missing and return the complete run of every built phase by phase id."""
    job = request.job()
    resuming = replace(request, allow_resume=True)
    for stage in (stage for stage in stages().values() if stage.built):
        found = complete_run(job, stage)
        if found is None:
            _log.info("== %s", stage.command)
            materialize(stage, resuming)
        else:
            _log.info("== %s: %s is complete", stage.command, found.run_id)
    return {stage.phase_id: job.upstream(stage.phase_id) for stage in stages().values() if stage.built}


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


def pending(job: Job) -> list[Stage]:
    """The built phases that `run_all` would run."""
    missing = []
    for stage in stages().values():
        try:
            if stage.built and complete_run(job, stage) is None:
                missing.append(stage)
        except MissingArtifact:
            missing.append(stage)
    return missing
