"""Phase 6, ARC questions: is the model as good at a task at the g* of data set A as at g = 1? (S06ARC; spec 17).

Every distinct gain scores the questions once. No number of this phase enters the choice of g*.
"""

from collections.abc import Sequence
from functools import partial

import pandas as pd

from avalanche_llm.analysis.arc_rows import Answers, arc_rows
from avalanche_llm.analysis.conditions import Condition, keys_at_both_gains, raster_conditions
from avalanche_llm.analysis.summarize import RowHead
from avalanche_llm.errors import MissingArtifact
from avalanche_llm.io.artifacts import RunArtifacts
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.phases.arc_scores import read_scores, score_gains
from avalanche_llm.phases.context import guard
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.upstream_files import gstar_rows
from avalanche_llm.plotting import figures
from avalanche_llm.plotting.export import checked_table, export_figure, export_tables
from avalanche_llm.plotting.style import provenance_of
from avalanche_llm.questions import ROLE
from avalanche_llm.stages import stages

PHASE = "PHASE6_ARC_MCQ_EVAL"
TABLE = "T03_ARC"


def evaluate_arc(job: Job) -> str:
    """Run the phase and return its run id: the questions once at every distinct gain."""
    run = job.begin(PHASE)
    with guard(job, run):
        conditions = _conditions(job)
        run.describe(conditions=[condition.columns() for condition in conditions])
        score_gains(job, run, _gains(conditions), job.upstream("PHASE2_SELECT_GSTAR"))
        exported = tables(job, run)
        export_tables(run, exported)
        table = exported[TABLE]
        draw = partial(figures.arc_accuracy, table, chance=float(table["opt_chance"].iloc[0]))
        export_figure(run, "F07_ARC_MCQ", draw, provenance_of(table))
    run.complete()
    return run.run_id


def tables(job: Job, run: RunArtifacts) -> dict[str, pd.DataFrame]:
    """T03 from the run's own answers and the g* before it: every configured cell at both gain conditions."""
    conditions, settings = _conditions(job), job.settings
    answers = _answers(run, _gains(conditions))
    n_questions = len(next(iter(answers.values())).correct)
    weights = bootstrap_weights(n_questions, reps=settings.statistics.bootstrap_reps, seed=settings.statistics.bootstrap_seed)
    head = RowHead.of(run.record, stages()[PHASE].tag, ROLE)
    return {TABLE: checked_table(TABLE, arc_rows(head, conditions, answers, weights), keys_at_both_gains(settings.events))}


def _answers(run: RunArtifacts, gains: Sequence[float]) -> dict[float, Answers]:
    """The answers of every gain. MissingArtifact if one has not a row for each question."""
    path, n_questions = run.artifact("arc_questions"), run.record["dataset"][ROLE]["n_questions"]
    rows, found = read_scores(path).to_pandas(), {}
    for gain in gains:
        of_gain = rows[rows["g"] == gain]
        if of_gain["question_index"].tolist() != list(range(n_questions)):
            raise MissingArtifact(
                f"{path} has {len(of_gain)} rows at gain {gain:g}, one for each of {n_questions} questions was expected"
            )
        found[gain] = Answers.of(of_gain)
    return found


def _conditions(job: Job) -> list[Condition]:
    return raster_conditions(gstar_rows(job.upstream("PHASE2_SELECT_GSTAR")), job.settings.gains.baseline)


def _gains(conditions: Sequence[Condition]) -> list[float]:
    return sorted({condition.g for condition in conditions})
