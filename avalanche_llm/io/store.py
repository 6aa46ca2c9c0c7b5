"""The run store: creates run directories atomically and finds complete upstream runs by content, never by "latest"."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from avalanche_llm.config import ResolvedConfig
from avalanche_llm.errors import DeterminismError, EnvironmentProblem, MissingArtifact, RunExists, SchemaError
from avalanche_llm.io.artifacts import CONFIG_NAME, RECORD_NAME, SUBFOLDERS, Run, read_record, verified_artifact
from avalanche_llm.io.files import json_bytes, raw, sync_folder, write_atomically
from avalanche_llm.io.hashing import code_version, sha256_file
from avalanche_llm.io.new_record import new_record
from avalanche_llm.io.schema_validate import validate_run_record
from avalanche_llm.run_id import RUN_ID, RunIdMode, candidate_run_ids, check_run_id
from avalanche_llm.stages import Stage, stages
from avalanche_llm.suggest import nearest

STAGING_PREFIX: Final = ".new-"
SAME_BUT_A_SLIP: Final = 0.8
"""How like a run id must be to one that is here to be named in its place; two ids by chance are less so."""


@dataclass(frozen=True)
class Upstream:
    """A complete run that a later phase reads."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def phase_id(self) -> str:
        return str(self.record["phase_id"])

    def artifact(self, name: str) -> Path:
        """Path of an artifact, its hash checked at this moment (MissingArtifact otherwise)."""
        return verified_artifact(self.folder, self.record, name)

    def dependency(self) -> dict[str, str]:
        """How this run is named in the record of a run that reads it."""
        return {
            "run_id": self.run_id,
            "phase_id": self.phase_id,
            "config_sha256": self.record["hashes"]["config_sha256"],
            "record_sha256": sha256_file(self.folder / RECORD_NAME),
        }


