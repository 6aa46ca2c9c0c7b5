"""How often Python looks for unreachable cycles of objects, and when freed memory goes back to the system.

Imports, tables and figures make hundreds of thousands of objects that stay. At the default, a look every 700 new ones, looking
through them takes a sixth of the time of such work.
"""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SELDOM: Final = (100_000, 10, 10)
"""New objects between two looks, and how many looks at the young before one at the old."""


def look_at_the_young() -> None:
    """Drop the unreachable among what was made since the last look."""
    gc.collect(1)


@contextmanager
def looked_for_seldom() -> Iterator[None]:
    """Fewer looks inside; the earlier setting comes back."""
    before = gc.get_threshold()
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def give_back() -> None:
    """Return the heap's unused pages to the system: below one block that stays, glibc keeps them until it is asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
