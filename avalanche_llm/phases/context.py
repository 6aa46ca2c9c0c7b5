"""What every phase is given: the config, the run store, and how to obtain the model, the data and the upstream runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from avalanche_llm.config import ResolvedConfig
from avalanche_llm.datasets import SliceRequest, TokenSlice, token_slices
from avalanche_llm.determinism import deterministic
from avalanche_llm.errors import DeterminismError
from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.model.loader import LoadedModel, load_model
from avalanche_llm.run_id import RunIdMode
from avalanche_llm.settings import ModelChoice, Settings, parse_settings
from avalanche_llm.stages import stages

CALIBRATION_SLICE: Final = "A_CALIBRATION"
RASTER_SLICE: Final = "A_RASTERS"


@dataclass(frozen=True)
class Job:
    """One request to run a phase. The same job gives the same artifacts, whoever runs it."""

    config: ResolvedConfig
    settings: Settings
    store: RunStore
    run_id_mode: RunIdMode = "content_hash"
    allow_resume: bool = False
    pinned: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: ResolvedConfig, runs_dir: Path | None = None, **options: Any) -> "Job":
        """A job for a resolved config; the runs folder is the config's unless another is named."""
        settings = parse_settings(config.values)
        return cls(config, settings, RunStore(runs_dir or Path(settings.paths.runs_dir)), **options)

    def upstream(self, phase_id: str) -> Upstream:
        """The complete run of an earlier phase that this job reads (exit 3 when there is none)."""
        return self.store.find(stages()[phase_id], self.config, pinned=self.pinned)

    def begin(self, phase_id: str) -> Run:
        """Begin (or resume) the run of a phase, upstream first: what it needs is found before anything is created."""
        stage = stages()[phase_id]
        needed = [self.upstream(phase) for phase in stage.needs]
        run = self.store.begin(stage, self.config, mode=self.run_id_mode, allow_resume=self.allow_resume)
        run.log("start", phase_id=phase_id, resumed=bool(run.record["artifact_index"]))
        run.log("config_resolved", config_sha256=self.config.sha256)
        run.describe(dependencies=[upstream.dependency() for upstream in needed])
        return run

    @contextmanager
    def guard(self, run: Run) -> Iterator[Run]:
        """Deterministic flags on and recorded; on an error, a line in the log and the lock given back."""
        try:
            with deterministic(self.settings.determinism) as record:
                yield run
            if run.record["stage_status"] == "started":
                run.describe(determinism=record)
        except BaseException as error:
            if run.folder.exists() and run.record["stage_status"] == "started":
                run.log("end", status="interrupted", error=f"{type(error).__name__}: {error}")
            run.release()
            raise

    def model(self, run: Run, *upstream: Upstream) -> LoadedModel:
        """The model of this job, loaded once a process. Raises DeterminismError if it is not the one upstream saw."""
        where = self.settings.run
        model = _loaded(self.settings.model, where.model_role, where.device, where.dtype)
        for earlier in upstream:
            _same(earlier, "model", earlier.record["model"], model.identity, ("id", "revision", "content_sha256", "n_layers", "d_ff"))
        run.describe(model=model.identity)
        run.log("model_loaded", **model.identity)
        return model

    def slices_of_a(self, run: Run, model: LoadedModel, *upstream: Upstream) -> dict[str, TokenSlice]:
        """The calibration and the raster slice of data set A, disjoint; checked against what upstream used."""
        data, settings = self.settings.datasets.A, self.settings
        wanted = [
            SliceRequest(CALIBRATION_SLICE, data.n_windows_calibration),
            SliceRequest(RASTER_SLICE, data.n_windows_rasters),
        ]
        found = token_slices(
            data,
            wanted,
            model.tokenizer,
            seq_len=settings.pipeline.seq_len_tokens,
            seed=settings.determinism.seed,
            pool_cap=settings.statistics.bootstrap_reps,
        )
        slices = {token_slice.role: token_slice for token_slice in found}
        for earlier in upstream:
            for role, entry in earlier.record["dataset"].items():
                if role in slices:
                    _same(earlier, f"slice {role}", entry, {"sha256": slices[role].sha256}, ("sha256",))
        return slices

    def use(self, run: Run, token_slice: TokenSlice) -> TokenSlice:
        """Put a slice on record as used by this run."""
        entry = token_slice.describe(self.settings.datasets.A)
        run.describe(dataset={token_slice.role: entry})
        run.describe(hashes={"dataset_slice_sha256": run.record["hashes"]["dataset_slice_sha256"] | {token_slice.role: entry["sha256"]}})
        run.log("dataset_loaded", **entry)
        return token_slice


@lru_cache(maxsize=1)
def _loaded(choice: ModelChoice, role: str, device: str, dtype: str) -> LoadedModel:
    return load_model(choice, role=role, device=device, dtype=dtype)


def _same(earlier: Upstream, what: str, theirs: Any, ours: Any, keys: tuple[str, ...]) -> None:
    for key in keys:
        if theirs.get(key) != ours.get(key):
            raise DeterminismError(
                f"{what} is not the one that {earlier.run_id} measured ({key}: {ours.get(key)}, expected {theirs.get(key)}); "
                "restore it, or run the earlier phases again with a config of their own"
            )
