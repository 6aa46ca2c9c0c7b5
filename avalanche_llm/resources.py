"""Where the files that travel with the package are: the registry, the record schema, the shipped configs.

An installed wheel carries them under `avalanche_llm/_pack/`; a source checkout has them at its top.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def packaged(relative: str) -> Path:
    """Path of a shipped file such as `spec/00_CANONICAL.md`; the caller reports it if it does not exist."""
    installed = _PACKAGE / "_pack" / relative
    return installed if installed.exists() else _PACKAGE.parent / relative
