"""Bare forward passes in a process of their own: its memory is not that of what is measured beside it."""

from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

import torch

from avalanche_llm.determinism import deterministic
from avalanche_llm.phases.context import CALIBRATION_SLICE, _loaded, slices_of_a
from avalanche_llm.phases.job import JobRequest


class BarePasses:
    """A process that holds the model and the calibration slice of a config, and times a pass when it is asked for one."""

    def __init__(self, config: Path) -> None:
        spawned = get_context("spawn")
        self._asked, theirs = spawned.Pipe()
        self._process = spawned.Process(target=_serve, args=(config, theirs), daemon=True)

    def __enter__(self) -> "BarePasses":
        self._process.start()
        self.seconds(with_head=False)  # until it has loaded all it needs, it takes the cores
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._asked.close()
        self._process.join()

    def seconds(self, with_head: bool) -> float:
        """A pass of the decoder over the slice, or of the whole causal model."""
        self._asked.send(with_head)
        return float(self._asked.recv())


def bare_pass_s(module: Any, windows: Any, batch_windows: int) -> float:
    """Seconds of a plain pass over windows [window, token], no hooks: the limit of whatever needs that pass."""
    began = perf_counter()
    with torch.inference_mode():
        for first in range(0, len(windows), batch_windows):
            module(input_ids=windows[first : first + batch_windows], use_cache=False)
    return perf_counter() - began


def _serve(config: Path, asked: Connection) -> None:
    job = JobRequest(config).job()
    where, settings = job.settings.run, job.settings
    model = _loaded(settings.model, where.model_role, where.device, where.dtype)
    windows = torch.from_numpy(slices_of_a(job, model)[CALIBRATION_SLICE].windows)
    with deterministic(settings.determinism), suppress(EOFError):  # the flags are those of phases; the end is when nobody asks
        while True:
            module = model.causal if asked.recv() else model.decoder
            asked.send(bare_pass_s(module, windows, settings.pipeline.batch_windows))
