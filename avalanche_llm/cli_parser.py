"""argparse with three changes: a usage error is ours (exit 1), it names the nearest thing there is, and a flag that may be
followed by true or false leaves a run id that follows it alone."""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

from avalanche_llm.errors import UsageError
from avalanche_llm.suggest import nearest

BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def boolean(text: str) -> bool:
    """true or false in the words of a shell user."""
    if text.lower() not in BOOLEANS:
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return BOOLEANS[text.lower()]


class Parser(argparse.ArgumentParser):
    """argparse exits with 2 on a usage error, which the contract keeps for schema failures; here it is 1."""

    takes_names: bool = False
    """Whether words that are no flags may follow; then a word behind a boolean flag is the flag's only if it is a boolean."""
    flags: tuple[str, ...] = ("--allow_resume", "--dry_run")
    _within: bool = False

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_known_args(  # type: ignore[override]  # argparse types this with overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse; where names may follow, they may stand on either side of flags, and none is a boolean flag's value."""
        if not self.takes_names or self._within or args is None:
            return super().parse_known_args(args, namespace)
        self._within = True  # the intermixed parse comes back here for its two halves
        try:
            return self.parse_known_intermixed_args(list(self._separated(list(args))), namespace)
        finally:
            self._within = False

    def _separated(self, words: list[str]) -> Iterable[str]:
        for place, word in enumerate(words):
            follows = words[place + 1] if place + 1 < len(words) else ""
            lone = word in self.flags and follows and not follows.startswith("-") and follows.lower() not in BOOLEANS
            yield f"{word}=true" if lone else word

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's own message for a word that is none of the choices, with the nearest of them."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            hint = nearest(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{hint}") from None

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """The error for words that no argument took, with the nearest flag of this parser."""
        known = [flag for action in self._actions for flag in action.option_strings]
        self.error(f"unrecognized arguments: {' '.join(unknown)}{nearest(unknown[0].split('=')[0], known)}")
