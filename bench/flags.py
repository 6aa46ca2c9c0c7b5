"""What the deterministic flags cost: bare passes over the demo's calibration slice without them and with them, in turn.

    python -m bench.flags [REPEATS]
"""

import json
import statistics
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch

from avalanche_llm.determinism import deterministic
from avalanche_llm.phases.context import CALIBRATION_SLICE, _loaded, slices_of_a
from avalanche_llm.phases.job import JobRequest
from bench.bare import bare_pass_s
from bench.measure import machine
from bench.startup import CONFIG


def main(repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = JobRequest(CONFIG, runs_dir=Path(folder)).job()
    where, settings = job.settings.run, job.settings
    model = _loaded(settings.model, where.model_role, where.device, where.dtype)
    windows = torch.from_numpy(slices_of_a(job, model)[CALIBRATION_SLICE].windows)
    seconds: dict[str, list[float]] = {"without_s": [], "with_s": []}
    for _ in range(repeats):
        for name, frame in (("without_s", nullcontext()), ("with_s", deterministic(settings.determinism))):
            with frame:
                seconds[name].append(bare_pass_s(model.decoder, windows, settings.pipeline.batch_windows))
    middle = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    report = {"machine": machine(), "repeats": repeats, "slice_tokens": windows.numel(), **middle}
    print(json.dumps(report | {"ratio": round(middle["with_s"] / middle["without_s"], 3)}, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
