"""The tail collector alone, fed with activations of any shape by a synthetic source: seconds and memory over the shape.

    python -m bench.collector [--seven_b]

Curves over windows, units, layers and gains; --seven_b is 28 layers of 18944 units, 64 windows of 256 tokens (under 3 GiB).
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
SHAPES: Final = [(windows, 30, 1536, 1) for windows in (8, 16, 32, 64, 128, 256)] + [
    *((16, 8, d_ff, 1) for d_ff in (1536, 4096, 8192, 18944)),
    *((16, layers, 4096, 1) for layers in (4, 8, 16, 32)),
    *((16, 30, 1536, gains) for gains in (1, 3, 5, 11)),
]
SEVEN_B: Final = (64, 28, 18944, 1)


def collect(windows: int, layers: int, d_ff: int, gains: int) -> dict[str, Any]:
    """Feed a slice of heavy-tailed activations once a gain; the source is made before the clock starts and is every layer's."""
    rng = np.random.default_rng(0)
    stats = CalibrationStats(np.zeros((layers, d_ff), np.float32), np.ones((layers, d_ff), np.float32), 1)
    depth = np.full(layers, int(DEPTH_RATE * windows * TOKENS * d_ff) + 1)
    standard = Standardizer.of(stats, eps=1e-6, device=torch.device("cpu"))
    source = torch.from_numpy(rng.standard_t(4, size=(BATCH, TOKENS, d_ff)).astype(np.float32))
    reset_peak()
    base = peak_gib()
    events, began = 0, perf_counter()
    for _ in range(gains):
        collector = TailCollector(standard, {"SPIKE_ONE_SIDED_POS": depth, "SPIKE_TWO_SIDED_ABS": depth}, burn_in=0)
        for first in range(0, windows, BATCH):
            for layer in range(layers):
                collector.add(layer, source)
            collector.end_batch(first + BATCH)
        events += sum(map(len, collector.tails))
    seconds = perf_counter() - began
    return {
        "windows": windows,
        "layers": layers,
        "d_ff": d_ff,
        "gains": gains,
        "seconds": round(seconds, 2),
        "ns_per_sample": round(seconds * 1e9 / (gains * windows * layers * TOKENS * d_ff), 3),
        "events": events,
        "peak_above_source_gib": round(peak_gib() - base, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seven_b", action="store_true")
    shapes = [SEVEN_B] if parser.parse_args().seven_b else SHAPES
    print(json.dumps({"machine": machine(), "shapes": [collect(*shape) for shape in shapes]}, indent=2))


if __name__ == "__main__":
    main()
