"""What every benchmark measures with: wall and CPU seconds, peak memory, bytes written, tokens, time in named functions."""

import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from operator import attrgetter
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import psutil


@dataclass
class Cost:
    """One measured step. parts_s: seconds in named functions; tokens: sent through the model."""

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
def measured(folder: Path | None = None) -> Iterator[Cost]:
    """Measure what happens inside. `folder`: where bytes are counted."""
    cost = Cost()
    reset_peak()
    before, began, cpu = _bytes(folder), perf_counter(), cpu_s()
    try:
        yield cost
    finally:
        cost.wall_s += perf_counter() - began
        cost.cpu_s += cpu_s() - cpu
        cost.peak_gib = peak_gib()
        cost.written_bytes = _bytes(folder) - before


@contextmanager
def left_out(cost: Cost) -> Iterator[None]:
    """What another process does inside does not count: its seconds are taken off."""
    began = perf_counter()
    try:
        yield
    finally:
        cost.wall_s -= perf_counter() - began


@contextmanager
def timed(cost: Cost, functions: Sequence[str]) -> Iterator[None]:
    """Add to `cost` the seconds in functions named `module:name`, under the names that every module knows them by.

    A profiler would time each call of each function, and so double what consists of many small ones.
    """
    with _replaced(functions, lambda name, original: _clocked(cost, name, original)):
        yield


@contextmanager
def preceded(functions: Sequence[str], before: Callable[[], None]) -> Iterator[None]:
    """Call `before` ahead of every call of functions named `module:name`."""

    def after(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def inside(*arguments: Any, **keywords: Any) -> Any:
            before()
            return original(*arguments, **keywords)

        return inside

    with _replaced(functions, after):
        yield


@contextmanager
def _replaced(functions: Sequence[str], make: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Put make(name, function) wherever a function is known."""
    with ExitStack() as patched:
        for named in functions:
            module, name = named.split(":")
            original = attrgetter(name)(sys.modules[module])
            owner, _, attribute = name.rpartition(".")
            places = [attrgetter(owner)(sys.modules[module])] if owner else _holders(original, attribute)
            made = make(name, original)
            for place in places:
                patched.enter_context(patch.object(place, attribute, made))
        yield


def _holders(function: Any, name: str) -> list[Any]:
    ours = [module for key, module in sys.modules.items() if key.startswith(("avalanche_llm", "bench"))]
    return [module for module in ours if vars(module).get(name) is function]


def _clocked(cost: Cost, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def inside(*arguments: Any, **keywords: Any) -> Any:
        began = perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            cost.parts_s[name] = cost.parts_s.get(name, 0.0) + perf_counter() - began

    return inside


@contextmanager
def counted_tokens(model: Any, cost: Cost) -> Iterator[None]:
    """Count the tokens of every decoder call inside, where its first layer sees them."""

    def count(module: Any, arguments: Any) -> None:
        cost.tokens += arguments[0].shape[:-1].numel()

    handle = model.layers[0].register_forward_pre_hook(count)
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


def cpu_s() -> float:
    """Seconds of every thread of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _bytes(folder: Path | None) -> int:
    return 0 if folder is None else sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
