"""Complete runs of every stage with a few bytes an artifact, made by the run store itself: what only reads records and files."""

from pathlib import Path
from typing import Any

import tiny

from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import raw
from avalanche_llm.phases.job import Job
from avalanche_llm.stages import Stage, stages

PAPER_AND_ABOVE = [stage for stage in stages().values() if stage.phase_id not in ("PHASE8_RELEASE", "REPORT")]


def job_on(runs: Path, **options: Any) -> Job:
    """A job of the demo's config; no model is opened."""
    return tiny.job_of(tiny.REPO / "configs" / "demo.yaml", runs, **options)


def begun_run(job: Job, stage: Stage) -> Run:
    """A run with every artifact written and its dependencies on record, not yet complete."""
    run = job.begin(stage.phase_id)
    for name in stage.artifacts:
        if name not in stage.optional:
            run.save(name, raw(f"{stage.phase_id} {name}\n".encode() * 40))
    return run


def every_run(runs: Path) -> Path:
    """A runs folder with one complete run of every stage up to the paper."""
    job = job_on(runs)
    for stage in PAPER_AND_ABOVE:
        begun_run(job, stage).complete()
    return runs
