"""The numbers behind the page's interactive charts, by model, spike definition and target rate (spec 24).

Curves carry their bootstrap interval. A raster is [layer, token] of one held-out sequence: the event counts of all sites, and the
component labels of the occupied ones in the same order. Numbers are rounded to DIGITS; the tables of the page hold them in full.
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Integer

from avalanche_llm.analysis.conditions import conditions_from_frame
from avalanche_llm.io.files import read_frame, read_npz
from avalanche_llm.metrics.gstar import shown_first
from avalanche_llm.plotting.columns import SPIKE_NAMES
from avalanche_llm.plotting.fig_panels import select
from avalanche_llm.plotting.style import scientific
from avalanche_llm.raster.cc import label_components
from avalanche_llm.report.gather import Side
from avalanche_llm.report.sizes import at_least, fitted

DIGITS: Final = 6
SEQUENCE: Final = 0
"""The held-out sequence that is shown; F01 shows the same one."""
CURVES: Final = ("b_tot", "b_time", "b_depth", "delta_b_tot", "delta_b_time", "delta_b_depth", "opt_delta_b_depth_shift")
RULES: Final = {"SPIKE_ONE_SIDED_POS": "z > τ", "SPIKE_TWO_SIDED_ABS": "|z| > τ"}
REPLACED: Final = "\ufffd"
_VISIBLE: Final = {"\n": "⏎", "\r": "␍", "\t": "⇥"}


def chart_data(sides: Iterable[Side]) -> dict[str, Any]:
    """Everything the charts draw, as plain JSON values."""
    return {"models": [_model(side) for side in sides]}


def cell_name(spike_def: str, rate: float) -> str:
    """How the page's script asks for a definition and rate."""
    return f"{spike_def}|{rate!r}"


def visible(text: str) -> str:
    """A token's text with its line ends and tabs made visible; what cannot be printed is replaced."""
    return "".join(_VISIBLE.get(sign) or (sign if sign.isprintable() else REPLACED) for sign in text)


def _model(side: Side) -> dict[str, Any]:
    summary = side.frame("PHASE5_ANALYZE_AND_EXPORT", "T01_SUMMARY_parquet")
    tails = side.frame("PHASE5_ANALYZE_AND_EXPORT", "T04_TAIL_FITS_parquet")
    chosen = {cell_name(row["spike_def_id"], row["target_rate"]): row for row in side.selections}
    names = list(dict.fromkeys(summary["spike_def_id"]))
    rates = sorted({float(rate) for rate in summary["target_rate"]})
    sizes, rasters = _sizes(side), _rasters(side)
    cells = {}
    for spike_def in names:
        for rate in rates:
            name, rows = cell_name(spike_def, rate), select(summary, spike_def, rate)
            cells[name] = {
                "g": rows["g"].tolist(),
                "curves": _curves(rows),
                "gstar": {key: chosen[name][key] for key in ("gstar", "status", "ci_low", "ci_high")},
                "sizes": _size_curves(rows, select(tails, spike_def, rate), sizes),
                "rasters": rasters[name],
            }
    first = shown_first(side.selections, side.method)  # F01 shows the same one
    return {
        "role": side.role,
        "id": side.model_id,
        "definitions": [{"id": name, "name": f"{SPIKE_NAMES[name]} ({RULES[name]})"} for name in names],
        "rates": [{"id": repr(rate), "name": scientific(rate)} for rate in rates],
        "first": {"definition": first["spike_def_id"], "rate": repr(float(first["target_rate"]))},
        "cells": cells,
        "sequence": _sequence(side),
    }


def _rounded(values: Iterable[float]) -> list[float | None]:
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]


def _curves(rows: pd.DataFrame) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    for name in CURVES:
        stem = f"opt_{name.removeprefix('opt_')}_ci"
        ends = {end: _rounded(rows[f"{stem}_{end}"]) for end in ("low", "high")}
        curves[name] = {"value": _rounded(rows[name]), **ends}
    curves["b_tot_perm"] = {"value": _rounded(rows["b_tot_perm"])}
    curves["twice_occupancy"] = {"value": _rounded(2.0 * rows["opt_occupancy"])}
    return curves


