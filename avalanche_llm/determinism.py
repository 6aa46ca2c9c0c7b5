"""Seeds and flags that make the same inputs give the same bytes, and the record of what could not be had."""

import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from avalanche_llm.errors import DeterminismError
from avalanche_llm.settings import Determinism


@contextmanager
def deterministic(settings: Determinism) -> Iterator[dict[str, Any]]:
    """Seed python, numpy and torch, turn deterministic kernels on, and yield the record section of what was set.

    The kernels without a deterministic version that were met are under `unavailable` after the block; with `strict` the first
    one ends the run with DeterminismError. Previous torch flags come back on exit.
    """
    os.environ.setdefault("PYTHONHASHSEED", str(settings.seed))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", settings.cublas_workspace_config)
    random.seed(settings.seed)
    np.random.seed(settings.seed)  # noqa: NPY002  # the contract asks for it; our own draws use Generators
    torch.manual_seed(settings.seed)
    before = torch.get_deterministic_debug_mode()
    kernels: Any = torch.utils.deterministic  # its one attribute is not in the stubs
    filled = kernels.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error" if settings.strict else "warn")
    kernels.fill_uninitialized_memory = False  # costs a write per buffer and guards against nothing here
    record: dict[str, Any] = {"flags": _flags(), "unavailable": []}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", message=".*does not have a deterministic implementation.*")
            yield record
    except RuntimeError as error:
        if settings.strict and "deterministic" in str(error):
            raise DeterminismError(f"determinism.strict is on and {str(error).splitlines()[0]}") from error
        raise
    finally:
        torch.set_deterministic_debug_mode(before)
        kernels.fill_uninitialized_memory = filled
    record["unavailable"] = sorted({str(item.message).splitlines()[0] for item in caught if "deterministic" in str(item.message)})
    for item in caught:
        if "deterministic" not in str(item.message):
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)


def _flags() -> dict[str, Any]:
    return {
        "torch_deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch_num_threads": torch.get_num_threads(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cublas_workspace_config": os.environ["CUBLAS_WORKSPACE_CONFIG"],
        "pythonhashseed": os.environ["PYTHONHASHSEED"],
        "hash_randomization_in_process": bool(sys.flags.hash_randomization),
    }
