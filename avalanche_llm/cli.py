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
from typing import Final

from avalanche_llm import __version__, commands
from avalanche_llm.cli_help import (
    COMPLETION,
    COMPLETION_HELP,
    HELP,
    REGISTER,
    REPORT,
    RUN_ALL,
    RUNS,
    VALIDATE,
    VERIFY,
    examples_of,
)
from avalanche_llm.cli_parser import Parser, boolean
from avalanche_llm.errors import AvalancheError
from avalanche_llm.interrupts import SHELL_OFFSET, no_interrupt, stoppable
from avalanche_llm.release.command import verify

PROG: Final = "python -m avalanche_llm"
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


def build_parser(prog: str = PROG) -> Parser:
    """Every subcommand with the arguments of the contract."""
    parser = Parser(
        prog=prog,
        description="Activation events in language models: do they cascade, and is it more than chance?",
        epilog="COMMAND --help shows what a command takes, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"avalanche_llm {__version__}")
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in HELP.items():
        command = choices.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=examples_of(name, f"{prog} {name}"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_common(command)
        _add_own(command, name)
        command.set_defaults(parser=command)
    completion = choices.add_parser(COMPLETION, help=COMPLETION_HELP, description=f"{COMPLETION_HELP}.")
    completion.add_argument("shell", choices=("bash", "zsh"), help='load it with: eval "$(avalanche_llm completion bash)"')
    completion.set_defaults(parser=completion)
    return parser


def _add_common(parser: Parser) -> None:
    parser.add_argument("--config", type=Path, help="pipeline yaml (default configs/pipeline.yaml)")
    parser.add_argument("--device", help="cuda, cuda:N or cpu (default: the config's; cuda)")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), help="default: the config's; bf16")
    parser.add_argument("--run_id_mode", choices=("content_hash", "timestamp_counter"), default="content_hash")
    parser.add_argument("--model_role", choices=("INSTRUCT", "BASE"), help="default: the config's; INSTRUCT")
    for flag, text in zip(Parser.flags, ("continue an incomplete run", "resolve, validate, print the plan"), strict=True):
        parser.add_argument(flag, type=boolean, nargs="?", const=True, default=False, metavar="BOOL", help=text)
    parser.add_argument("--dep", action="append", default=[], metavar="RUN_ID", help="use this upstream run (repeatable)")
    parser.add_argument("--runs_dir", type=Path, help="runs folder (default: the config's; runs)")
    parser.add_argument("--model_id", help="hub id or local folder in place of the config's model")
    parser.add_argument("--data_a", help="data set A in place of the config's")
    parser.add_argument("--data_b", help="data set B in place of the config's")


def _add_own(parser: Parser, command: str) -> None:
    parser.takes_names = command in (RUNS, REGISTER, REPORT, VERIFY)
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


def _act(arguments: Sequence[str] | None) -> None:
    parsed, unknown = build_parser().parse_known_args(sys.argv[1:] if arguments is None else list(arguments))
    if unknown:
        parsed.parser.refuse(unknown)
    if parsed.command == COMPLETION:
        from avalanche_llm.completion import script

        print(script(parsed.shell))
        return
    OWN.get(parsed.command, commands.run_phase)(parsed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and turn an error of ours into one line and its exit code. Other exceptions keep their traceback."""
    terminal = logging.StreamHandler(sys.stderr)
    terminal.addFilter(no_interrupt)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[terminal])
    logging.getLogger("avalanche_llm").setLevel(logging.INFO)
    with stoppable() as heard:
        try:
            _act(arguments)
        except AvalancheError as error:
            _say_error(str(error))
            return error.exit_code
        except KeyboardInterrupt:
            print("interrupted; nothing complete was touched. Continue with --allow_resume", file=sys.stderr)
            return heard.exit_code() or SHELL_OFFSET + signal.SIGINT
    return 0


def _say_error(text: str) -> None:
    """One line on stderr; its first word red on a terminal that takes colours (rich keeps to NO_COLOR)."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("error:", "bold red"), " ", text), soft_wrap=True, highlight=False)
