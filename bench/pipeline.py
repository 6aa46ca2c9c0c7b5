"""Every phase against the bare forward passes that it needs, on the demo's model: seconds, ratio, memory, bytes, tokens.

    python -m bench.pipeline [--workload small|demo] [--repeats N]

One process, phases in order. The limit of a phase is the time that its tokens take in bare passes, with the language-model head
where every position is predicted; before each pass of the phase a bare one is measured, as the machine's speed wanders. It
runs in another process (`bench.bare`), so that the peaks are those of the phases.
`small` is the workload on which the published implementation was counted: 8 windows of 128 tokens, 5 gains.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from avalanche_llm.cost import WITH_HEAD
from avalanche_llm.phases.analyze import analyze
from avalanche_llm.phases.arc import evaluate_arc
from avalanche_llm.phases.calibrate import calibrate
from avalanche_llm.phases.context import _loaded
from avalanche_llm.phases.extract_rasters import extract_rasters
from avalanche_llm.phases.gain_grid import gain_grid
from avalanche_llm.phases.generalize import generalize
from avalanche_llm.phases.job import JobRequest
from avalanche_llm.phases.run_nulls import run_nulls
from avalanche_llm.phases.select_gstar import select_gstar
from avalanche_llm.plan import plan_phase
from avalanche_llm.stages import stages
from bench.bare import BarePasses
from bench.measure import Cost, counted_tokens, left_out, machine, measured, preceded, timed

REPO: Final = Path(__file__).resolve().parents[1]
SMALL: Final[dict[str, Any]] = {
    "extends": str(REPO / "configs" / "demo.yaml"),
    "pipeline": {"seq_len_tokens": 128},
    "gains": {"grid": [0.8, 0.9, 1.0, 1.1, 1.2]},
    "datasets": {
        "A": {"n_windows_calibration": 8, "n_windows_rasters": 8},
        "B": {"n_windows_eval": 8},
        "ARC_MCQ": {"n_questions": 16},
    },
    "events": {"rate_match_min_cal_samples": 1000},
}
PHASES: Final = {
    "PHASE1_CALIBRATE": calibrate,
    "PHASE2_GAIN_GRID": gain_grid,
    "PHASE2_SELECT_GSTAR": select_gstar,
    "PHASE3_EXTRACT_RASTERS": extract_rasters,
    "PHASE4_RUN_NULLS": run_nulls,
    "PHASE5_ANALYZE_AND_EXPORT": analyze,
    "PHASE6_GENERALIZE_B_METRICS": generalize,
    "PHASE6_ARC_MCQ_EVAL": evaluate_arc,
}
PASSES: Final = ("avalanche_llm.model.forward:forward_pass", "avalanche_llm.model.choices:score_choices")
PARTS: Final = (
    *PASSES,
    "avalanche_llm.events.collect:EventCollector.add",
    "avalanche_llm.datasets:token_slices",
    "avalanche_llm.analysis.grid_rows:match_thresholds",
    "avalanche_llm.analysis.measures:measure_condition",
    "avalanche_llm.phases.analysis_tables:tables_of",
    "avalanche_llm.phases.run_nulls:draw_surrogates",
    "avalanche_llm.plotting.style:save",
    "avalanche_llm.io.files:write_atomically",
)


@contextmanager
def beside(bare: BarePasses, cost: Cost, with_head: bool) -> Iterator[list[float]]:
    """A bare pass before every pass inside, left out of what the phase costs. Yields their seconds as they come."""
    seconds: list[float] = []

    def before() -> None:
        with left_out(cost):
            seconds.append(bare.seconds(with_head))

    with preceded(PASSES, before):
        yield seconds


def measure(config: Path, runs: Path) -> dict[str, Any]:
    """Every phase beside its bare passes, and what each took of the other."""
    job = JobRequest(config, runs_dir=runs).job()
    where, data = job.settings.run, job.settings.datasets.A
    model = _loaded(job.settings.model, where.model_role, where.device, where.dtype)
    slice_tokens = data.n_windows_calibration * job.settings.pipeline.seq_len_tokens
    costs, plain = {}, []
    with BarePasses(config) as bare:
        for phase_id, phase in PHASES.items():
            planned, with_head = plan_phase(job, stages()[phase_id]).cost.seconds, phase_id in WITH_HEAD
            with measured(runs) as cost, timed(cost, PARTS), counted_tokens(model, cost), beside(bare, cost, with_head) as limits:
                phase(job)
            passes = cost.tokens / slice_tokens
            limit = passes * statistics.mean(limits) if limits else 0.0
            plain += [] if with_head else limits
            costs[phase_id] = cost.rounded() | {
                "planned_s": None if planned is None else round(planned, 1),
                "passes": round(passes, 2),
                "limit_s": round(limit, 2),
                "ratio": round(cost.wall_s / limit, 3) if limit else None,
            }
    needed, taken = (sum(cost[name] for cost in costs.values()) for name in ("limit_s", "wall_s"))
    return {
        "machine": machine(),
        "bare_pass_s": round(statistics.mean(plain), 3),
        "slice_tokens": slice_tokens,
        "phases": costs,
        "all": {"limit_s": round(needed, 1), "wall_s": round(taken, 1), "ratio": round(taken / needed, 3)},
    }


def middle(values: list[Any]) -> Any:
    """Number by number the median of results of one shape; what is no number is the first one's."""
    first = values[0]
    if isinstance(first, dict):
        return {key: middle([value[key] for value in values if key in value]) for key in first}
    return statistics.median(values) if isinstance(first, int | float) else first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=("small", "demo"), default="small")
    parser.add_argument("--repeats", type=int, default=1)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = REPO / "configs" / "demo.yaml"
        if wanted.workload == "small":
            config = Path(folder) / "small.yaml"
            config.write_text(yaml.safe_dump(SMALL, sort_keys=False), encoding="utf-8")
        found = [measure(config, Path(folder) / f"runs{repeat}") for repeat in range(wanted.repeats)]
    print(json.dumps({"repeats": wanted.repeats, **middle(found)}, indent=2))


if __name__ == "__main__":
    main()
