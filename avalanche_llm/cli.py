"""The command line of contract 23: one subcommand a phase, thin over materialization; exit codes from the one error tree.

Nothing heavy is imported before a command needs it, so that --help answers at once.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from avalanche_llm import __version__
from avalanche_llm.errors import AvalancheError, UsageError

if TYPE_CHECKING:
    from avalanche_llm.phases.job import Job, JobRequest

VALIDATE: Final = "phase0_validate_env"
RUN_ALL: Final = "run_all"
HELP: Final = {
    VALIDATE: "check device, versions, hooks and that models and data can be reached; writes nothing",
    "phase1_calibrate": "mean and spread of every unit at g = 1, target rates",
    "phase2_gain_grid": "one forward pass per gain: events, thresholds, branching",
    "phase2_select_gstar": "choose g* from branching on data set A",
    "phase3_extract_rasters": "rasters at g = 1 and g* on held-out windows",
    "phase4_run_nulls": "surrogate rasters",
    "phase5_analyze_and_export": "avalanches, statistics, tables, figures",
    "phase6_generalize_b_metrics": "data set B at g = 1 and g*",
    "phase6_arc_mcq_eval": "ARC questions at g = 1 and g*",
    "phase7_paper_export": "paper sections from the tables",
    "phase8_release": "manifest and archive",
    RUN_ALL: "run what is missing, in order, and print a summary",
}


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2 on a usage error, which the contract keeps for schema failures; here it is 1."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """Every subcommand with the arguments of the contract."""
    parser = _Parser(prog="python -m avalanche_llm", description="Activation events in language models: do they cascade?")
    parser.add_argument("--version", action="version", version=f"avalanche_llm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in HELP.items():
        _add_common(commands.add_parser(name, help=text, description=text), name)
    return parser


def _add_common(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("--config", type=Path, help="pipeline yaml (default configs/pipeline.yaml)")
    parser.add_argument("--device", help="cuda, cuda:N or cpu (default: the config's; cuda)")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), help="default: the config's; bf16")
    parser.add_argument("--run_id_mode", choices=("content_hash", "timestamp_counter"), default="content_hash")
    parser.add_argument("--model_role", choices=("INSTRUCT", "BASE"), help="default: the config's; INSTRUCT")
    for flag, text in (("--allow_resume", "continue an incomplete run"), ("--dry_run", "resolve, validate, print the plan")):
        parser.add_argument(flag, type=_boolean, nargs="?", const=True, default=False, metavar="BOOL", help=text)
    parser.add_argument("--dep", action="append", default=[], metavar="RUN_ID", help="use this upstream run (repeatable)")
    parser.add_argument("--runs_dir", type=Path, help="runs folder (default: the config's; runs)")
    parser.add_argument("--model_id", help="hub id or local folder in place of the config's model")
    parser.add_argument("--data_a", help="data set A in place of the config's")
    parser.add_argument("--data_b", help="data set B in place of the config's")
    if command in ("phase2_select_gstar", RUN_ALL):
        parser.add_argument("--gstar_method", choices=("btot_near_one",), help="default btot_near_one")
    if command in ("phase6_arc_mcq_eval", RUN_ALL):
        parser.add_argument("--arc_split", help="split in place of the config's")
        parser.add_argument("--arc_config", help="data set config in place of the config's")


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return values[text.lower()]


def make_request(arguments: argparse.Namespace) -> "JobRequest":
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


def run_command(arguments: argparse.Namespace) -> None:
    """Carry out one parsed command."""
    request = make_request(arguments)
    job = request.job()
    if arguments.command == VALIDATE:
        _validate(job, dry_run=arguments.dry_run)
        return
    if arguments.command == RUN_ALL:
        _run_all(request, dry_run=arguments.dry_run)
        return
    from avalanche_llm.stages import stage_for_command

    stage = stage_for_command(arguments.command)
    if arguments.dry_run:
        _print_plan(job, arguments.command)
        return
    from avalanche_dagster.headless import materialize_phase

    print(job.store.root / materialize_phase(stage, request))


def _validate(job: "Job", *, dry_run: bool) -> None:
    if dry_run:
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


def _run_all(request: "JobRequest", *, dry_run: bool) -> None:
    from avalanche_llm.run_all import pending, run_all

    if dry_run:
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


def _print_plan(job: "Job", command: str) -> None:
    from avalanche_llm.errors import RunExists
    from avalanche_llm.plan import plan_lines, plan_phase
    from avalanche_llm.stages import stage_for_command

    stage = stage_for_command(command)
    plan = plan_phase(job, stage)
    print("\n".join(plan_lines(plan, job)))
    for phase_id in stage.needs:
        job.upstream(phase_id)
    if plan.state == "complete" or (plan.state != "new" and not job.allow_resume):
        raise RunExists(f"{job.store.root / plan.run_id} is {plan.state}; the phase would not start")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and turn an error of ours into one line and its exit code. Other exceptions keep their traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("avalanche_llm").setLevel(logging.INFO)
    try:
        run_command(build_parser().parse_args(arguments))
    except AvalancheError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; nothing complete was touched. Continue with --allow_resume", file=sys.stderr)
        return 130
    return 0
