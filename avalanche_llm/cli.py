"""The command line of contract 23: one subcommand a phase, thin over materialization; exit codes from the one error tree.

Nothing heavy is imported before a command needs it, so that --help answers at once.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, NoReturn

from avalanche_llm import __version__, commands
from avalanche_llm.errors import AvalancheError, UsageError
from avalanche_llm.interrupts import SHELL_OFFSET, stoppable
from avalanche_llm.release.command import verify

VALIDATE: Final = "phase0_validate_env"
RUN_ALL: Final = "run_all"
REGISTER: Final = "register"
RUNS: Final = "runs"
VERIFY: Final = "verify"
REPORT: Final = "report"
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
    REPORT: "one HTML page over a paper and all it rests on: verdicts, charts, figures, tables, provenance",
    RUN_ALL: "run what is missing, in order, and print a summary",
    REGISTER: "show runs that another machine made in the web UI (all complete ones, or those named)",
    RUNS: "list the runs, or show one: what it found, what it read, what rests on it",
    VERIFY: "check that runs, or a release, are what their records say, and make their tables again; writes nothing",
}

GSTAR_METHODS: Final = ("btot_near_one", "excess_peak", "mr_near_one")

OWN: Final[Mapping[str, Callable[[argparse.Namespace], None]]] = MappingProxyType(
    {
        VALIDATE: commands.validate,
        REPORT: commands.report,
        RUN_ALL: commands.run_everything,
        REGISTER: commands.register,
        RUNS: commands.runs,
        VERIFY: verify,
    }
)
"""The commands that do more or other than run one producing phase."""


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2 on a usage error, which the contract keeps for schema failures; here it is 1."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """Every subcommand with the arguments of the contract."""
    parser = _Parser(prog="python -m avalanche_llm", description="Activation events in language models: do they cascade?")
    parser.add_argument("--version", action="version", version=f"avalanche_llm {__version__}")
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in HELP.items():
        _add_common(choices.add_parser(name, help=text, description=text), name)
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
        parser.add_argument("--gstar_method", choices=GSTAR_METHODS, help="default: the config's; btot_near_one")
    if command == RUNS:
        parser.add_argument("action", nargs="?", choices=("list", "show"), default="list", help="default: list")
        parser.add_argument("run_ids", nargs="*", metavar="RUN_ID", help="for show")
    if command == REGISTER:
        parser.add_argument("run_ids", nargs="*", metavar="RUN_ID", help="default: every complete run of the runs folder")
    if command == REPORT:
        parser.add_argument("run_ids", nargs="*", metavar="RUN_ID", help="runs to report on (default: those of the config)")
    if command == VERIFY:
        parser.add_argument("targets", nargs="*", metavar="RUN_ID", help="or a release: its zip or folder (default: every run)")
        parser.add_argument("--no_tables", action="store_true", help="do not make the tables again")
    if command in ("phase6_arc_mcq_eval", RUN_ALL):
        parser.add_argument("--arc_split", help="split in place of the config's")
        parser.add_argument("--arc_config", help="data set config in place of the config's")


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return values[text.lower()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and turn an error of ours into one line and its exit code. Other exceptions keep their traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("avalanche_llm").setLevel(logging.INFO)
    with stoppable() as heard:
        try:
            parsed = build_parser().parse_args(arguments)
            OWN.get(parsed.command, commands.run_phase)(parsed)
        except AvalancheError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("interrupted; nothing complete was touched. Continue with --allow_resume", file=sys.stderr)
            return heard.exit_code() or SHELL_OFFSET + signal.SIGINT
    return 0
