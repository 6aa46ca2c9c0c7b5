"""What each subcommand does with its parsed arguments. Heavy imports stay inside: a command pays only for what it needs."""

from argparse import Namespace
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avalanche_llm.phases.job import Job, JobRequest


def make_request(arguments: Namespace) -> "JobRequest":
    """The request that parsed arguments stand for."""
    from avalanche_llm.config import Overrides
    from avalanche_llm.phases.job import JobRequest

    return JobRequest(
        arguments.config,
        Overrides(**{field.name: getattr(arguments, field.name, None) for field in fields(Overrides)}),
        arguments.runs_dir,
        arguments.run_id_mode,
        arguments.allow_resume,
        tuple(arguments.dep),
    )


def run_phase(arguments: Namespace) -> None:
    """Materialize one phase, or with --dry_run print its plan."""
    request = make_request(arguments)
    job = request.job()
    if arguments.dry_run:
        _print_plan(job, arguments.command)
        return
    from avalanche_dagster.headless import materialize_phase
    from avalanche_llm.stages import stage_for_command

    print(job.store.root / materialize_phase(stage_for_command(arguments.command), request))


def report(arguments: Namespace) -> None:
    """Make the report of the named runs, beside them, with the config of the first of them unless another is given."""
    if arguments.run_ids and arguments.config is None:
        from avalanche_llm.canon import load_canon
        from avalanche_llm.io.artifacts import CONFIG_NAME
        from avalanche_llm.io.store import RunStore
        from avalanche_llm.resources import written_out

        arguments.runs_dir = arguments.runs_dir or Path(load_canon()["PATH.RUNS_DIR"])  # that config may name another folder
        arguments.config = RunStore(written_out(arguments.runs_dir)).get(arguments.run_ids[0]).folder / CONFIG_NAME
    arguments.dep = [*arguments.dep, *arguments.run_ids]
    run_phase(arguments)


def validate(arguments: Namespace) -> None:
    """Phase 0: look at everything the later phases need, print each finding."""
    job = make_request(arguments).job()
    if arguments.dry_run:
        print(f"config      sha256 {job.config.sha256}\nphase 0 writes no run directory; without --dry_run it loads the model")
        return
    from avalanche_llm.phases.validate_env import require, validate_env

    findings = []
    for finding in validate_env(job):
        mark = "ok  " if finding.ok else "FAIL" if finding.required else "warn"
        print(f"{mark}  {finding.subject}: {finding.text}", flush=True)
        findings.append(finding)
    require(findings)
    print("environment valid")


def run_everything(arguments: Namespace) -> None:
    """Run what is missing in order and print the summary, or with --dry_run every plan."""
    from avalanche_llm.run_all import pending, run_all

    request = make_request(arguments)
    request.job()
    if arguments.dry_run:
        from avalanche_llm.plan import plan_lines, plan_phase

        plans = ["\n".join(plan_lines(plan_phase(job, stage), job)) for job, stage in pending(request)]
        print("\n\n".join(plans) or "nothing is missing")
        return
    from avalanche_dagster.headless import materialize_in
    from avalanche_dagster.instance import open_instance
    from avalanche_llm.summary import print_summary

    with open_instance() as instance:
        runs = run_all(request, partial(materialize_in, instance))
    print_summary(runs)


def register(arguments: Namespace) -> None:
    """Report complete runs to the Dagster instance, or with --dry_run print which."""
    store = make_request(arguments).job().store
    if arguments.dry_run:
        from avalanche_llm.stages import stages

        named = [store.get(run_id) for run_id in arguments.run_ids]
        for run in named or [run for stage in stages().values() for run in store.complete_runs(stage.tag)]:
            print(run.run_id)
        return
    from avalanche_dagster.instance import open_instance
    from avalanche_dagster.register import register_runs

    with open_instance() as instance:
        for run_id, artifacts in register_runs(instance, store, arguments.run_ids):
            print(f"{run_id}: " + (f"{artifacts} artifacts registered" if artifacts else "was on record"), flush=True)


def runs(arguments: Namespace) -> None:
    """Print every run of the runs folder, or the named ones in full."""
    from avalanche_llm.catalog import entries, find
    from avalanche_llm.catalog_print import print_list, print_run
    from avalanche_llm.errors import UsageError

    store = make_request(arguments).job().store
    if arguments.action == "list":
        if arguments.run_ids:
            raise UsageError("runs list takes no RUN_ID; use runs show RUN_ID")
        print_list(list(entries(store)), store.root)
        return
    if not arguments.run_ids:
        raise UsageError("runs show needs a RUN_ID; runs list prints them")
    for run_id in arguments.run_ids:
        print_run(find(store, run_id), store)


def _print_plan(job: "Job", command: str) -> None:
    from avalanche_llm.cost import require_within_budget
    from avalanche_llm.errors import RunExists
    from avalanche_llm.plan import plan_lines, plan_phase
    from avalanche_llm.stages import stage_for_command

    stage = stage_for_command(command)
    plan = plan_phase(job, stage)
    print("\n".join(plan_lines(plan, job)))
    for phase_id in stage.needs:
        job.upstream(phase_id)
    if stage.runs_model:
        require_within_budget(job.settings, stage, job.n_gstar())
    folder = job.store.root / plan.run_id
    if plan.state == "complete" or (plan.state == "incomplete" and not job.allow_resume):
        raise RunExists(f"{folder} is {plan.state}; the phase would not start")
    if plan.state != "new":
        job.store.resumable(folder, stage, job.allow_resume)
