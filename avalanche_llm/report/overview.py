"""The head of the report: which model, which data, which grid, and the few numbers that a reader looks for first (spec 24)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from avalanche_llm.paper.facts import written
from avalanche_llm.report.gather import Evidence, Side
from avalanche_llm.settings import Settings


@dataclass(frozen=True)
class Tile:
    """One number of the head: its name, the value in words, and what it means."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Measured:
    """One row of what was measured, with the sha256 that fixes it."""

    name: str
    value: str
    sha256: str = ""


def subject(evidence: Evidence) -> str:
    """The model or models in words."""
    return " and ".join(dict.fromkeys(side.model_id for side in evidence.sides))


def lead(evidence: Evidence, settings: Settings) -> str:
    """One paragraph: what was done."""
    model = evidence.sides[0].runs["PHASE5_ANALYZE_AND_EXPORT"].record["model"]
    gains, events = settings.gains.grid, settings.events
    return (
        f"{model['n_layers']} layers with MLPs of {model['d_ff']} units, measured on {settings.datasets.A.hf_id} in windows of "
        f"{settings.pipeline.seq_len_tokens} tokens: {len(gains)} gains from {gains[0]:g} to {gains[-1]:g}, "
        f"{len(events.spike_defs)} definitions of an event, {len(events.target_rates)} event rates. At every gain the thresholds "
        "are set anew, so that each layer keeps its rate of events."
    )


def tiles(evidence: Evidence, baseline: float) -> list[Tile]:
    """What stands at the top: branching, its excess, g*, and what g* does elsewhere."""
    side = evidence.sides[0]
    at_one = side.frame("PHASE5_ANALYZE_AND_EXPORT", "T01_SUMMARY_parquet")
    at_one = at_one[at_one["g"] == baseline]
    above = int((at_one["opt_delta_b_tot_ci_low"] > 0).sum())
    bracketed = sum(row["status"] == "bracketed" for row in side.selections)
    found = [
        Tile("Branching b_tot, g = 1", _span(at_one["b_tot"]), f"{len(at_one)} definitions and rates"),
        Tile("Excess over density, g = 1", _span(at_one["delta_b_tot"]), f"interval above zero in {above} of {len(at_one)}"),
        Tile("Chosen gain g*", _gains(side), f"{side.criterion.located} in {bracketed} of {len(side.selections)}"),
    ]
    for phase_id, table, column, name, unit in (
        ("PHASE6_GENERALIZE_B_METRICS", "T02_GENERALIZATION", "nll_mean", "NLL on B, g = 1 → g*", "nats a token; less is better"),
        ("PHASE6_ARC_MCQ_EVAL", "T03_ARC", "accuracy", "Questions right, g = 1 → g*", "share of the questions"),
    ):
        if phase_id in side.runs:
            rows = side.frame(phase_id, f"{table}_parquet").groupby("g_condition")[column]
            one, star = (rows.get_group(condition) for condition in ("g1", "gstar"))
            found.append(Tile(name, f"{_span(one)} → {_span(star)}", unit))
    return found


def measured(evidence: Evidence, config_sha256: str) -> list[Measured]:
    """Model, data and config with their hashes."""
    found = [Measured("resolved config", "every setting of this page", config_sha256)]
    for side in evidence.sides:
        model = side.runs["PHASE5_ANALYZE_AND_EXPORT"].record["model"]
        shape = f"{model['n_layers']} layers, MLPs of {model['d_ff']} units, {model['dtype']} on {model['device']}"
        revision = f", revision {model['revision']}" if model.get("revision") else ""
        found.append(Measured(f"model {side.role}", f"{model['id']}{revision}: {shape}", model.get("content_sha256") or ""))
    slices: dict[tuple[str, str], Any] = {}  # the other model may have another tokenizer, and so other windows of a role
    for run in evidence.runs:
        slices |= {(role, entry.get("sha256", "")): entry for role, entry in run.record["dataset"].items()}
    for (role, sha256), entry in sorted(slices.items(), key=lambda item: item[0]):
        size = ", ".join(f"{entry[key]} {words}" for key, words in _SIZES if entry.get(key) is not None)
        place = " ".join(str(entry[key]) for key in ("config", "split") if entry.get(key))
        found.append(Measured(f"data {role}", f"{entry['id']} {place}: {size}", sha256))
    return found


_SIZES = (("n_windows", "windows"), ("seq_len_tokens", "tokens each"), ("n_questions", "questions"))


def _span(values: Iterable[float]) -> str:
    column = pd.Series(list(values)).dropna()
    if column.empty:
        return written(None)
    low, high = written(float(column.min())), written(float(column.max()))
    return low if low == high else f"{low} to {high}"


def _gains(side: Side) -> str:
    return ", ".join(f"{gain:g}" for gain in sorted({float(row["gstar"]) for row in side.selections}))
