"""Avalanche-like components of a raster and what each of them measures (SCIENCE section 4; spec 09).

An avalanche is a connected component of X[seq, layer, token] within one sequence. Of each:

    size S          events, sum of A over its sites
    n_sites         occupied sites
    span_tokens D   t_max - t_min + 1, the duration, in tokens
    span_layers H   l_max - l_min + 1, in layers

`touches_border` marks a component with a site in the first or last token or layer: the raster may have cut
it, so its size and spans are lower bounds. Only occupied sites are touched: one stable sort by label, then
sums and extremes of runs.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt, UInt8

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.branching import check_occupancy
from avalanche_llm.raster.cc import label_components

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class AvalancheTable:
    """One entry a component, sorted by sequence. seq_id, t_* and l_* index the raster's axes from 0."""

    adjacency_id: str
    seq_id: Int32[np.ndarray, " avalanche"]
    size: Int64[np.ndarray, " avalanche"]
    n_sites: Int32[np.ndarray, " avalanche"]
    span_tokens: Int32[np.ndarray, " avalanche"]
    span_layers: Int32[np.ndarray, " avalanche"]
    t_min: Int32[np.ndarray, " avalanche"]
    t_max: Int32[np.ndarray, " avalanche"]
    l_min: Int32[np.ndarray, " avalanche"]
    l_max: Int32[np.ndarray, " avalanche"]
    touches_border: Bool[np.ndarray, " avalanche"]

    def __len__(self) -> int:
        return len(self.seq_id)

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays by name, in the order of avalanches.parquet; adjacency_id, one value, is left out."""
        return {field.name: getattr(self, field.name) for field in fields(self)[1:]}

    def to_frame(self) -> "pd.DataFrame":
        """A row a component."""
        import pandas as pd

        return pd.DataFrame(self.columns())


def avalanches(
    occupancy: UInt8[np.ndarray, "seq layer token"],
    counts: UInt[np.ndarray, "seq layer token"],
    *,
    adjacency_id: str,
    max_per_sequence: int,
) -> AvalancheTable:
    """The components of one condition. X and A as stored; for a surrogate without counts pass X twice.

    A silent raster gives an empty table of the same dtypes. Raises SchemaError if X is no raster, if A is not
    positive exactly where X is 1, for an unknown adjacency, or if a sequence has more than `max_per_sequence`
    components.
    """
    check_occupancy(occupancy)
    if counts.shape != occupancy.shape or not np.array_equal(counts > 0, occupancy > 0):
        raise SchemaError("counts must be positive exactly where X is 1: make X with raster.build.occupancy")
    labels, n = label_components(occupancy, adjacency_id)
    n_seq, n_layers, n_tokens = occupancy.shape

    site = np.flatnonzero(labels)
    component = labels.ravel()[site] - 1
    n_sites = np.bincount(component, minlength=n)
    site = site[np.argsort(component, kind="stable")]  # each component a run, its sites still in C order
    start = np.cumsum(n_sites) - n_sites
    token = site % n_tokens
    first, last = site[start], site[start + n_sites - 1]
    seq_id = first // (n_layers * n_tokens)
    l_min, l_max = (end // n_tokens % n_layers for end in (first, last))  # in C order the layer never falls
    t_min, t_max = np.minimum.reduceat(token, start), np.maximum.reduceat(token, start)
    size = np.add.reduceat(counts.ravel()[site], start, dtype=np.int64)

    _check_number(seq_id, n_seq, max_per_sequence)
    return AvalancheTable(
        adjacency_id=adjacency_id,
        seq_id=seq_id.astype(np.int32),
        size=size,
        n_sites=n_sites.astype(np.int32),
        span_tokens=(t_max - t_min + 1).astype(np.int32),
        span_layers=(l_max - l_min + 1).astype(np.int32),
        t_min=t_min.astype(np.int32),
        t_max=t_max.astype(np.int32),
        l_min=l_min.astype(np.int32),
        l_max=l_max.astype(np.int32),
        touches_border=(t_min == 0) | (t_max == n_tokens - 1) | (l_min == 0) | (l_max == n_layers - 1),
    )


def _check_number(seq_id: Int64[np.ndarray, " avalanche"], n_seq: int, max_per_sequence: int) -> None:
    per_sequence = np.bincount(seq_id, minlength=n_seq)
    if per_sequence.max(initial=0) > max_per_sequence:
        seq = int(np.argmax(per_sequence > max_per_sequence))
        raise SchemaError(
            f"sequence {seq} has {per_sequence[seq]} components, at most {max_per_sequence} are allowed: "
            "lower events.target_rates or raise statistics.cc_max_components_per_seq"
        )
