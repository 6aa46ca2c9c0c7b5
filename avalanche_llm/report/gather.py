"""What the report reads: the runs that a paper rests on, grouped by model, each artifact through its recorded hash (spec 24)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import pandas as pd

from avalanche_llm.canon import load_canon
from avalanche_llm.errors import MissingArtifact
from avalanche_llm.io.files import read_json
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.metrics.gstar import CRITERIA, Criterion
from avalanche_llm.phases.job import settings_of
from avalanche_llm.phases.upstream_files import frame
from avalanche_llm.release.chain import require_intact
from avalanche_llm.settings import GstarMethod, Settings

PAPER: Final = "PHASE7_PAPER_EXPORT"


@dataclass(frozen=True)
class Side:
    """One model: its complete runs by phase id."""

    role: str
    runs: Mapping[str, Upstream]

    def frame(self, phase_id: str, artifact: str) -> pd.DataFrame:
        """A parquet artifact of one phase."""
        return frame(self.runs[phase_id], artifact)

    def json(self, phase_id: str, artifact: str) -> Any:
        """A JSON artifact of one phase."""
        return read_json(self.runs[phase_id].artifact(artifact))

    @cached_property
    def selections(self) -> list[dict[str, Any]]:
        """The chosen gain of every definition and rate."""
        rows: list[dict[str, Any]] = self.json("PHASE2_SELECT_GSTAR", "gstar")["selections"]
        return rows

    @cached_property
    def method(self) -> GstarMethod:
        """The rule that chose g*."""
        method: GstarMethod = self.json("PHASE2_SELECT_GSTAR", "gstar")["method"]
        return method

    @cached_property
    def settings(self) -> Settings:
        """The settings of the grid, from its own resolved config."""
        return settings_of(self.runs["PHASE2_GAIN_GRID"])

    @property
    def criterion(self) -> Criterion:
        """What that rule looks at, in words."""
        return CRITERIA[self.method]

    @property
    def model_id(self) -> str:
        return str(self.runs["PHASE5_ANALYZE_AND_EXPORT"].record["model"]["id"])


@dataclass(frozen=True)
class Evidence:
    """The paper, every run below it (upstream first), and the same runs by model."""

    paper: Upstream
    runs: tuple[Upstream, ...]
    sides: tuple[Side, ...]

    @classmethod
    def of(cls, store: RunStore, paper: Upstream, wanted: Iterable[str] = ()) -> "Evidence":
        """The chain of a paper, hashed in full. Raises MissingArtifact if it is not intact, or if a wanted run is not in it."""
        chain = require_intact(store, [paper.run_id])
        for run_id in wanted:
            if run_id not in chain:
                raise MissingArtifact(
                    f"{run_id} is not among the {len(chain)} runs that {paper.run_id} rests on; name one of these, or make a "
                    f"paper from it with phase7_paper_export --dep {run_id}"
                )
        runs = tuple(store.get(run_id) for run_id in chain)
        return cls(paper, runs, _sides(runs, paper.record["model"]["role"]))

    @property
    def claims(self) -> dict[str, Any]:
        """claims.json of the paper."""
        return read_json(self.paper.artifact("claims"), "claims")

    def holding(self, artifact: str) -> list[Upstream]:
        """Every run of the chain with an artifact of this name, the paper's own model first."""
        ordered = [run for side in self.sides for run in side.runs.values()]
        return [run for run in (*ordered, self.paper) if artifact in run.record["artifacts"]]

    def table(self, table_id: str) -> pd.DataFrame | None:
        """The rows of a result table, those of both models one below the other; None where no run has it."""
        frames = [frame(run, f"{table_id}_parquet") for run in self.holding(f"{table_id}_parquet")]
        return pd.concat(frames, ignore_index=True) if frames else None


def figure_ids() -> Sequence[str]:
    """Every figure of the registry, in order."""
    ids: Sequence[str] = load_canon()["ID.FIG"]
    return ids


def _sides(runs: Iterable[Upstream], first: str) -> tuple[Side, ...]:
    """Runs by role, `first` before the other; a role without an analysis of its own has no side."""
    by_role: dict[str, dict[str, Upstream]] = {first: {}}
    for run in runs:
        if run.phase_id != PAPER:
            by_role.setdefault(run.record["model"]["role"], {})[run.phase_id] = run
    return tuple(Side(role, held) for role, held in by_role.items() if "PHASE5_ANALYZE_AND_EXPORT" in held)
