"""The place of a campaign: a tiny model, its config, the reference run of every phase wanted or before one, and fresh folders.

Phases 1 to 8 and the report; a trial gets a copy of the reference's runs up to the phase that it disturbs.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import tiny

from avalanche_llm.errors import AvalancheError
from avalanche_llm.io.artifacts import RECORD_NAME, read_record
from avalanche_llm.phases.job import Job
from avalanche_llm.stages import Stage, stages
from faults.children import Operation, operations_of

SMALL = {"gains__grid": [0.8, 1.0, 1.3], "events__target_rates": [8e-3], "statistics__null_draws": 3}
"""Fewer conditions than the tests measure: the files are the same, and there are as many of them."""


@dataclass(frozen=True)
class Undisturbed:
    """A phase that nobody disturbed: its artifacts, how long it took, and what it did to files."""

    hashes: dict[str, str]
    seconds: float
    operations: list[Operation]

    @property
    def completing(self) -> int:
        """How many operations there are until the record says complete; after it modes are set and the cache goes."""
        records = [
            place for place, (event, path) in enumerate(self.operations) if event == "os.rename" and path.endswith(RECORD_NAME)
        ]
        return records[-1] + 1


class Laboratory:
    """Everything warm in this process, the reference on disk. Make one, then fork."""

    def __init__(self, base: Path, wanted: Sequence[Stage]) -> None:
        self.base, self.reference = base, base / "reference"
        base.mkdir(parents=True, exist_ok=True)
        os.environ["DAGSTER_HOME"] = str(base / "home")
        self.config = tiny.write_config(base / "tiny.yaml", tiny.save_model(tiny.llama(), base / "model"), **SMALL)
        self.functions = _warm()
        tiny.model_of(self.job(self.reference))
        every = list(stages().values())
        upto = max(every.index(stage) for stage in wanted) + 1  # of what comes after the last one that is wanted nobody asks
        self.undisturbed = {stage.phase_id: self._undisturbed(stage) for stage in every[:upto]}

    def job(self, runs: Path, *, allow_resume: bool = False) -> Job:
        """The tiny request on a runs folder."""
        return tiny.job_of(self.config, runs, allow_resume=allow_resume)

    def phase(self, stage: Stage, runs: Path, *, allow_resume: bool = False) -> Callable[[], int]:
        """The phase as a child runs it by its function; an error of ours is its exit code."""

        def action() -> int:
            try:
                self.functions[stage.phase_id](self.job(runs, allow_resume=allow_resume))
            except AvalancheError as error:
                print(f"error: {error}")
                return error.exit_code
            return 0

        return action

    def command(self, stage: Stage, runs: Path, *more: str) -> Callable[[], int]:
        """The phase as a child runs it by the command line, through Dagster."""
        from avalanche_llm.cli import main

        return lambda: main([stage.command, "--config", str(self.config), "--runs_dir", str(runs), *more])

    def before(self, stage: Stage, name: str) -> Path:
        """A fresh runs folder with the reference's runs of every phase before this one."""
        runs = self.base / "trials" / name
        runs.mkdir(parents=True)
        for earlier in stages().values():
            if earlier.phase_id == stage.phase_id:
                break
            source = tiny.run_of(self.reference, earlier.tag)
            shutil.copytree(source, runs / source.name)
        return runs

    def folder(self, stage: Stage, runs: Path) -> Path:
        """Where the run of this phase lies in a runs folder."""
        return runs / tiny.run_of(self.reference, stage.tag).name

    def artifacts(self, stage: Stage) -> list[str]:
        """Relative paths of the artifacts of the reference run, in the order in which they were written."""
        return [entry["relative_path"] for entry in read_record(self.folder(stage, self.reference))["artifact_index"]]

    def _undisturbed(self, stage: Stage) -> Undisturbed:
        log = self.base / "reference.log"
        code, seconds, operations = operations_of(self.phase(stage, self.reference), log, self.reference)
        if code != 0:
            raise RuntimeError(f"{stage.command} failed undisturbed: {log.read_text(encoding='utf-8')}")
        return Undisturbed(recorded_files(tiny.run_of(self.reference, stage.tag)), seconds, operations)


def _warm() -> dict[str, Callable[[Job], str]]:
    """Import what any phase will import, without starting a thread; the functions of the phases by id."""
    import torch
    import tqdm

    from avalanche_dagster.assets.single_step import FUNCTIONS
    from avalanche_dagster.headless import materialize_phase  # noqa: F401  # imported for the children

    torch.set_num_threads(1)
    tqdm.tqdm.monitor_interval = 0  # its monitor is a thread
    places = {**FUNCTIONS, "PHASE2_GAIN_GRID": "gain_grid:gain_grid"}
    functions = {}
    for phase_id, place in places.items():
        module, name = place.split(":")
        functions[phase_id] = getattr(import_module(f"avalanche_llm.phases.{module}"), name)
    return functions


def recorded_files(folder: Path) -> dict[str, str]:
    """sha256 of everything in a run that must not depend on time: all but the record, the log, the cache and temporary files."""
    return {
        name: digest
        for name, digest in tiny.file_hashes(folder).items()
        if name != RECORD_NAME and name.split("/")[0] not in ("logs", "cache") and not Path(name).name.startswith(".part-")
    }


def tree(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every path with its mode, the time of its last change and its content."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        state = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (state.st_mode, state.st_mtime_ns, content)
    return found
