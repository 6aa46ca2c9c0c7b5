"""From a complete run directory to what Dagster records of it: one result an artifact, previews, numbers, checks."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow.parquet as pq

from avalanche_dagster.checks import checks_of
from avalanche_dagster.specs import asset_key
from avalanche_llm.io.artifacts import index_by_path
from avalanche_llm.io.files import read_frame
from avalanche_llm.io.store import Upstream
from avalanche_llm.plotting.tables import markdown_head
from avalanche_llm.stages import Stage

PREVIEW_ROWS = 8
KEY_NUMBERS = ("b_tot", "delta_b_tot", "achieved_rate_max_rel_err", "occupancy")


def results_of(stage: Stage, run: Upstream) -> Iterator[dg.MaterializeResult[Any]]:
    """Every artifact that a complete run holds as a materialization, its content hash as data version."""
    for name in held(stage, run):
        metadata = metadata_of(stage, run, name)
        yield dg.MaterializeResult(
            asset_key=asset_key(stage, name),
            data_version=dg.DataVersion(metadata["sha256"]),
            metadata=metadata,
            check_results=checks_of(stage, name, run),
        )


def held(stage: Stage, run: Upstream) -> list[str]:
    """The artifacts of a stage that a run holds, in the order of the stage table."""
    return [name for name in stage.artifacts if name in run.record["artifacts"]]


def metadata_of(stage: Stage, run: Upstream, name: str) -> dict[str, Any]:
    """What a person wants to see of one artifact: run, path, hash, size, and a preview of its content."""
    relative = stage.artifacts[name]
    entry = index_by_path(run.record)[relative]
    return {
        "run_id": run.run_id,
        "artifact_path": dg.MetadataValue.path(str((run.folder / relative).resolve())),
        "sha256": entry["sha256"],
        "bytes": entry["bytes"],
        **_preview(run.folder / relative),
    }


def _preview(path: Path) -> dict[str, Any]:
    if path.suffix == ".parquet":
        return _table_preview(path)
    if path.suffix == ".png":
        image = base64.b64encode(path.read_bytes()).decode()
        return {"figure": dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{image})")}
    if path.suffix == ".json":
        return {"content": dg.MetadataValue.json(json.loads(path.read_bytes()))}
    return {}


def _table_preview(path: Path) -> dict[str, Any]:
    with pq.ParquetFile(path) as table:
        names, n_rows = table.schema_arrow.names, table.metadata.num_rows
        head = next(table.iter_batches(batch_size=PREVIEW_ROWS), None)
    metadata: dict[str, Any] = {"dagster/row_count": n_rows}
    if head is not None:
        metadata["head"] = dg.MetadataValue.md(markdown_head(_varying_first(head.to_pandas()), PREVIEW_ROWS))
    if {"g", "b_tot"} <= set(names):
        numbers = [name for name in KEY_NUMBERS if name in names]
        rows = read_frame(path, ["g", *numbers])
        at_one = rows[rows["g"] == 1.0]
        metadata |= {f"{name}_at_g1": float(at_one[name].mean()) for name in numbers if len(at_one)}
    return metadata


def _varying_first(head: pd.DataFrame) -> pd.DataFrame:
    """The columns whose values differ between the rows, then those that only repeat: the page shows the left of a wide table."""
    varies = {name: head[name].astype(str).nunique() > 1 for name in head}
    return head[sorted(head, key=lambda name: not varies[name])]
