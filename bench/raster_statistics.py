"""Labelling and statistics at the size of a 7B model: 88 conditions x 64 sequences x 28 layers x 256 tokens.

Everything that phase 5 measures on a condition, 500 bootstrap replicates and 999 null draws included, on synthetic rasters
of the occupancies that the canonical rates give. Prints seconds by part and peak memory. Target: under 60 s and 2 GiB.

    python -m bench.raster_statistics [--conditions 88]
"""

import argparse
import json
import resource
from pathlib import Path
from time import perf_counter

import numpy as np

from avalanche_llm.analysis.measures import measure_condition
from avalanche_llm.canon import load_canon
from avalanche_llm.config import resolve_config
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.settings import parse_settings
from bench.measure import Cost, machine, timed

SHAPE = (64, 28, 256)
PARTS = (
    "avalanche_llm.metrics.avalanches:avalanches",
    "avalanche_llm.metrics.null_ensemble:permutation_ensemble",
    "avalanche_llm.metrics.null_ensemble:shift_ensemble",
    "avalanche_llm.raster.nulls:draw_null",
    "avalanche_llm.metrics.tails:fit_tail",
    "avalanche_llm.metrics.signatures:crackling",
    "avalanche_llm.metrics.branching:branching",
    "avalanche_llm.metrics.branching:branching_interval",
    "avalanche_llm.metrics.branching:branching_sums",
    "avalanche_llm.metrics.branching:excess_over_draw",
    "avalanche_llm.metrics.susceptibility:susceptibility_interval",
    "avalanche_llm.metrics.regression:multistep_regression",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conditions", type=int, default=88)
    n_conditions = parser.parse_args().conditions
    config = Path(__file__).parents[1] / "configs" / "pipeline.yaml"
    settings = parse_settings(resolve_config(config, load_canon()).values)
    statistics = settings.statistics
    weights = bootstrap_weights(SHAPE[0], reps=statistics.bootstrap_reps, seed=statistics.bootstrap_seed)
    means = np.resize([0.19, 0.38, 0.76, 1.5], n_conditions)  # events a site: d_ff = 18944 times the canonical rates
    rng = np.random.default_rng(0)
    cost, began = Cost(), perf_counter()
    for index, mean in enumerate(means):
        shared = rng.gamma(4.0, 0.25, size=(SHAPE[0], 1, SHAPE[2]))  # tokens differ in their rate, as in a model
        counts = rng.poisson(mean * shared, size=SHAPE).astype(np.uint16)
        with timed(cost, PARTS):
            measure_condition(counts, weights, statistics, condition=str(index), seed=0)
    seconds = perf_counter() - began
    report = {
        "machine": machine(),
        "conditions": n_conditions,
        "shape": SHAPE,
        "seconds": round(seconds, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "parts_s": {name: round(spent, 2) for name, spent in cost.parts_s.items()},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
