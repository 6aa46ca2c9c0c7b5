"""Phase 7: the paper's sections from the tables, every claim with its evidence, and T07 where both roles were measured (S07)."""

import pandas as pd

from avalanche_llm.io.artifacts import RunArtifacts
from avalanche_llm.io.store import Upstream
from avalanche_llm.paper.export import write_paper
from avalanche_llm.paper.facts import Origin, Sheet
from avalanche_llm.paper.inputs import PaperInputs, runs_behind
from avalanche_llm.paper.replication import TABLE_ID, replication_table
from avalanche_llm.phases.context import guard
from avalanche_llm.phases.job import Job
from avalanche_llm.plotting.export import export_tables
from avalanche_llm.plotting.schemas import SCHEMAS
from avalanche_llm.release.chain import require_intact
from avalanche_llm.stages import stages

ANALYSIS = "PHASE5_ANALYZE_AND_EXPORT"


def export_paper(job: Job) -> str:
    """Run phase 7 and return its run id."""
    beside = twin_runs(job, stages()["PHASE7_PAPER_EXPORT"].needs)
    run = job.begin("PHASE7_PAPER_EXPORT", beside)
    with guard(job, run):
        analysis = job.upstream(ANALYSIS)
        run.describe(model=analysis.record["model"], dataset=analysis.record["dataset"])
        made = tables(job, run)
        export_tables(run, made)
        inputs = PaperInputs.of(job, run)
        sheets = {
            table_id: Sheet(Origin.of(run, f"{table_id}_parquet"), SCHEMAS[table_id].key, frame)
            for table_id, frame in made.items()
        }
        write_paper(run, inputs.with_sheets(sheets))
    run.complete()
    return run.run_id


def tables(job: Job, run: RunArtifacts) -> dict[str, pd.DataFrame]:
    """T07 where the run rests on both roles, else no table."""
    own, twin = runs_behind(job, run)
    return {TABLE_ID: replication_table(run, own, twin)} if ANALYSIS in twin else {}


def twin_runs(job: Job, needs: tuple[str, ...]) -> list[Upstream]:
    """The other role's complete runs of the needed phases; none where it has no model in the config, or no analysis.

    Raises MissingArtifact where several fit, since that role was measured and which run is meant has to be said, and where
    one, or what it rests on, is not as recorded.
    """
    twin = job.twin()
    if twin is None:
        return []
    found = [twin.upstream(phase_id) for phase_id in needs if _is_measured(twin, phase_id)]
    if not any(upstream.phase_id == ANALYSIS for upstream in found):
        return []
    require_intact(job.store, [upstream.run_id for upstream in found])
    return found


def _is_measured(job: Job, phase_id: str) -> bool:
    stage = stages()[phase_id]
    scope = job.config.scope_sha256(stage.scope)
    return any(run.record["hashes"]["scope_sha256"] == scope for run in job.store.complete_runs(stage.tag))
