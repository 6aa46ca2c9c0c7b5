"""The instrument from Python: a model or a recording in memory, small frozen results out, no run directory (docs/python_api.md).

    events = measure(model, tokenizer, texts, gains=[0.8, 1.0])        what a model does on a text
    for raster in rasters(events, gain=1.0): branching(raster)         its rasters, and what is measured on one
    branching(recording), avalanches(recording)                        the same on any 0/1 or count array

Every number comes from the functions that the phases call. A raster is [seq, layer, token], which for a recording is
[trial, channel, time]; [channel, time] is one sequence.
"""

from avalanche_llm.api.measured import Events, gstar, measure, rasters
from avalanche_llm.api.raster import Raster, cut, surrogate
from avalanche_llm.api.statistics import analyze, avalanches, branching, crackling, memory, susceptibility, tail

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
