"""The sparse activations as a table: one row a candidate event, enough to re-threshold without the model (spec 06).

Columns: gain_id (place of g in the grid), g, seq_id, layer, token, unit, z (sigma). Rows in that order.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avalanche_llm.errors import MissingArtifact
from avalanche_llm.events.collect import LayerTail
from avalanche_llm.io.files import read_parquet

SCHEMA: Final = pa.schema(
    [
        ("gain_id", pa.int16()),
        ("g", pa.float64()),
        ("seq_id", pa.int32()),
        ("layer", pa.int16()),
        ("token", pa.int32()),
        ("unit", pa.int32()),
        ("z", pa.float32()),
    ]
)


def tails_to_table(tails: Sequence[LayerTail], *, gain_id: int, gain: float) -> pa.Table:
    """The candidates of one pass as rows sorted by sequence, layer, token, unit."""
    layer = np.repeat(np.arange(len(tails)), [len(tail) for tail in tails])
    seq, token, unit, z = (np.concatenate([getattr(tail, name) for tail in tails]) for name in ("seq", "token", "unit", "z"))
    order = np.argsort(seq, kind="stable")  # the rest is in order: tails are, and layers follow each other
    columns = [np.full(len(z), gain_id), np.full(len(z), gain), seq[order], layer[order], token[order], unit[order], z[order]]
    return pa.table([pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def table_to_tails(table: pa.Table, *, n_layers: int) -> list[LayerTail]:
    """The inverse of `tails_to_table` for the rows of one gain. Raises MissingArtifact for a layer that the model has not."""
    layer, seq, token, unit, z = (table[name].to_numpy() for name in ("layer", "seq_id", "token", "unit", "z"))
    if len(layer) and int(layer.max()) >= n_layers:
        raise MissingArtifact(f"an event lies in layer {int(layer.max())}, the model has {n_layers}; rebuild its run")
    order = np.argsort(layer, kind="stable")
    starts = np.searchsorted(layer[order], np.arange(n_layers + 1))
    return [
        LayerTail(seq[rows], token[rows], unit[rows], z[rows])
        for rows in (order[low:high] for low, high in pairwise(starts))
    ]


def read_events(path: Path) -> pa.Table:
    """The table of an events file. Raises MissingArtifact if it is no such table, or a place in it cannot be one."""
    table = read_parquet(path, SCHEMA)
    for name in SCHEMA.names:
        least = pc.min(table[name]).as_py() if table.num_rows else 0
        if table[name].null_count or (name != "z" and least < 0):
            raise MissingArtifact(f"{path}: column {name} holds nulls or negative places; rebuild its run")
    return table


def rows_of_gain(table: pa.Table, gain_id: int) -> pa.Table:
    """The rows of one gain."""
    return table.filter(pc.equal(table["gain_id"], pa.scalar(gain_id, pa.int16())))
