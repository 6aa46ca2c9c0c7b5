"""The plan of a phase: the run it would make, what it would read, and what it would cost; and that nothing is made."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from avalanche_llm.cost import COLLECTING, FIGURE_S
from avalanche_llm.errors import ConfigError, EnvironmentProblem
from avalanche_llm.phases.job import Job
from avalanche_llm.plan import Plan, plan_lines, plan_phase
from avalanche_llm.stages import stages
from avalanche_llm.throughput import cpu_tflops

COUNTED = ("PHASE1_CALIBRATE", "PHASE2_GAIN_GRID", "PHASE2_SELECT_GSTAR")


def plan_of(job: Job, phase_id: str) -> Plan:
    return plan_phase(job, stages()[phase_id])


def test_plan_phase_names_the_run_and_the_upstream_that_a_run_would_have(pipeline: Path, config: Path) -> None:
    job = tiny.job_of(config, pipeline)
    for phase_id in COUNTED:
        plan = plan_of(job, phase_id)
        folder = tiny.run_of(pipeline, plan.stage.tag)
        assert (plan.run_id, plan.state) == (folder.name, "complete")
        assert plan.upstream == {phase: tiny.run_of(pipeline, stages()[phase].tag).name for phase in plan.stage.needs}


def test_plan_phase_counts_passes_and_creates_nothing(config: Path, tmp_path: Path) -> None:
    job = tiny.job_of(config, tmp_path / "runs")
    plans = {phase_id: plan_of(job, phase_id) for phase_id in stages()}
    assert [(plans[name].cost.n_passes, plans[name].cost.n_windows) for name in COUNTED] == [(2, 32), (4, 64), (0, 0)]
    assert {plan.state for plan in plans.values()} == {"new"}
    assert plans["PHASE2_GAIN_GRID"].upstream["PHASE1_CALIBRATE"].startswith("missing: no complete phase1_calibrate run")
    assert plans["PHASE2_SELECT_GSTAR"].cost.flops is None
    assert not (tmp_path / "runs").exists()


def test_plan_phase_estimates_grow_with_the_work(config: Path, model_folder: Path, tmp_path: Path) -> None:
    job = tiny.job_of(config, tmp_path)
    once, grid = plan_of(job, "PHASE1_CALIBRATE"), plan_of(job, "PHASE2_GAIN_GRID")
    assert once.cost.flops is not None and once.cost.seconds is not None and grid.cost.flops is not None
    assert grid.cost.flops == pytest.approx(2 * once.cost.flops)  # four passes against two
    fixed = tiny.write_config(tmp_path / "f.yaml", model_folder, budgets__effective_tflops={"cpu": 0.5, "cuda": 1.0})
    assert plan_of(tiny.job_of(fixed, tmp_path), "PHASE1_CALIBRATE").cost.seconds == pytest.approx(
        COLLECTING * once.cost.flops / 0.5e12
    )
    assert once.cost.seconds == pytest.approx(COLLECTING * once.cost.flops / (cpu_tflops() * 1e12))
    wider = tiny.job_of(tiny.write_config(tmp_path / "c.yaml", model_folder, pipeline__batch_windows=16), tmp_path)
    memory = plan_of(wider, "PHASE1_CALIBRATE").cost.memory_gib
    assert memory is not None and once.cost.memory_gib is not None and memory > once.cost.memory_gib


def test_plan_phase_counts_statistics_figures_and_the_questions_that_are_here(
    config: Path, model_folder: Path, tmp_path: Path
) -> None:
    job = tiny.job_of(config, tmp_path)
    analysis, questions = (plan_of(job, name).cost for name in ("PHASE5_ANALYZE_AND_EXPORT", "PHASE6_ARC_MCQ_EVAL"))
    assert analysis.seconds is not None and analysis.seconds > 9 * FIGURE_S
    two = tiny.write_config(tmp_path / "c.yaml", model_folder, datasets__ARC_MCQ__n_questions=2)
    fewer = plan_of(tiny.job_of(two, tmp_path), "PHASE6_ARC_MCQ_EVAL").cost
    assert questions.flops is not None and fewer.flops is not None and 0 < fewer.flops < questions.flops


def test_plan_phase_says_what_is_over_budget(model_folder: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"budgets__memory_gib_max": {"cpu": 1e-6, "cuda": 1e-6}, "budgets__gpu_hours_max": 1e-12}
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, **changes)
    (memory,) = plan_of(tiny.job_of(config, tmp_path), "PHASE1_CALIBRATE").over_budget
    assert memory.endswith("GiB, budgets.memory_gib_max.cpu is 1e-06")
    hours, memory = plan_of(tiny.job_of(config, tmp_path, device="cuda:0"), "PHASE1_CALIBRATE").over_budget
    assert hours.endswith("GPU hours, budgets.gpu_hours_max is 1e-12")
    assert memory.endswith("budgets.memory_gib_max.cuda is 1e-06")


def test_a_phase_over_the_gpu_hours_of_the_config_is_refused_before_anything_is_created(
    model_folder: Path, tmp_path: Path
) -> None:
    config = tiny.write_config(tmp_path / "c.yaml", model_folder, budgets__gpu_hours_max=1e-12)
    job = tiny.job_of(config, tmp_path / "runs", device="cuda:0")
    with pytest.raises(ConfigError, match=r"phase1_calibrate would take .* GPU hours, budgets\.gpu_hours_max is 1e-12; raise that"):
        job.begin("PHASE1_CALIBRATE")
    assert not (tmp_path / "runs").exists()
    allowed = tiny.write_config(tmp_path / "d.yaml", model_folder, budgets__gpu_hours_max=1000.0)
    if not torch.cuda.is_available():  # the next check is that of the device
        with pytest.raises(EnvironmentProblem, match="needs a CUDA GPU"):
            tiny.job_of(allowed, tmp_path / "runs", device="cuda:0").begin("PHASE1_CALIBRATE")


def test_plan_lines_are_what_a_person_reads(pipeline: Path, config: Path, tmp_path: Path) -> None:
    job = tiny.job_of(config, pipeline)
    lines = plan_lines(plan_of(job, "PHASE2_GAIN_GRID"), job)
    assert lines[0] == "phase       phase2_gain_grid"
    assert lines[1].startswith("model       INSTRUCT ")
    assert lines[2] == f"config      sha256 {job.config.sha256}"
    assert lines[3] == f"run         {tiny.run_of(pipeline, 'S02')} (complete)"
    assert lines[4] == f"upstream    phase1_calibrate: {tiny.run_of(pipeline, 'S01').name}"
    assert lines[5].startswith("cost        4 passes, 64 windows in all; about ")
    assert lines[5].endswith("on cpu in fp32")
    stamped = replace(job, run_id_mode="timestamp_counter")
    assert plan_of(stamped, "PHASE2_GAIN_GRID").run_id == "RUN_S02_<time>_<counter>"
    unknown = tiny.job_of(config, tmp_path, model_id="nobody/nothing")
    assert plan_lines(plan_of(unknown, "PHASE1_CALIBRATE"), unknown)[4].endswith(
        "cost unknown (the model's config.json is not on this machine)"
    )


def test_plan_lines_say_why_a_cost_is_unknown(config: Path, tmp_path: Path) -> None:
    """A model that is here but gives no sizes is not one that is absent."""
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}', encoding="utf-8")
    job = tiny.job_of(config, tmp_path / "runs", model_id=str(tmp_path))
    assert plan_lines(plan_of(job, "PHASE1_CALIBRATE"), job)[4].endswith(
        "cost unknown (the model's config.json gives no positive whole number for hidden_size or n_embd or n_embed; "
        "intermediate_size or ffn_dim or ffn_hidden_size or n_inner; num_attention_heads or n_head; vocab_size)"
    )
