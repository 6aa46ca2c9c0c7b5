"""Shell completion for the installed command `avalanche_llm`: commands, flags and their choices, files, run ids below runs/."""

import argparse
from collections.abc import Mapping
from typing import Any, Final

PROG: Final = "avalanche_llm"
_PREAMBLE: Final = {
    "bash": '_avalanche_llm_runs() { compgen -W "$(cd runs 2>/dev/null && printf "%s " RUN_*_*)" -- "$1"; }',
    "zsh": "_avalanche_llm_runs() { local -a runs; runs=(runs/RUN_*_*(N:t)); compadd -a runs; }",
}
_RUNS: Final = {"bash": "_avalanche_llm_runs", "zsh": "_avalanche_llm_runs"}


def script(shell: str) -> str:
    """The completion script for bash or zsh, made by shtab from the parser itself, so that it can lack nothing."""
    import shtab

    from avalanche_llm.cli import build_parser

    parser = build_parser(PROG)
    _mark(parser, {"RUN_ID": _RUNS, "config": shtab.FILE, "runs_dir": shtab.DIRECTORY})
    return str(shtab.complete(parser, shell, preamble=_PREAMBLE))  # type: ignore[arg-type]  # it may be one text a shell


def _mark(parser: argparse.ArgumentParser, kinds: Mapping[str, Any]) -> None:
    """Say of each argument of every command what completes it, by its metavar or its name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _mark(below, kinds)
        kind = kinds.get(str(action.metavar)) or kinds.get(action.dest)
        if kind is not None:
            action.complete = kind  # type: ignore[attr-defined]  # where shtab looks for it
