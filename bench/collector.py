"""The tail collector alone, fed with activations of any shape by a synthetic source: seconds and memory over the shape.

    python -m bench.collector [--seven_b]

Curves over windows, units and layers; --seven_b is 28 layers of 18944 units, 64 windows of 256 tokens (target: under 3 GiB).
"""

import argparse
import json
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch

from avalanche_llm.events.collect import TailCollector
from avalanche_llm.events.standardize import CalibrationStats, Standardizer
from bench.measure import machine, peak_gib, reset_peak

TOKENS: Final = 256
BATCH: Final = 8
DEPTH_RATE: Final = 8e-5 * 1.2  # the deepest canonical target, and room for layers above the mean
SHAPES: Final = [(windows, 30, 1536) for windows in (8, 16, 32, 64, 128, 256)] + [
    *((16, 8, d_ff) for d_ff in (1536, 4096, 8192, 18944)),
    *((16, layers, 4096) for layers in (4, 8, 16, 32)),
]
SEVEN_B: Final = (64, 28, 18944)


def collect(windows: int, layers: int, d_ff: int) -> dict[str, Any]:
    """Feed one slice of heavy-tailed activations; the source is made before the clock starts and reused by every layer."""
    rng = np.random.default_rng(0)
    stats = CalibrationStats(np.zeros((layers, d_ff), np.float32), np.ones((layers, d_ff), np.float32), 1)
    depth = np.full(layers, int(DEPTH_RATE * windows * TOKENS * d_ff) + 1)
    standard = Standardizer.of(stats, eps=1e-6, device=torch.device("cpu"))
    collector = TailCollector(standard, {"SPIKE_ONE_SIDED_POS": depth, "SPIKE_TWO_SIDED_ABS": depth}, burn_in=0)
    source = torch.from_numpy(rng.standard_t(4, size=(BATCH, TOKENS, d_ff)).astype(np.float32))
    reset_peak()
    base = peak_gib()
    began = perf_counter()
    for first in range(0, windows, BATCH):
        for layer in range(layers):
            collector.add(layer, source)
        collector.end_batch(first + BATCH)
    seconds = perf_counter() - began
    return {
        "windows": windows,
        "layers": layers,
        "d_ff": d_ff,
        "seconds": round(seconds, 2),
        "ns_per_sample": round(seconds * 1e9 / (windows * layers * TOKENS * d_ff), 3),
        "events": sum(len(tail) for tail in collector.tails),
        "peak_above_source_gib": round(peak_gib() - base, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seven_b", action="store_true")
    shapes = [SEVEN_B] if parser.parse_args().seven_b else SHAPES
    print(json.dumps({"machine": machine(), "shapes": [collect(*shape) for shape in shapes]}, indent=2))


if __name__ == "__main__":
    main()
