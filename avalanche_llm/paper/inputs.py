"""What the paper is written from: the runs it rests on, and every table of theirs as a sheet that knows its file (spec 20)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import pandas as pd

from avalanche_llm.io.artifacts import RunArtifacts
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.paper.facts import Origin, Sheet
from avalanche_llm.phases.job import Job
from avalanche_llm.plotting.schemas import SCHEMAS

CELL: Final = ("spike_def_id", "target_rate")
SELECTIONS: Final = "gstar"
VERDICTS: Final = "signatures"
GRID: Final = "grid"
HELD_OUT: Final = "held_out"


@dataclass(frozen=True)
class PaperInputs:
    """runs and twin: phase id to run, of the paper's own role and of the other one (empty where it was not measured).

    sheets: table ids, and the names above for what is no table of spec 18.
    """

    job: Job
    runs: Mapping[str, Upstream]
    twin: Mapping[str, Upstream]
    sheets: Mapping[str, Sheet]

    @classmethod
    def of(cls, job: Job, run: RunArtifacts) -> "PaperInputs":
        """Everything that the dependencies of a phase 7 run lead to."""
        own, twin = runs_behind(job, run)
        return cls(job, own, twin, {**_tables(own), **_others(own)})

    def with_sheets(self, sheets: Mapping[str, Sheet]) -> "PaperInputs":
        """With more tables, or others in their place."""
        return replace(self, sheets={**self.sheets, **sheets})

    @property
    def chain(self) -> list[Upstream]:
        """Every run behind the paper, the own role first, in pipeline order."""
        return [*self.runs.values(), *self.twin.values()]


def runs_behind(job: Job, run: RunArtifacts) -> tuple[dict[str, Upstream], dict[str, Upstream]]:
    """The runs that a phase 7 run rests on by phase id: those of its own role, and those of the other."""
    found: dict[str, Upstream] = {}
    _follow(job.store, run.record["dependencies"], found)
    role = job.settings.run.model_role
    ordered = sorted(found.values(), key=lambda upstream: upstream.record["phase_id"])
    own = {upstream.phase_id: upstream for upstream in ordered if upstream.record["model"]["role"] == role}
    other = {upstream.phase_id: upstream for upstream in ordered if upstream.record["model"]["role"] != role}
    return own, other


def _follow(store: RunStore, dependencies: list[dict[str, str]], found: dict[str, Upstream]) -> None:
    for dependency in dependencies:
        if dependency["run_id"] not in found:
            upstream = found[dependency["run_id"]] = store.get(dependency["run_id"])
            _follow(store, upstream.record["dependencies"], found)


def _tables(runs: Mapping[str, Upstream]) -> dict[str, Sheet]:
    return {
        table_id: Sheet(Origin.of(run, name), schema.key, pd.read_parquet(run.artifact(name)))
        for run in runs.values()
        for table_id, schema in SCHEMAS.items()
        if (name := f"{table_id}_parquet") in run.record["artifacts"]
    }


def _others(runs: Mapping[str, Upstream]) -> dict[str, Sheet]:
    def rows(phase_id: str, artifact: str, key: str) -> pd.DataFrame:
        return pd.DataFrame(json.loads(runs[phase_id].artifact(artifact).read_bytes())[key])

    def frame(phase_id: str, artifact: str) -> pd.DataFrame:
        return pd.read_parquet(runs[phase_id].artifact(artifact))

    def origin(phase_id: str, artifact: str) -> Origin:
        return Origin.of(runs[phase_id], artifact)

    grid, select, rasters = "PHASE2_GAIN_GRID", "PHASE2_SELECT_GSTAR", "PHASE3_EXTRACT_RASTERS"
    analysis = "PHASE5_ANALYZE_AND_EXPORT"
    return {
        SELECTIONS: Sheet(origin(select, "gstar"), CELL, rows(select, "gstar", "selections")),
        VERDICTS: Sheet(origin(analysis, "signatures"), CELL, rows(analysis, "signatures", "verdicts")),
        GRID: Sheet(origin(grid, "metrics"), (*CELL, "g"), frame(grid, "metrics")),
        HELD_OUT: Sheet(origin(rasters, "metrics"), (*CELL, "g_condition"), frame(rasters, "metrics")),
    }
