"""Density of a raster: what it explains of branching and components by itself (SCIENCE section 4; spec 09).

Independent sites of probability p have b_tot near 2p and, past the site percolation threshold p_c of the
square lattice, one component that spans the raster. These numbers stand beside every branching number:

    occupancy          p = occupied sites / sites
    over_threshold     p / p_c, p_c = 0.592746 (ADJ_4N) or 0.407254 (ADJ_8N)
    largest_share      sum over sequences of the sites of its largest component / occupied sites
    border_share       components that touch the border / components
    token0_share       events of the raster's first token / events

All pooled over sequences and dimensionless. Thresholds: Newman and Ziff 2000; p_c of ADJ_8N is 1 - p_c of
ADJ_4N, since a cluster of 4-neighbours is stopped exactly by a path of empty 8-neighbours (Sykes and Essam
1964).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import UInt, UInt8

from avalanche_llm.errors import SchemaError
from avalanche_llm.metrics.avalanches import AvalancheTable
from avalanche_llm.metrics.branching import check_occupancy
from avalanche_llm.raster.cc import adjacency

PERCOLATION_THRESHOLD: Final[Mapping[str, float]] = MappingProxyType({"ADJ_4N": 0.592746, "ADJ_8N": 0.407254})
"""Site percolation thresholds of the square lattice, by adjacency id."""


@dataclass(frozen=True)
class Density:
    """The numbers of the module docstring. For a silent raster 0, 0 and NaN three times."""

    occupancy: float
    over_threshold: float
    largest_share: float
    border_share: float
    token0_share: float


def density(
    occupancy: UInt8[np.ndarray, "seq layer token"],
    counts: UInt[np.ndarray, "seq layer token"],
    table: AvalancheTable,
) -> Density:
    """Density of one condition, for the adjacency of `table`.

    Raises SchemaError if X is no raster or the table's sites are not those of X.
    """
    check_occupancy(occupancy)
    adjacency(table.adjacency_id)
    occupied, covered = int(occupancy.sum(dtype=np.int64)), int(table.n_sites.sum(dtype=np.int64))
    if covered != occupied:
        raise SchemaError(f"avalanches of {covered} sites are not from a raster with {occupied}: pass theirs")
    first_of_sequence = np.flatnonzero(np.diff(table.seq_id, prepend=-1))  # the table is sorted by sequence
    largest = int(np.maximum.reduceat(table.n_sites, first_of_sequence).sum(dtype=np.int64))
    share = _share(occupied, occupancy.size)
    return Density(
        occupancy=share,
        over_threshold=share / PERCOLATION_THRESHOLD[table.adjacency_id],
        largest_share=_share(largest, occupied),
        border_share=_share(int(np.count_nonzero(table.touches_border)), len(table)),
        token0_share=token0_share(counts),
    )


def token0_share(counts: UInt[np.ndarray, "seq layer token"]) -> float:
    """Events of the raster's first token over all events; NaN for a silent raster."""
    return _share(int(counts[..., 0].sum(dtype=np.int64)), int(counts.sum(dtype=np.int64)))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
