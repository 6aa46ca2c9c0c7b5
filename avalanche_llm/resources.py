"""Where the files that travel with the package are: the registry, the record schema, the shipped configs and the demo's data.

An installed wheel carries them under `avalanche_llm/_pack/`; a source checkout has them at its top.
"""

from pathlib import Path
from typing import Final

from avalanche_llm.errors import EnvironmentProblem, reason

_PACKAGE = Path(__file__).parent
SHIPPED: Final = (("configs",), ("data",))
"""First parts of the names that a wheel carries."""


def packaged(relative: str) -> Path:
    """Path of a shipped file such as `spec/00_CANONICAL.md`; the caller reports it if it does not exist."""
    installed = _PACKAGE / "_pack" / relative
    return installed if installed.exists() else _PACKAGE.parent / relative


def local(name: str | Path) -> Path:
    """The path that a config or the command line means by `name`, `~` written out: the file here, else the shipped one.

    So `configs/demo.yaml` and `data/jargon.txt` name the same files in every folder. A name that is neither comes back as it is.
    Raises EnvironmentProblem where `name` cannot name a file.
    """
    here = written_out(name)
    if here.is_absolute() or here.exists() or here.parts[:1] not in SHIPPED or ".." in here.parts:
        return here
    shipped = packaged(here.as_posix())
    return shipped if shipped.exists() else here


def written_out(name: str | Path) -> Path:
    """`name` as a path, `~` written out. Raises EnvironmentProblem where it cannot name a file."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, the home of nobody
        raise EnvironmentProblem(f"{str(name)!r} cannot be a path here: {reason(error)}; check it") from error
    return path
