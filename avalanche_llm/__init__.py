"""avalanche_llm: do activation events of a language model form cascades, and is it more than chance?

    import avalanche_llm as av

The names of `__all__` are those of `avalanche_llm.api` (docs/python_api.md). They come in when they are first used, so that
importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from avalanche_llm.api import Events as Events
    from avalanche_llm.api import Raster as Raster
    from avalanche_llm.api import analyze as analyze
    from avalanche_llm.api import avalanches as avalanches
    from avalanche_llm.api import branching as branching
    from avalanche_llm.api import crackling as crackling
    from avalanche_llm.api import cut as cut
    from avalanche_llm.api import gstar as gstar
    from avalanche_llm.api import measure as measure
    from avalanche_llm.api import memory as memory
    from avalanche_llm.api import rasters as rasters
    from avalanche_llm.api import surrogate as surrogate
    from avalanche_llm.api import susceptibility as susceptibility
    from avalanche_llm.api import tail as tail

__all__ = [
    "Events",
    "Raster",
    "analyze",
    "avalanches",
    "branching",
    "crackling",
    "cut",
    "gstar",
    "measure",
    "memory",
    "rasters",
    "surrogate",
    "susceptibility",
    "tail",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from avalanche_llm import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
