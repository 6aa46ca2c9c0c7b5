"""One request to run a phase: config, settings, run store. Light to import: planning needs nothing more."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from avalanche_llm.canon import load_canon
from avalanche_llm.config import Overrides, ResolvedConfig, merge, resolve_config
from avalanche_llm.cost import require_within_budget
from avalanche_llm.errors import DeterminismError, MissingArtifact
from avalanche_llm.io.artifacts import CONFIG_NAME, Run
from avalanche_llm.io.files import read_rows
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.plain_yaml import read_yaml
from avalanche_llm.release.chain import require_intact
from avalanche_llm.resources import written_out
from avalanche_llm.run_id import RunIdMode
from avalanche_llm.settings import Settings, parse_settings
from avalanche_llm.stages import stages


@dataclass(frozen=True)
class JobRequest:
    """What a caller asks for: a config file (None: the canonical one), overrides, and how to treat runs."""

    config: Path | None = None
    overrides: Overrides = field(default_factory=Overrides)
    runs_dir: Path | None = None
    run_id_mode: RunIdMode = "content_hash"
    allow_resume: bool = False
    pinned: tuple[str, ...] = ()

    def job(self) -> "Job":
        """The config read, resolved and validated (ConfigError otherwise)."""
        config = resolve_config(self.config, load_canon(), self.overrides)
        settings = parse_settings(config.values)
        store = RunStore(written_out(self.runs_dir or settings.paths.runs_dir))
        return Job(config, settings, store, self.run_id_mode, self.allow_resume, self.pinned)


@dataclass(frozen=True)
class Job:
    """A resolved request. The same config gives the same artifacts, whoever runs it."""

    config: ResolvedConfig
    settings: Settings
    store: RunStore
    run_id_mode: RunIdMode = "content_hash"
    allow_resume: bool = False
    pinned: tuple[str, ...] = ()

    def upstream(self, phase_id: str) -> Upstream:
        """The complete run of an earlier phase that this job reads (exit 3 when there is none)."""
        return self.store.find(stages()[phase_id], self.config, pinned=self.pinned)

    def twin(self) -> "Job | None":
        """The same job for the other model role; None where the config names no model for it."""
        role = "BASE" if self.settings.run.model_role == "INSTRUCT" else "INSTRUCT"
        if getattr(self.settings.models, role) is None:
            return None
        config = ResolvedConfig.of(merge(dict(self.config.values), {"run": {"model_role": role}}))
        return replace(self, config=config, settings=parse_settings(config.values))

    def n_gstar(self) -> int | None:
        """How many distinct g* there are beside the baseline gain; None while they are not chosen."""
        try:
            chosen = read_rows(self.upstream("PHASE2_SELECT_GSTAR").artifact("gstar"), "selections", "gstar")
        except MissingArtifact:
            return None
        return len({row["gstar"] for row in chosen} - {self.settings.gains.baseline})

    def begin(self, phase_id: str, beside: Sequence[Upstream] = ()) -> Run:
        """Begin (or resume) the run of a phase; what it rests on is found unchanged before anything is created.

        `beside`: runs that it reads beyond those of its stage. Raises DeterminismError where an earlier attempt read other runs,
        since what that left was made from them.
        """
        stage = stages()[phase_id]
        needed = [self.upstream(phase) for phase in stage.needs]
        require_intact(self.store, [upstream.run_id for upstream in needed], allow_absent=True)
        if stage.runs_model:
            from avalanche_llm.model.loader import check_device  # torch comes in only where a model will run

            if self.settings.run.device != "cpu":
                require_within_budget(self.settings, stage, self.n_gstar())
            check_device(self.settings.run.device)
        run = self.store.begin(stage, self.config, mode=self.run_id_mode, allow_resume=self.allow_resume)
        try:
            run.log("start", phase_id=phase_id, resumed=run.resumed)
            run.log("config_resolved", config_sha256=self.config.sha256)
            read = {upstream.run_id: upstream.dependency() for upstream in (*needed, *beside)}
            _same_runs(run, list(read.values()))
            run.describe(dependencies=list(read.values()))
        except BaseException as error:
            run.interrupted(error)
            raise
        return run


def _same_runs(run: Run, dependencies: list[dict[str, str]]) -> None:
    earlier = run.record["dependencies"]
    if earlier and earlier != dependencies:
        in_both = [entry for entry in earlier if entry in dependencies]
        other = sorted({entry["run_id"] for entry in (*earlier, *dependencies) if entry not in in_both})
        raise DeterminismError(
            f"{run.run_id} was begun over other runs than it would read now, or over what they were then ({', '.join(other)}); "
            "name those with --dep, or remove the folder and run the phase again"
        )


def settings_of(run: Upstream) -> Settings:
    """The settings that a complete run was made with, from its own resolved config."""
    return parse_settings(read_yaml(run.folder / CONFIG_NAME))
