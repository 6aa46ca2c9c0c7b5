"""What a step takes on a cluster, and what is said where no node has it. No cluster is needed here."""

import subprocess
import sys

import dagster as dg
import pytest
import tiny

from avalanche_dagster.definitions import defs
from avalanche_dagster.executors import RAY_TAG, STEP_GPUS, missing_resources, step_tags, steps_of
from avalanche_llm.errors import EnvironmentProblem
from avalanche_llm.stages import stages


def test_steps_of_gives_a_gpu_to_the_steps_with_a_model_alone() -> None:
    grid = steps_of(defs.resolve_job_def("phase2_gain_grid"), {})
    assert grid == {"plan_gains": {"CPU": 1.0}, "measure_gain": {"CPU": 1.0, "GPU": 1.0}, "publish_grid": {"CPU": 1.0}}
    for stage in stages().values():
        if stage.phase_id != "PHASE2_GAIN_GRID":
            (step,) = steps_of(defs.resolve_job_def(stage.command), {}).values()
            assert step == {"CPU": 1.0} | ({"GPU": 1.0} if stage.runs_model else {})


def test_steps_of_lets_the_run_config_go_first() -> None:
    steps = steps_of(defs.resolve_job_def("phase2_gain_grid"), {"num_cpus": 4.0, "memory": 1e9, "resources": {"A100": 1.0}})
    assert steps["measure_gain"] == {"CPU": 4.0, "GPU": 1.0, "memory": 1e9, "A100": 1.0}


def test_missing_resources_wants_everything_on_one_node() -> None:
    steps = {"small": {"CPU": 1.0}, "large": {"CPU": 4.0, "GPU": 1.0}}
    nodes = [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}]
    assert missing_resources(steps, nodes) == [
        "step large: it takes 4 CPU (most on a node: 8), 1 GPU (most on a node: 1) on one node"
    ]
    assert missing_resources(steps, [*nodes, {"CPU": 4.0, "GPU": 1.0}]) == []
    assert missing_resources(steps, []) == ["any step: no node is alive"]


def test_step_tags_read_the_gpus_of_a_step_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STEP_GPUS, "0.5")
    assert step_tags(runs_model=True)[RAY_TAG]["num_gpus"] == 0.5
    assert step_tags(runs_model=False)[RAY_TAG]["num_gpus"] == 0.0
    for wrong in ("one", "-1", "nan"):
        monkeypatch.setenv(STEP_GPUS, wrong)
        with pytest.raises(EnvironmentProblem, match=f"{STEP_GPUS} must be a number of GPUs, 0 or more, found '{wrong}'"):
            step_tags(runs_model=True)


def test_definitions_load_without_ray_and_have_no_job_on_it() -> None:
    code = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'dagster_ray' else real(name, *more)\n"
        "import sys; sys.modules['dagster_ray'] = sys.modules['ray'] = None\n"
        "from avalanche_dagster.definitions import defs\n"
        "print([job.name for job in defs.get_repository_def().get_all_jobs() if 'ray' in job.name])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tiny.REPO, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_jobs_of_one_machine_keep_the_in_process_executor_and_never_retry() -> None:
    jobs = defs.get_repository_def().get_all_jobs()
    here = [job for job in jobs if not job.name.endswith("_on_ray") and not job.name.startswith("__")]
    assert {job.name for job in here} == {stage.command for stage in stages().values()} | {"full_pipeline"}
    for job in here:
        assert job.executor_def is dg.in_process_executor
        assert job.op_retry_policy is None
        assert all(op.retry_policy is None for op in job.graph.iterate_op_defs())
