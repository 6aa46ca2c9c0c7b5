"""The report: one page over the paper and everything it rests on (S09; spec 24). The model is not needed."""

from avalanche_llm.errors import DeterminismError
from avalanche_llm.io.files import raw
from avalanche_llm.phases.context import guard
from avalanche_llm.phases.job import Job
from avalanche_llm.report.gather import PAPER, Evidence
from avalanche_llm.report.page import render


def report(job: Job) -> str:
    """Run the phase and return its run id. The whole chain is checked, and the page made, before anything is written."""
    paper = job.upstream(PAPER)
    evidence = Evidence.of(job.store, paper, job.pinned)
    page = render(evidence, job.settings, job.config.sha256)
    run = job.begin("REPORT")
    with guard(job, run):
        run.describe(model=paper.record["model"], dataset=paper.record["dataset"])
        if run.save("report", raw(page)).read_bytes() != page:
            raise DeterminismError(f"{run.folder} was begun over other runs; remove the folder and make the report again")
    run.complete()
    return run.run_id
