"""What a phase costs before it is run: forward passes, FLOPs, time and memory, and what of it is over budget (spec 11).

FLOPs of a forward pass over T tokens: 2 (weights of the layers) a token for the matrix products and 4 L h w T a token for the
attention scores and their mixture, h heads of width w (Kaplan et al. 2020, table 1); 2 V d T more where logits are computed.
Time divides by budgets.effective_tflops; collecting events, the statistics of phase 5 and figures add what they took per unit
of work on two cores (docs/performance.md compares estimates with what was measured).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from avalanche_llm.canon import load_canon
from avalanche_llm.datasets import load_rows
from avalanche_llm.errors import ConfigError
from avalanche_llm.model.shape import LOGITS_AT_ONCE, SOFTMAX_AT_ONCE, ModelShape, UnknownShape, model_shape
from avalanche_llm.resources import local
from avalanche_llm.settings import Settings
from avalanche_llm.settings_sources import ArcData
from avalanche_llm.stages import Stage
from avalanche_llm.throughput import cpu_tflops

BYTES: Final = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}
GIB: Final = 2**30
OF_QUESTIONS: Final = frozenset({"PHASE6_ARC_MCQ_EVAL"})
WITH_HEAD: Final = frozenset({"PHASE6_GENERALIZE_B_METRICS"})
"""Phases that compute logits of every position."""
COLLECTING: Final = 1.08
"""A pass whose events are collected, over the pass alone."""
PROCESS_GIB: Final = 0.6
"""Python, torch and the libraries, where they share the memory of the model."""
SITE_S: Final = 1.1e-6
"""Seconds that phase 5 takes for one site of one condition: components, bootstrap, nulls, tails."""
FIGURE_S: Final = 1.0
PADDED: Final = 1.3
"""Prompts and choices with their padding and short rows, over their tokens alone."""
CHARACTERS_A_TOKEN: Final = 4
QUESTION_TOKENS: Final = 128
"""Of a question that is not on this machine: its prompt with and without the choices, and every choice after both."""


@dataclass(frozen=True)
class Cost:
    """Passes are over single windows; a question is a window.

    flops, seconds and memory_gib are None where nothing runs, or where the sizes of the model are unknown: `unknown` says why.
    """

    n_passes: int
    n_windows: int
    flops: float | None = None
    seconds: float | None = None
    memory_gib: float | None = None
    unknown: str = ""


def cost_of(settings: Settings, stage: Stage, n_gstar: int | None) -> Cost:
    """The cost of one phase, seconds without its start. n_gstar: distinct g* beside the baseline gain; None before the choice."""
    passes, windows = passes_and_windows(settings, stage, n_gstar)
    shape = model_shape(settings.model) if windows else None
    if not isinstance(shape, ModelShape):
        return Cost(passes, windows, unknown=shape.reason if isinstance(shape, UnknownShape) else "")
    seq_len, width = settings.pipeline.seq_len_tokens, BYTES[settings.run.dtype]
    n_tokens = passes * _asked_tokens(settings.datasets.ARC_MCQ) if stage.phase_id in OF_QUESTIONS else windows * seq_len
    flops = shape.flops(n_tokens, seq_len)
    batch = settings.pipeline.batch_windows * seq_len * (shape.d_ff * 6 + shape.d_model * 8) * width
    if stage.phase_id in WITH_HEAD:
        flops += shape.head_flops(windows * seq_len)
    if stage.phase_id in WITH_HEAD | OF_QUESTIONS:
        batch += shape.vocab * (LOGITS_AT_ONCE * width + SOFTMAX_AT_ONCE * 2 * BYTES["fp64"])
    seconds = COLLECTING * flops / (_tflops(settings) * 1e12) + FIGURE_S * sum(name.endswith("_pdf") for name in stage.artifacts)
    if stage.phase_id == "PHASE5_ANALYZE_AND_EXPORT":
        seconds += SITE_S * _conditions(settings) * shape.n_layers * settings.datasets.A.n_windows_calibration * seq_len
    process = PROCESS_GIB if _device(settings) == "cpu" else 0.0
    return Cost(passes, windows, flops, seconds, process + (shape.all_weights * width + batch) / GIB)


def passes_and_windows(settings: Settings, stage: Stage, n_gstar: int | None) -> tuple[int, int]:
    """Forward passes over a slice, and windows in all. Until the g* are chosen their number is bounded by that of the cells."""
    data, gains, events = settings.datasets, settings.gains, settings.events
    if n_gstar is None:
        n_gstar = min(len(gains.grid) - 1, len(events.spike_defs) * len(events.target_rates))
    passes, windows = {
        "PHASE1_CALIBRATE": (2, data.A.n_windows_calibration),
        "PHASE2_GAIN_GRID": (len(gains.grid), data.A.n_windows_calibration),
        "PHASE3_EXTRACT_RASTERS": (n_gstar + 1, data.A.n_windows_rasters),
        "PHASE4_RUN_NULLS": (n_gstar + 1, data.A.n_windows_rasters),
        "PHASE5_ANALYZE_AND_EXPORT": (
            n_gstar * (len(load_canon()["ENUM.INTERVENTION_ID"]) - 1),
            data.A.n_windows_calibration,
        ),
        "PHASE6_GENERALIZE_B_METRICS": (n_gstar + 1, data.B.n_windows_eval),
    }.get(stage.phase_id, (0, 0))
    if stage.phase_id in OF_QUESTIONS:
        passes, windows = n_gstar + 1, _n_questions(data.ARC_MCQ)
    return passes, passes * windows


def over_budget(settings: Settings, cost: Cost) -> tuple[str, ...]:
    """What of a cost is over the config's budgets, in words."""
    budgets, device = settings.budgets, _device(settings)
    over = []
    if cost.seconds is not None and device == "cuda" and cost.seconds / 3600 > budgets.gpu_hours_max:
        over.append(f"{cost.seconds / 3600:.1f} GPU hours, budgets.gpu_hours_max is {budgets.gpu_hours_max:g}")
    limit: float = getattr(budgets.memory_gib_max, device)
    if cost.memory_gib is not None and cost.memory_gib > limit:
        over.append(f"{cost.memory_gib:.1f} GiB, budgets.memory_gib_max.{device} is {limit:g}")
    return tuple(over)


