"""What the paper is written from: the runs it rests on, and every table of theirs as a sheet that knows its file (spec 20)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pandas as pd
import yaml

from avalanche_llm.errors import MissingArtifact
from avalanche_llm.io.artifacts import CONFIG_NAME, RunArtifacts
from avalanche_llm.io.files import read_frame, read_rows
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.paper.facts import Fact, Origin, Sheet, Value
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.upstream_files import gstar_frame
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


def recorded(run: Upstream, *path: str) -> Fact:
    """A value of a run's record."""
    value: Any = run.record
    for key in path:
        value = value[key]
    return Fact(value, "", Origin.of_record(run), "", ".".join(path), exact=True)


def configured(run: Upstream, dotted: str) -> list[Fact]:
    """A value of a run's resolved config, or each of a list."""
    path = run.folder / CONFIG_NAME
    value: Any = yaml.safe_load(path.read_bytes())
    for key in dotted.split("."):
        value = value[key]
    origin = Origin(run.run_id, run.phase_id, "config_resolved", CONFIG_NAME, run.record["hashes"]["config_sha256"])
    values: list[Value] = value if isinstance(value, list) else [value]
    return [Fact(item, "", origin, "", dotted, exact=True) for item in values]


def runs_behind(job: Job, run: RunArtifacts) -> tuple[dict[str, Upstream], dict[str, Upstream]]:
    """The runs that a phase 7 run rests on by phase id: those of its own role, and those of the other."""
    found: dict[str, Upstream] = {}
    _follow(job.store, run.record["dependencies"], found)
    role = job.settings.run.model_role
    ordered = sorted(found.values(), key=lambda upstream: upstream.record["phase_id"])
    own = _by_phase([upstream for upstream in ordered if upstream.record["model"]["role"] == role])
    other = _by_phase([upstream for upstream in ordered if upstream.record["model"]["role"] != role])
    return own, other


def _by_phase(runs: Sequence[Upstream]) -> dict[str, Upstream]:
    """Phase id to run. MissingArtifact where two runs of one phase lie behind the paper: which one is meant would be open."""
    found: dict[str, Upstream] = {}
    for upstream in runs:
        other = found.setdefault(upstream.phase_id, upstream)
        if other is not upstream:
            raise MissingArtifact(
                f"{other.run_id} and {upstream.run_id} both lie behind this paper as {upstream.phase_id}; "
                "choose runs that share one with --dep RUN_ID"
            )
    return found


def _follow(store: RunStore, dependencies: list[dict[str, str]], found: dict[str, Upstream]) -> None:
    for dependency in dependencies:
        if dependency["run_id"] not in found:
            upstream = found[dependency["run_id"]] = store.get(dependency["run_id"])
            _follow(store, upstream.record["dependencies"], found)


def _tables(runs: Mapping[str, Upstream]) -> dict[str, Sheet]:
    return {
        table_id: Sheet(Origin.of(run, name), schema.key, read_frame(run.artifact(name)))
        for run in runs.values()
        for table_id, schema in SCHEMAS.items()
        if (name := f"{table_id}_parquet") in run.record["artifacts"]
    }


def _others(runs: Mapping[str, Upstream]) -> dict[str, Sheet]:
    def frame(phase_id: str, artifact: str) -> pd.DataFrame:
        return read_frame(runs[phase_id].artifact(artifact))

    def origin(phase_id: str, artifact: str) -> Origin:
        return Origin.of(runs[phase_id], artifact)

    grid, select, rasters = "PHASE2_GAIN_GRID", "PHASE2_SELECT_GSTAR", "PHASE3_EXTRACT_RASTERS"
    analysis = "PHASE5_ANALYZE_AND_EXPORT"
    verdicts = pd.DataFrame(read_rows(runs[analysis].artifact("signatures"), "verdicts"))
    return {
        SELECTIONS: Sheet(origin(select, "gstar"), CELL, gstar_frame(runs[select])),
        VERDICTS: Sheet(origin(analysis, "signatures"), CELL, verdicts),
        GRID: Sheet(origin(grid, "metrics"), (*CELL, "g"), frame(grid, "metrics")),
        HELD_OUT: Sheet(origin(rasters, "metrics"), (*CELL, "g_condition"), frame(rasters, "metrics")),
    }
