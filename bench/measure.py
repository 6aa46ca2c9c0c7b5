"""What every benchmark measures with: wall and CPU seconds, peak memory, bytes written, tokens, time in named functions."""

import cProfile
import os
import platform
import pstats
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil


@dataclass
class Cost:
    """One measured step. parts_s: cumulative seconds in named functions; tokens: sent through the model."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_gib: float = 0.0
    tokens: int = 0
    written_bytes: int = 0
    parts_s: dict[str, float] = field(default_factory=dict)

    def rounded(self) -> dict[str, Any]:
        """Plain values for JSON, to a precision that the clock has."""
        values = asdict(self) | {name: round(getattr(self, name), 3) for name in ("wall_s", "cpu_s", "peak_gib")}
        return values | {"parts_s": {name: round(seconds, 3) for name, seconds in self.parts_s.items()}}


@contextmanager
def measured(folder: Path | None = None, profile: Sequence[str] = ()) -> Iterator[Cost]:
    """Measure what happens inside. `folder`: where bytes are counted. `profile`: names of functions to time (costs a little)."""
    cost, profiler = Cost(), cProfile.Profile()
    reset_peak()
    before, began, cpu = _bytes(folder), perf_counter(), _cpu()
    if profile:
        profiler.enable()
    try:
        yield cost
    finally:
        profiler.disable()
        cost.wall_s, cost.cpu_s = perf_counter() - began, _cpu() - cpu
        cost.peak_gib = peak_gib()
        cost.written_bytes = _bytes(folder) - before
        if profile:
            seconds = {key[2]: value[3] for key, value in pstats.Stats(profiler).stats.items()}  # type: ignore[attr-defined]  # not in the stub
            cost.parts_s = {name: seconds.get(name, 0.0) for name in profile}


@contextmanager
def counted_tokens(model: Any, cost: Cost) -> Iterator[None]:
    """Count the tokens of every decoder call inside."""

    def count(module: Any, arguments: Any, keywords: Any) -> None:
        cost.tokens += keywords["input_ids"].numel()

    handle = model.decoder.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def reset_peak() -> None:
    """Let the process's peak memory start from what it holds now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_gib() -> float:
    """Peak resident memory since `reset_peak`."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20


def machine() -> dict[str, Any]:
    """The machine in the words that a reader needs to compare."""
    import torch

    return {
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _bytes(folder: Path | None) -> int:
    return 0 if folder is None else sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
