"""What the phases that run the model share: the deterministic frame of a step, the model, and the slices of both data sets."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from time import monotonic
from typing import Any, Final

from avalanche_llm.datasets import SliceRequest, TokenSlice, token_slices
from avalanche_llm.determinism import deterministic
from avalanche_llm.errors import DeterminismError
from avalanche_llm.garbage import give_back, looked_for_seldom
from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.store import Upstream
from avalanche_llm.model.loader import LoadedModel, load_model
from avalanche_llm.phases.job import Job
from avalanche_llm.settings_sources import ModelChoice

CALIBRATION_SLICE: Final = "A_CALIBRATION"
RASTER_SLICE: Final = "A_RASTERS"
EVAL_SLICE: Final = "B_EVAL"


@contextmanager
def guard(job: Job, run: Run) -> Iterator[Run]:
    """Deterministic flags on and recorded, the time taken; on an error, a line in the log and the lock given back."""
    began = monotonic()
    give_back()  # what an earlier phase of this process left
    try:
        with looked_for_seldom(), deterministic(job.settings.determinism) as record:
            yield run
        run.time("active_s", monotonic() - began)
        earlier = run.record["determinism"]["unavailable"]  # what another step of the run met stays on record
        run.describe(determinism=record | {"unavailable": sorted({*earlier, *record["unavailable"]})})
    except BaseException as error:
        run.interrupted(error)
        raise


def open_model(job: Job, run: Run, *upstream: Upstream) -> LoadedModel:
    """The model of this job, loaded once a process.

    Raises DeterminismError if it is not the one that upstream saw, or an earlier attempt of this run.
    """
    where = job.settings.run
    model = _loaded(job.settings.model, where.model_role, where.device, where.dtype)
    measured: list[Upstream | Run] = [*upstream]
    if "n_layers" in run.record["model"]:  # by an earlier attempt or step
        measured.append(run)
    for earlier in measured:
        _same(earlier, "model", earlier.record["model"], model.identity, ("id", "revision", "content_sha256", "n_layers", "d_ff"))
    run.describe(model=model.identity)
    run.log("model_loaded", **model.identity)
    return model


def slices_of_a(job: Job, model: LoadedModel, *upstream: Upstream) -> dict[str, TokenSlice]:
    """The calibration and the raster slice of data set A, disjoint; checked against what upstream used."""
    data, settings = job.settings.datasets.A, job.settings
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
    for token_slice in found:
        model.check_token_ids(token_slice.windows)
    slices = {token_slice.role: token_slice for token_slice in found}
    for earlier in upstream:
        for role, entry in earlier.record["dataset"].items():
            if role in slices:
                _same(earlier, f"slice {role}", entry, {"sha256": slices[role].sha256}, ("sha256",))
    return slices


def slice_of_b(job: Job, model: LoadedModel) -> TokenSlice:
    """The windows of data set B."""
    settings = job.settings
    (found,) = token_slices(
        settings.datasets.B,
        [SliceRequest(EVAL_SLICE, settings.datasets.B.n_windows_eval)],
        model.tokenizer,
        seq_len=settings.pipeline.seq_len_tokens,
        seed=settings.determinism.seed,
        pool_cap=settings.statistics.bootstrap_reps,
    )
    model.check_token_ids(found.windows)
    return found


def use_slice(job: Job, run: Run, token_slice: TokenSlice) -> TokenSlice:
    """Put a slice on record as used by this run. Raises DeterminismError if an earlier attempt of the run used another."""
    datasets = job.settings.datasets
    entry = token_slice.describe(datasets.B if token_slice.role == EVAL_SLICE else datasets.A)
    if token_slice.role in run.record["dataset"]:
        _same(run, f"slice {token_slice.role}", run.record["dataset"][token_slice.role], entry, ("sha256",))
    run.describe(dataset={token_slice.role: entry})
    run.describe(
        hashes={"dataset_slice_sha256": run.record["hashes"]["dataset_slice_sha256"] | {token_slice.role: entry["sha256"]}}
    )
    run.log("dataset_loaded", **entry)
    return token_slice


@lru_cache(maxsize=1)
def _loaded(choice: ModelChoice, role: str, device: str, dtype: str) -> LoadedModel:
    return load_model(choice, role=role, device=device, dtype=dtype)


def _same(earlier: Upstream | Run, what: str, theirs: Any, ours: Any, keys: tuple[str, ...]) -> None:
    for key in keys:
        if theirs.get(key) != ours.get(key):
            raise DeterminismError(
                f"{what} is not the one that {earlier.run_id} measured ({key}: {ours.get(key)}, expected {theirs.get(key)}); "
                "restore it, or run the earlier phases again with a config of their own"
            )
