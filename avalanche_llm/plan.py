"""What a phase would do, without doing it: run id, upstream runs, forward passes, and an estimate of its cost.

FLOPs of a forward pass over T tokens: 2 (weights of the layers) a token for the matrix products and 4 L h w T a token for the
attention scores and their mixture, h heads of width w (Kaplan et al. 2020, table 1); 2 V d T more where logits are computed.
Time divides by budgets.effective_tflops.
"""

import json
from dataclasses import dataclass

from avalanche_llm.canon import load_canon
from avalanche_llm.datasets import load_rows
from avalanche_llm.errors import MissingArtifact
from avalanche_llm.model.shape import ModelShape, UnknownShape, model_shape
from avalanche_llm.phases.job import Job
from avalanche_llm.resources import local
from avalanche_llm.run_id import content_run_id
from avalanche_llm.settings import ArcData, Settings
from avalanche_llm.stages import Stage, stages

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
GIB = 2**30
WITH_HEAD = frozenset({"PHASE6_GENERALIZE_B_METRICS"})
"""Phases that compute logits of every position."""


@dataclass(frozen=True)
class Plan:
    """The plan of one phase; passes are over single windows.

    flops, seconds and memory_gib are None where nothing runs, or where the sizes of the model are unknown: `unknown` says why.
    """

    stage: Stage
    run_id: str
    state: str
    upstream: dict[str, str]
    n_passes: int
    n_windows: int
    flops: float | None
    seconds: float | None
    memory_gib: float | None
    over_budget: tuple[str, ...]
    unknown: str = ""


def passes_and_windows(job: Job, stage: Stage) -> tuple[int, int]:
    """Forward passes over a slice, and windows in all, that a built phase makes; a question is a window.

    How many distinct g* there are is known once they are chosen; until then the number of cells bounds it.
    """
    settings = job.settings
    calibration, rasters = settings.datasets.A.n_windows_calibration, settings.datasets.A.n_windows_rasters
    if stage.phase_id in ("PHASE1_CALIBRATE", "PHASE2_GAIN_GRID"):
        passes = 2 if stage.phase_id == "PHASE1_CALIBRATE" else len(settings.gains.grid)
        return passes, passes * calibration
    beside_baseline = _distinct_gstar(job)
    if stage.phase_id in ("PHASE3_EXTRACT_RASTERS", "PHASE4_RUN_NULLS"):
        return beside_baseline + 1, (beside_baseline + 1) * rasters
    if stage.phase_id == "PHASE6_GENERALIZE_B_METRICS":
        return beside_baseline + 1, (beside_baseline + 1) * settings.datasets.B.n_windows_eval
    if stage.phase_id == "PHASE6_ARC_MCQ_EVAL":
        return beside_baseline + 1, (beside_baseline + 1) * _n_questions(settings.datasets.ARC_MCQ)
    if stage.phase_id == "PHASE5_ANALYZE_AND_EXPORT":
        passes = beside_baseline * (len(load_canon()["ENUM.INTERVENTION_ID"]) - 1)
        return passes, passes * calibration
    return 0, 0


def _n_questions(data: ArcData) -> int:
    """How many questions there are; 0 where that takes a look at the hub."""
    if data.n_questions is not None:
        return data.n_questions
    return sum(1 for _ in load_rows(data.hf_id, data.hf_config, data.split)) if local(data.hf_id).exists() else 0


def _distinct_gstar(job: Job) -> int:
    settings = job.settings
    try:
        chosen = json.loads(job.upstream("PHASE2_SELECT_GSTAR").artifact("gstar").read_bytes())
    except MissingArtifact:
        return min(len(settings.gains.grid) - 1, len(settings.events.spike_defs) * len(settings.events.target_rates))
    return len({row["gstar"] for row in chosen["selections"]} - {settings.gains.baseline})


def plan_phase(job: Job, stage: Stage) -> Plan:
    """The plan of `stage` for this job. Nothing is created and no model is loaded."""
    settings = job.settings
    passes, windows = passes_and_windows(job, stage)
    shape = model_shape(settings.model) if windows else None
    flops = seconds = memory = None
    device = settings.run.device.split(":")[0]
    if isinstance(shape, ModelShape):
        seq_len = settings.pipeline.seq_len_tokens
        flops = shape.flops(windows * seq_len, seq_len)
        batch = settings.pipeline.batch_windows * seq_len * (shape.d_ff * 6 + shape.d_model * 8) * BYTES[settings.run.dtype]
        if stage.phase_id in WITH_HEAD:
            flops += shape.head_flops(windows * seq_len)
            batch += seq_len * shape.vocab * (settings.pipeline.batch_windows * BYTES[settings.run.dtype] + 2 * BYTES["fp32"])
        seconds = flops / (settings.budgets.effective_tflops[device] * 1e12)  # type: ignore[index]  # device is cpu or cuda
        memory = (shape.all_weights * BYTES[settings.run.dtype] + batch) / GIB
    run_id = (
        content_run_id(stage.tag, job.config.canonical)
        if job.run_id_mode == "content_hash"
        else f"RUN_{stage.tag}_<time>_<counter>"
    )
    return Plan(
        stage,
        run_id,
        job.store.state(run_id),
        {phase: _upstream(job, phase) for phase in stage.needs},
        passes,
        windows,
        flops,
        seconds,
        memory,
        _over_budget(settings, device, seconds, memory),
        shape.reason if isinstance(shape, UnknownShape) else "",
    )


def _upstream(job: Job, phase_id: str) -> str:
    try:
        return job.upstream(phase_id).run_id
    except MissingArtifact as error:
        return f"missing: {error}"


def _over_budget(settings: Settings, device: str, seconds: float | None, memory: float | None) -> tuple[str, ...]:
    budgets = settings.budgets
    over = []
    if seconds is not None and device == "cuda" and seconds / 3600 > budgets.gpu_hours_max:
        over.append(f"{seconds / 3600:.1f} GPU hours, budgets.gpu_hours_max is {budgets.gpu_hours_max:g}")
    limit = budgets.memory_gib_max[device]  # type: ignore[index]  # device is cpu or cuda
    if memory is not None and memory > limit:
        over.append(f"{memory:.1f} GiB, budgets.memory_gib_max.{device} is {limit:g}")
    return tuple(over)


def plan_lines(plan: Plan, job: Job) -> list[str]:
    """The plan as text for a terminal."""
    known = plan.flops is not None and plan.seconds is not None and plan.memory_gib is not None
    cost = "no forward passes" if not plan.n_passes else f"{plan.n_passes} passes, {plan.n_windows} windows in all"
    if plan.n_passes and not plan.n_windows:
        cost = f"{plan.n_passes} passes over every question; cost unknown (the data set is not on this machine)"
    elif plan.n_passes and not known:
        cost += f"; cost unknown ({plan.unknown})"
    elif known:
        run = job.settings.run
        cost += (
            f"; about {plan.flops:.3g} FLOP, {plan.seconds:.0f} s and {plan.memory_gib:.1f} GiB on {run.device} in {run.dtype}"
        )
    return [
        f"phase       {plan.stage.command}",
        f"model       {job.settings.run.model_role} {job.settings.model.hf_id}",
        f"config      sha256 {job.config.sha256}",
        f"run         {job.store.root / plan.run_id} ({plan.state})",
        *(f"upstream    {stages()[phase].command}: {found}" for phase, found in plan.upstream.items()),
        f"cost        {cost}",
        *(f"over budget {line}" for line in plan.over_budget),
    ]
