"""The nearest known name, for errors about a name that is not there."""

import difflib
from collections.abc import Iterable
from typing import Final

CUTOFF: Final = 0.6
"""Least similarity (difflib's ratio) of a name worth naming."""


def nearest(word: str, known: Iterable[str], *, cutoff: float = CUTOFF, prefix: str = "") -> str:
    """`, did you mean X?` for the known name nearest to `word`, case aside; nothing where none is near."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=cutoff)
    return f", did you mean {prefix}{by_lower[near[0]]}?" if near else ""
