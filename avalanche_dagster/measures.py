"""What each asset check measures: the numbers that a phase wrote down, against the tolerances of the run's own config.

The arithmetic of a verdict is the library's; here an artifact is read and counted.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avalanche_llm.events.rate_match import Thresholds
from avalanche_llm.io.files import read_frame, read_rows
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.phases.job import settings_of
from avalanche_llm.plotting.schemas import SCHEMAS


@dataclass(frozen=True)
class Measured:
    """A verdict with its numbers. `serious` is False where nothing could be measured: a warning then, which blocks nothing."""

    passed: bool
    numbers: Mapping[str, Any] = field(default_factory=dict)
    serious: bool = True


Measure = Callable[[Upstream, str], Measured]
"""From a complete run and the name of an artifact to the verdict. Raises MissingArtifact where the artifact does not hold."""


def hash_holds(run: Upstream, name: str) -> Measured:
    """Whether the file has its recorded sha256 (MissingArtifact otherwise)."""
    return Measured(True, {"bytes": run.artifact(name).stat().st_size})


def rate_match(kind: Literal["abs", "rel"]) -> Measure:
    """Whether every threshold is within its absolute or its relative tolerance."""

    def measure(run: Upstream, name: str) -> Measured:
        rows = read_frame(run.artifact(name))
        found, events, r_star = Thresholds.from_rows(rows), settings_of(run).events, rows["r_star"].to_numpy()
        within = found.within_abs(r_star, events) if kind == "abs" else found.within_rel(r_star, events)
        numbers = {
            "largest_error": float(rows[f"{kind}_err"].max()),
            "tolerance": getattr(events, f"rate_match_tol_{kind}"),
            "outside": int((~within).sum()),
            "thresholds": len(rows),
            "most_ties": int(rows["n_ties"].max()),
        }
        return Measured(bool(within.all()), numbers)

    return measure


def hook_match(run: Upstream, name: str) -> Measured:
    """Whether u as read and as computed agree, as phase 1 found."""
    run.artifact(name)
    layers, largest = (run.record["model"].get(f"hook_{what}") for what in ("layers_compared", "largest_difference"))
    if not layers or largest is None:
        return Measured(False, {"problem": "not measured: the hooks name no up and act, or an older release"}, serious=False)
    tolerance = settings_of(run).events.u_hook_match_tol_abs
    numbers = {"largest_difference": largest, "tolerance": tolerance, "layers_compared": layers}
    return Measured(largest <= tolerance, numbers)


def no_nan(run: Upstream, name: str) -> Measured:
    """How many numbers that must be there are missing, NaN or infinite."""
    values = bad = 0
    for column in _numbers_of(run.artifact(name), name):
        finite = pc.is_finite(column)
        values += len(column)
        bad += len(column) - (pc.sum(finite).as_py() or 0)
    return Measured(bad == 0, {"values": values, "not_finite": bad})


def _numbers_of(path: Path, name: str) -> Iterator[pa.Array | pa.ChunkedArray]:
    """The float columns of an artifact a piece at a time; of a result table those that may not be empty."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            yield from (pa.array(arrays[key].ravel()) for key in arrays.files if arrays[key].dtype.kind == "f")
        return
    schema = SCHEMAS.get(name.rsplit("_", 1)[0])
    may_be_empty = {column.name for column in schema.columns if column.nullable} if schema else set()
    with pq.ParquetFile(path) as file:
        names = [entry.name for entry in file.schema_arrow if pa.types.is_floating(entry.type) and entry.name not in may_be_empty]
        for batch in file.iter_batches(columns=names):
            yield from batch.columns


def b_tot_defined(run: Upstream, name: str) -> Measured:
    """How many rasters have no total branching."""
    rows = read_frame(run.artifact(name), ["b_tot"])
    silent = int(rows["b_tot"].isna().sum())
    return Measured(silent == 0, {"silent_rasters": silent, "rows": len(rows)})


def gstar_bracketed(run: Upstream, name: str) -> Measured:
    """How many cells have each status."""
    selections = read_rows(run.artifact(name), "selections", "status")
    counts = {status: sum(row["status"] == status for row in selections) for status in ("bracketed", "grid_edge", "no_crossing")}
    return Measured(counts["bracketed"] == len(selections), counts)


def slices_disjoint(run: Upstream, name: str) -> Measured:
    """How many windows the calibration and the raster slice share."""
    run.artifact(name)
    dependencies = {dependency["phase_id"]: dependency["run_id"] for dependency in run.record["dependencies"]}
    first = RunStore(run.folder.parent).get(dependencies["PHASE1_CALIBRATE"])
    calibration = set(first.record["dataset"]["A_CALIBRATION"]["chunk_index"])
    rasters = set(run.record["dataset"]["A_RASTERS"]["chunk_index"])
    shared = len(calibration & rasters)
    return Measured(shared == 0, {"calibration": len(calibration), "rasters": len(rasters), "in_both": shared})


def marginals_exact(run: Upstream, name: str) -> Measured:
    """How many surrogates break a marginal that they promise to keep."""
    rows = read_frame(run.artifact(name), ["marginals_exact", "cells"])
    broken = int((~rows["marginals_exact"]).sum())
    return Measured(broken == 0, {"surrogates": len(rows), "cells": int(rows["cells"].sum()), "broken": broken})


def rows_cover_grid(run: Upstream, name: str) -> Measured:
    """Against the grid of the run's config: a gain that is missing altogether would not be missed by the table itself."""
    settings = settings_of(run)
    axes = [settings.events.spike_defs, settings.events.target_rates, settings.gains.grid]
    wanted = pd.MultiIndex.from_product(axes)
    found = pd.MultiIndex.from_frame(read_frame(run.artifact(name), ["spike_def_id", "target_rate", "g"]))
    numbers = {
        "rows": len(found),
        "expected": len(wanted),
        "missing": len(wanted.difference(found)),
        "unexpected": len(found.difference(wanted)),
        "twice": int(found.duplicated().sum()),
    }
    return Measured(not any(numbers[kind] for kind in ("missing", "unexpected", "twice")), numbers)


def signatures_agree(run: Upstream, name: str) -> Measured:
    """In how many cells susceptibility peaks near g*."""
    verdicts = read_rows(run.artifact(name), "verdicts", "agrees")
    agree = sum(verdict["agrees"] for verdict in verdicts)
    return Measured(agree == len(verdicts), {"agree": agree, "cells": len(verdicts)})


def pairs_complete(run: Upstream, name: str) -> Measured:
    """How many cells lack g = 1 or g*."""
    settings = settings_of(run)
    wanted = len(settings.events.spike_defs) * len(settings.events.target_rates)
    rows = read_frame(run.artifact(name), ["spike_def_id", "target_rate", "g_condition"])
    pairs = rows.groupby(["spike_def_id", "target_rate"])["g_condition"].agg(lambda found: sorted(found) == ["g1", "gstar"])
    broken = int((~pairs).sum())
    return Measured(len(pairs) == wanted and not broken, {"cells": len(pairs), "expected": wanted, "broken": broken})


def claims_supported(run: Upstream, name: str) -> Measured:
    """How many claims have each verdict."""
    verdicts = [claim["verdict"] for claim in read_rows(run.artifact(name), "claims", "verdict")]
    counts = {verdict.replace(" ", "_"): verdicts.count(verdict) for verdict in sorted(set(verdicts))}
    return Measured(set(verdicts) == {"supported"}, counts)