@dataclass(frozen=True)
class RunStore:
    """All runs below one folder."""

    root: Path

    def begin(self, stage: Stage, config: ResolvedConfig, *, mode: RunIdMode = "content_hash", allow_resume: bool = False) -> Run:
        """A new run directory for `stage`, or with `allow_resume` an incomplete one to continue; its lock is held.

        Raises RunExists if the id is taken by a complete run, or by any run without `allow_resume`;
        EnvironmentProblem if the folder cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for run_id in candidate_run_ids(mode, stage.tag, config.canonical):
                folder = self.root / run_id
                if self._create(folder, stage, config):
                    run = Run(folder, stage, read_record(folder))
                    break
                if mode == "content_hash":
                    run = self.resumable(folder, stage, allow_resume)
                    break
            else:
                raise EnvironmentProblem(f"no free run id for {stage.tag} in this second; try again")
        except OSError as error:
            raise EnvironmentProblem(
                f"the runs folder {self.root} cannot be written: {error.strerror or error}; free space or rights are needed"
            ) from error
        run.acquire()
        run.record = read_record(folder)
        if run.record["stage_status"] == "complete":
            run.release()
            raise RunExists(f"{folder} was completed by another process")
        return run

    def _create(self, folder: Path, stage: Stage, config: ResolvedConfig) -> bool:
        """Stage the directory under a temporary name and rename it: it exists whole, with a record, or not at all."""
        if folder.exists() or folder.is_symlink():
            return False
        staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self.root))
        try:
            staging.chmod(0o755)
            for name in SUBFOLDERS:
                (staging / name).mkdir()
            record = new_record(folder.name, stage, config)
            validate_run_record(record)
            write_atomically(staging / CONFIG_NAME, raw(config.canonical))
            write_atomically(staging / RECORD_NAME, raw(json_bytes(record)))
            try:
                staging.rename(folder)
            except OSError:
                if folder.exists():
                    return False
                raise
            sync_folder(self.root)  # after a power cut too the folder is there with its record, or not at all
            return True
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def resumable(self, folder: Path, stage: Stage, allow_resume: bool) -> Run:
        """The run at `folder` to go on with, without its lock. Raises what a phase that finds it there is refused with."""
        if folder.is_symlink():
            raise RunExists(f"{folder} is a link, and no run is written through one; remove it, or put the folder there")
        record = read_record(folder)
        if record["stage_status"] == "complete":
            raise RunExists(f"{folder} is complete and stays as it is; change the config or use --run_id_mode timestamp_counter")
        if not allow_resume:
            raise RunExists(f"{folder} exists and is incomplete; continue it with --allow_resume")
        if record["hashes"]["code_version"] != code_version():
            raise DeterminismError(
                f"{folder} was begun by code {record['hashes']['code_version']}, this is {code_version()}; "
                "its parts cannot be mixed: remove the folder, or resume with the code that began it"
            )
        return Run(folder, stage, record)

    def state(self, run_id: str) -> str:
        """What is there under a run id: new, incomplete, complete, or damaged."""
        folder = self.root / run_id
        if not folder.exists():
            return "new"
        try:
            return "complete" if read_record(folder)["stage_status"] == "complete" else "incomplete"
        except SchemaError:
            return "damaged"

    def open_run(self, run_id: str) -> Run:
        """An incomplete run that another step of the same job began, without taking its lock."""
        folder = self.root / check_run_id(run_id)
        record = read_record(folder)
        return Run(folder, stages()[record["phase_id"]], record)

    def get(self, run_id: str) -> Upstream:
        """A complete run by its id. Raises MissingArtifact if it is not there, not complete, or no honest record."""
        folder = self.root / check_run_id(run_id)
        if folder.is_symlink():
            raise MissingArtifact(f"{folder} is a link; a run is a folder of its own: put it there, or name its runs folder")
        if not folder.is_dir():
            raise self.absent(run_id)
        try:
            record = read_record(folder)
        except SchemaError as error:
            raise MissingArtifact(str(error)) from error
        if record["stage_status"] != "complete":
            raise MissingArtifact(f"{run_id} is incomplete; finish it with --allow_resume")
        config = folder / CONFIG_NAME
        if not config.is_file() or sha256_file(config) != record["hashes"]["config_sha256"]:
            raise MissingArtifact(f"{config} is missing or is not the config on record; rebuild {run_id}")
        return Upstream(folder, record)

    def absent(self, run_id: str) -> MissingArtifact:
        """The error for a run that is not here, with the run whose id is nearest."""
        here = [folder.name for folder in self.root.glob("RUN_*")]
        return MissingArtifact(f"no run {run_id} under {self.root}{nearest(run_id, here, cutoff=SAME_BUT_A_SLIP)}")

    def complete_runs(self, tag: str) -> list[Upstream]:
        """Every complete run of a stage tag, by name; a directory that is no honest run is passed over."""
        return [run for run in self._each(tag) if isinstance(run, Upstream)]

    def _each(self, tag: str) -> Iterator[Upstream | MissingArtifact]:
        """Every run directory of a stage tag, by name: the run, or why it is none."""
        for folder in sorted(self.root.glob(f"RUN_{tag}_*")):
            if RUN_ID.fullmatch(folder.name):
                try:
                    yield self.get(folder.name)
                except MissingArtifact as error:
                    yield error

    def find(self, stage: Stage, config: ResolvedConfig, *, pinned: Iterable[str] = ()) -> Upstream:
        """The complete run of `stage` for this config: a pinned one, else by whole config, else by the stage's scope.

        Raises MissingArtifact when there is none, and when more than one fits equally well (both are named).
        """
        scope = config.scope_sha256(stage.scope)
        role, misfit = config.values["run"]["model_role"], None
        for run_id in pinned:
            candidate = self.get(run_id)
            if candidate.phase_id != stage.phase_id:
                continue
            if candidate.record["hashes"]["scope_sha256"] == scope:
                return candidate
            misfit = MissingArtifact(f"--dep {run_id} was made with another config for {stage.command}")
            if candidate.record["model"]["role"] == role:
                raise misfit
        runs = [run for run in self.complete_runs(stage.tag) if run.record["hashes"]["scope_sha256"] == scope]
        exact = [run for run in runs if run.record["hashes"]["config_sha256"] == config.sha256]
        fitting = exact or runs
        if not fitting and misfit:  # a run of the other role may be named beside this role's, but not in its place
            raise misfit
        if not fitting:
            passed_over = [problem for run in self._each(stage.tag) if (problem := _unfit(run, config))]
            raise MissingArtifact(
                f"no complete {stage.command} run for this config under {self.root}; run {stage.command} first"
                + (f" (passed over: {passed_over[0]})" if passed_over else "")
                + (f" (and {len(passed_over) - 1} more)" if len(passed_over) > 1 else "")
            )
        if len(fitting) > 1:
            names = " and ".join(run.run_id for run in fitting)
            raise MissingArtifact(f"{names} all fit as upstream {stage.command}; choose one with --dep RUN_ID")
        return fitting[0]


def _unfit(run: Upstream | MissingArtifact, config: ResolvedConfig) -> str:
    """Why a run directory that one might have expected to fit this config does not; empty where another config explains it."""
    if isinstance(run, MissingArtifact):
        return str(run)
    if run.record["hashes"]["config_sha256"] == config.sha256:
        return f"{run.folder / RECORD_NAME} has this config and another scope_sha256: it was changed, or made by other code"
    return ""


def writable(folder: Path) -> bool:
    """Whether a file could be made in `folder` or in the nearest parent of it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
