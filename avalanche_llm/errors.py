"""The one error tree. The exit code sits on the class and `cli.main` is the only place that reads it.

A message is one line: what was expected, what was found, what to do next.
"""

from typing import ClassVar, Final

MAX_MESSAGE: Final = 3000
"""Characters. What was found may be a whole file on one line."""


class AvalancheError(Exception):
    """A failure that the user can act on."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """`text` as one line that a terminal shows and UTF-8 holds: others as escapes, the middle of a long one left out."""
    if len(text) > MAX_MESSAGE:
        half = MAX_MESSAGE // 2
        text = f"{text[:half]} ... ({len(text)} characters) ... {text[-half:]}"
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def reason(error: BaseException) -> str:
    """What a library's error says, without its further lines: the first, and the second where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


class UsageError(AvalancheError):
    """The command line asks for something that does not exist."""


class EnvironmentProblem(AvalancheError):
    """Device, disk, folder or library is not as the run needs it."""


class UnsupportedModel(AvalancheError):
    """The model has no MLP that the hook table knows."""


class SchemaError(AvalancheError):
    """A record, table or artifact does not have the form it must have."""

    exit_code: ClassVar[int] = 2


class ConfigError(SchemaError):
    """The configuration cannot be read, resolved or validated."""


class DataError(SchemaError):
    """A data set or an activation cannot be measured as configured."""


class RateMatchError(SchemaError):
    """A layer misses its target rate by more than both tolerances allow."""


class DeterminismError(AvalancheError):
    """The same inputs would not give, or did not give, the same bytes."""

    exit_code: ClassVar[int] = 2


class MissingArtifact(AvalancheError):
    """An upstream run or one of its files is absent, incomplete or changed."""

    exit_code: ClassVar[int] = 3


class RunExists(AvalancheError):
    """The run directory is there already and resuming was not allowed."""

    exit_code: ClassVar[int] = 4
