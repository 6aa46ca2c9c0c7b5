"""Phase 1: mean and spread of every unit at g = 1, and the target rate of every layer (spec 11, S01)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from avalanche_llm.errors import DeterminismError
from avalanche_llm.events.collect import EventCounter
from avalanche_llm.events.rate_match import RateTargets, rate_targets
from avalanche_llm.events.standardize import CalibrationStats, RunningMoments, Standardizer
from avalanche_llm.io.files import json_bytes, npz, raw
from avalanche_llm.model.forward import forward_pass
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.hook_checks import hook_difference
from avalanche_llm.model.hooks import OnInput
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.phases.context import CALIBRATION_SLICE, guard, open_model, slices_of_a, use_slice
from avalanche_llm.phases.job import Job
from avalanche_llm.progress import Advance, progress
from avalanche_llm.settings import Settings


def calibrate(job: Job) -> str:
    """Run phase 1 and return its run id. Two passes over the calibration slice: moments, then rates over tau0."""
    run = job.begin("PHASE1_CALIBRATE")
    with guard(job, run):
        model = open_model(job, run)
        calibration = use_slice(job, run, slices_of_a(job, model)[CALIBRATION_SLICE])
        run.describe(
            conditions=[{"g": job.settings.gains.baseline}], model=hook_match(model, calibration.windows[:1], job.settings)
        )
        baseline = measure_baseline(model, calibration.windows, job.settings)
        stats, targets = baseline.stats, baseline.targets
        run.time("forward_s", baseline.seconds)
        run.log("calibrated", silent_units=stats.silent_units(job.settings.events.eps), n_samples=targets.n_samples)
        run.save("calibration_stats", npz({"mu": stats.mu, "sigma": stats.sigma, "n_samples": np.array(stats.n_samples)}))
        run.save("rate_targets", raw(json_bytes(targets_as_json(targets, stats, job.settings))))
    run.complete()
    return run.run_id


@dataclass(frozen=True)
class Baseline:
    """What two passes at g = 1 give: mean and spread of every unit, target rates, and the seconds they took."""

    stats: CalibrationStats
    targets: RateTargets
    seconds: float


def measure_baseline(model: LoadedModel, windows: Int64[np.ndarray, "seq token"], settings: Settings) -> Baseline:
    """Calibrate on these windows: one pass for the moments, one for the rates over tau0."""
    with progress("calibration", 2 * len(windows)) as advance:
        moments = RunningMoments(model.n_layers, burn_in=settings.pipeline.burn_in_tokens)
        seconds = _baseline_pass(model, windows, settings, moments.add, advance)
        stats = moments.finish()
        over_tau0 = _counter(stats, model, settings)
        seconds += _baseline_pass(model, windows, settings, over_tau0.add, advance, over_tau0.end_batch)
    return Baseline(stats, rate_targets(over_tau0.counts, stats.n_samples * model.d_ff, settings.events), seconds)


def hook_match(model: LoadedModel, window: Int64[np.ndarray, "1 token"], settings: Settings) -> dict[str, int | float]:
    """What is read at the down projections against what gate, up and act compute, on one window (spec 12).

    Raises DeterminismError beyond the tolerance. No layer is compared where the hooks name no up and act.
    """
    found = hook_difference(model.decoder, list(model.layers), model.names, torch.from_numpy(window).to(model.device))
    tolerance = settings.events.u_hook_match_tol_abs
    if not found.largest <= tolerance:  # NaN fails too
        raise DeterminismError(
            f"hook check: u as read and as computed differ by {found.largest:.2g}, at most {tolerance:g} is allowed; "
            "correct models.<ROLE>.hooks"
        )
    return {"hook_layers_compared": found.n_layers, "hook_largest_difference": found.largest}


def _baseline_pass(
    model: LoadedModel,
    windows: np.ndarray,
    settings: Settings,
    on_input: OnInput,
    advance: Advance,
    on_batch: Callable[[int], None] = lambda next_seq: None,
) -> float:
    plan, batch = GainPlan.uniform("MLP", settings.gains.baseline, model.n_layers), settings.pipeline.batch_windows
    report = forward_pass(
        model,
        windows,
        plan=plan,
        batch_windows=batch,
        on_input=on_input,
        on_batch=lambda first: on_batch(first + batch),
        advance=advance,
    )
    return report.seconds


def _counter(stats: CalibrationStats, model: LoadedModel, settings: Settings) -> EventCounter:
    """Counts v > tau0 in each layer, for each spike definition."""
    events = settings.events
    return EventCounter(
        Standardizer.of(stats, eps=events.eps, device=model.device),
        [dict.fromkeys(events.spike_defs, events.tau0_baseline)] * model.n_layers,
        burn_in=settings.pipeline.burn_in_tokens,
    )


def targets_as_json(targets: RateTargets, stats: CalibrationStats, settings: Settings) -> dict[str, object]:
    """rate_targets.json: rates in events per (unit, token), in the order of the layers."""
    return {
        "n_samples_per_layer": targets.n_samples,
        "tau0_baseline": settings.events.tau0_baseline,
        "eps": settings.events.eps,
        "silent_units": stats.silent_units(settings.events.eps),
        "spike_defs": [
            {
                "spike_def_id": spike_def,
                "r_base": rates.tolist(),
                "targets": [
                    {
                        "target_rate": target,
                        "r_star": targets.r_star[spike_def, target].tolist(),
                        "wanted_events": targets.wanted((spike_def, target)).tolist(),
                    }
                    for target in settings.events.target_rates
                ],
            }
            for spike_def, rates in targets.r_base.items()
        ],
    }
