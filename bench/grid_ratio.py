"""The gain grid against the bare forward passes that it needs: seconds, ratio, peak memory, on the demo's model and data.

    python bench/grid_ratio.py

Bare passes and the grid are timed in one process, in the order bare, grid, bare; the ratio is over the mean of the bare ones.
"""

import json
import resource
import tempfile
from pathlib import Path
from time import perf_counter

import torch

from avalanche_llm.phases.calibrate import calibrate
from avalanche_llm.phases.context import CALIBRATION_SLICE, _loaded, slices_of_a
from avalanche_llm.phases.gain_grid import gain_grid
from avalanche_llm.phases.job import Job, JobRequest


def bare_passes(job: Job) -> float:
    """Seconds of one plain decoder pass a gain over the calibration slice, no hooks, no head."""
    where = job.settings.run
    model = _loaded(job.settings.model, where.model_role, where.device, where.dtype)
    windows = torch.from_numpy(slices_of_a(job, model)[CALIBRATION_SLICE].windows)
    batch = job.settings.pipeline.batch_windows
    began = perf_counter()
    with torch.inference_mode():
        for _ in job.settings.gains.grid:
            for first in range(0, len(windows), batch):
                model.decoder(input_ids=windows[first : first + batch], use_cache=False)
    return perf_counter() - began


def main() -> None:
    config = Path(__file__).parents[1] / "configs" / "demo.yaml"
    with tempfile.TemporaryDirectory() as folder:
        job = JobRequest(config, runs_dir=Path(folder)).job()
        calibrate(job)
        before = bare_passes(job)
        began = perf_counter()
        gain_grid(job)
        grid = perf_counter() - began
        bare = (before + bare_passes(job)) / 2
    report = {
        "bare_s": round(bare, 1),
        "grid_s": round(grid, 1),
        "ratio": round(grid / bare, 3),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
