"""Progress of long work: a bar with rate and time left on a terminal, a log line now and then elsewhere."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from avalanche_llm.interrupts import raise_lost

LOG_EVERY_SECONDS: Final = 15.0
_log = logging.getLogger("avalanche_llm")

Advance = Callable[[int], None]


@contextmanager
def progress(label: str, total: int, unit: str = "windows") -> Iterator[Advance]:
    """Yield a function to call with the number of units just done. Of nested bars the outermost one stays on the screen."""
    raise_lost()
    if sys.stderr.isatty():
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        bar = tqdm(total=total, desc=label, unit=f" {unit}", leave=None, dynamic_ncols=True, file=sys.stderr)
        with logging_redirect_tqdm(), bar:

            def draw(done: int) -> None:
                raise_lost()
                bar.update(done)

            yield draw
        return
    began = last = monotonic()
    so_far = 0

    def advance(done: int) -> None:
        nonlocal so_far, last
        raise_lost()
        so_far += done
        now = monotonic()
        if now - last >= LOG_EVERY_SECONDS and so_far < total:
            left = (now - began) / so_far * (total - so_far)
            _log.info("%s: %d of %d %s, about %.0f s left", label, so_far, total, unit, left)
            last = now

    yield advance
    _log.info("%s: %d %s in %.1f s", label, so_far, unit, monotonic() - began)