def _sizes(side: Side) -> dict[tuple[str, float, float], np.ndarray]:
    """Sizes of all 4-neighbour avalanches by definition, rate and gain."""
    run = side.runs["PHASE5_ANALYZE_AND_EXPORT"]
    path = run.artifact("avalanches")
    table = read_frame(path, ["cond_id", "adjacency_id", "size"])
    table = table[table["adjacency_id"] == "ADJ_4N"]
    conditions, sizes = table["cond_id"].to_numpy(), table["size"].to_numpy()
    order = np.argsort(conditions, kind="stable")
    keys = side.frame("PHASE5_ANALYZE_AND_EXPORT", "metrics").sort_values("cond_id")
    ids = keys["cond_id"].to_numpy()
    starts, ends = (np.searchsorted(conditions[order], ids, edge) for edge in ("left", "right"))
    return {
        (row["spike_def_id"], row["target_rate"], row["g"]): sizes[order[start:end]]
        for row, start, end in zip(keys.to_dict("records"), starts.tolist(), ends.tolist(), strict=True)
    }


def _size_curves(rows: pd.DataFrame, tails: pd.DataFrame, sizes: Mapping[Any, np.ndarray]) -> list[dict[str, Any]]:
    curves = []
    for row, tail in zip(rows.to_dict("records"), tails.to_dict("records"), strict=True):
        found = sizes[row["spike_def_id"], row["target_rate"], row["g"]]
        values, above = at_least(found)
        largest = int(values[-1]) if len(values) else 1
        reason = tail["opt_reason"]
        curves.append(
            {
                "g": row["g"],
                "n": len(found),
                "size": values.tolist(),
                "at_least": above.tolist(),
                "laws": fitted(tail, max(len(found), 1), largest),
                "reason": reason if isinstance(reason, str) else "",
            }
        )
    return curves


def _rasters(side: Side) -> dict[str, list[dict[str, Any]]]:
    """One sequence at g = 1 and at g*, by definition and rate."""
    arrays = read_npz(side.runs["PHASE3_EXTRACT_RASTERS"].artifact("rasters_token_layer"), {"X": 4, "A": 4})
    found: dict[str, list[dict[str, Any]]] = {}
    for condition in conditions_from_frame(side.frame("PHASE3_EXTRACT_RASTERS", "metrics")):
        labels = label_components(arrays["X"][condition.cond_id, SEQUENCE : SEQUENCE + 1], "ADJ_4N").labels[0]
        counts = arrays["A"][condition.cond_id, SEQUENCE]
        found.setdefault(cell_name(*condition.cell), []).append(
            {"is": condition.g_condition, "g": condition.g, "counts": _packed(counts), "labels": _packed(labels[labels > 0])}
        )
    return found


def _packed(values: Integer[np.ndarray, "*site"]) -> dict[str, Any]:
    """Little-endian unsigned integers of as few bytes as hold them (one, two or four), as base64."""
    width = np.min_scalar_type(values.max(initial=0)).itemsize
    return {"bytes": width, "data": base64.b64encode(values.astype(f"<u{width}").tobytes()).decode("ascii")}


def _sequence(side: Side) -> dict[str, Any]:
    """The shown sequence: which it is, and the text of the tokens that the raster has columns for."""
    arrays = read_npz(side.runs["PHASE3_EXTRACT_RASTERS"].artifact("rasters_token_layer"), {"X": 4, "seq_id": 1})
    _, _, n_layers, n_tokens = arrays["X"].shape
    seq_id = int(arrays["seq_id"][SEQUENCE])
    rows = side.frame("PHASE3_EXTRACT_RASTERS", "raster_tokens")
    texts = rows[rows["seq_id"] == seq_id].sort_values("token")["text"].tolist()
    first = len(texts) - n_tokens  # burn-in tokens have no column
    return {
        "id": seq_id,
        "n_layers": n_layers,
        "n_tokens": n_tokens,
        "first": first,
        "tokens": [visible(text) for text in texts[first:]],
    }
