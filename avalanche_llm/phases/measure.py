"""One forward pass at one gain plan that brings back events: the step that phases 2 to 6 share."""

from collections.abc import Mapping, Sequence

import numpy as np

from avalanche_llm.events.collect import EventCollector, LayerTail, TailCollector
from avalanche_llm.events.rate_match import RateTargets
from avalanche_llm.events.standardize import CalibrationStats, Standardizer
from avalanche_llm.model.forward import PassReport, forward_pass
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.progress import progress
from avalanche_llm.settings import Settings, SpikeDef


def largest_events(
    model: LoadedModel,
    windows: np.ndarray,
    plan: GainPlan,
    stats: CalibrationStats,
    targets: RateTargets,
    settings: Settings,
    label: str,
) -> tuple[list[LayerTail], PassReport]:
    """The largest v of each layer, deep enough for every threshold of `targets`."""
    collector = TailCollector(
        _standardizer(model, stats, settings),
        {spike_def: targets.depth(spike_def) for spike_def in settings.events.spike_defs},
        burn_in=settings.pipeline.burn_in_tokens,
    )
    report = _pass(model, windows, plan, collector, settings, label)
    return collector.tails, report


def events_over(
    model: LoadedModel,
    windows: np.ndarray,
    plan: GainPlan,
    stats: CalibrationStats,
    bounds: Sequence[Mapping[SpikeDef, float]],
    settings: Settings,
    label: str,
    predict_from: int | None = None,
) -> tuple[list[LayerTail], PassReport]:
    """Every event of each layer at or above given bounds (sigma); with `predict_from` the report has the likelihood too."""
    collector = EventCollector(_standardizer(model, stats, settings), bounds, burn_in=settings.pipeline.burn_in_tokens)
    report = _pass(model, windows, plan, collector, settings, label, predict_from)
    return collector.tails, report


def _standardizer(model: LoadedModel, stats: CalibrationStats, settings: Settings) -> Standardizer:
    return Standardizer.of(stats, eps=settings.events.eps, device=model.device)


def _pass(
    model: LoadedModel,
    windows: np.ndarray,
    plan: GainPlan,
    collector: EventCollector,
    settings: Settings,
    label: str,
    predict_from: int | None = None,
) -> PassReport:
    batch = settings.pipeline.batch_windows
    with progress(label, len(windows)) as advance:
        return forward_pass(
            model,
            windows,
            plan=plan,
            batch_windows=batch,
            on_input=collector.add,
            predict_from=predict_from,
            on_batch=lambda first: collector.end_batch(first + batch),
            advance=advance,
        )