def require_within_budget(settings: Settings, stage: Stage, n_gstar: int | None) -> None:
    """Raise ConfigError for a phase that would take more GPU hours than the config allows; memory is estimated too roughly."""
    if _device(settings) != "cuda":
        return
    hours = [line for line in over_budget(settings, cost_of(settings, stage, n_gstar)) if "gpu_hours_max" in line]
    if hours:
        raise ConfigError(f"{stage.command} would take {hours[0]}; raise that, or use fewer windows or gains")


def _n_questions(data: ArcData) -> int:
    """How many questions there are; 0 where that takes a look at the hub."""
    return data.n_questions if data.n_questions is not None else sum(1 for _ in _local_rows(data))


def _asked_tokens(data: ArcData) -> int:
    """Tokens of every question: its text with and without the choices, each choice after both, and padding."""
    texts = [str(row.get("question")) + 3 * str(row.get("choices")) for row in _local_rows(data)]
    tokens = sum(map(len, texts)) / CHARACTERS_A_TOKEN if texts else QUESTION_TOKENS * _n_questions(data)
    return int(PADDED * tokens)


def _local_rows(data: ArcData) -> Iterator[dict[str, Any]]:
    """The rows that will be asked, where they are on this machine."""
    if local(data.hf_id).exists():
        yield from islice(load_rows(data.hf_id, data.hf_config, data.split), data.n_questions)


def _conditions(settings: Settings) -> int:
    return len(settings.gains.grid) * len(settings.events.spike_defs) * len(settings.events.target_rates)


def _tflops(settings: Settings) -> float:
    known = settings.budgets.effective_tflops
    if _device(settings) == "cuda":
        return known.cuda
    return cpu_tflops() if known.cpu == "measured" else known.cpu


def _device(settings: Settings) -> str:
    return settings.run.device.split(":")[0]
