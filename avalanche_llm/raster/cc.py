"""Connected components of rasters: which occupied sites form one avalanche (SCIENCE section 4; spec 09).

Sites are (layer, token) of one sequence. ADJ_4N joins sites one step apart along one of the two axes,
ADJ_8N also those one step apart along both. All sequences are labelled in one pass of
`scipy.ndimage.label`; the structure is empty along the sequence axis, so no component spans two sequences.
Edges are open: the last token is no neighbour of the first.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from scipy import ndimage

from avalanche_llm.errors import SchemaError


def _within_sequence(connectivity: int) -> Bool[np.ndarray, "3 3 3"]:
    structure = np.zeros((3, 3, 3), dtype=np.bool_)
    structure[1] = ndimage.generate_binary_structure(2, connectivity)
    structure.setflags(write=False)
    return structure


ADJACENCY: Final[Mapping[str, Bool[np.ndarray, "3 3 3"]]] = MappingProxyType(
    {"ADJ_4N": _within_sequence(1), "ADJ_8N": _within_sequence(2)}
)
"""Neighbourhoods on [seq, layer, token], by adjacency id."""


class Components(NamedTuple):
    """labels: 0 where empty, else 1..n. Numbered by their first site in C order, so sequence by sequence."""

    labels: Int32[np.ndarray, "seq layer token"]
    n: int


def adjacency(adjacency_id: str) -> Bool[np.ndarray, "3 3 3"]:
    """The neighbourhood of that id. Raises SchemaError, naming the known ids, for another one."""
    if adjacency_id not in ADJACENCY:
        raise SchemaError(f"unknown adjacency {adjacency_id!r}; known are {', '.join(ADJACENCY)}")
    return ADJACENCY[adjacency_id]


def label_components(occupancy: UInt8[np.ndarray, "seq layer token"], adjacency_id: str) -> Components:
    """Label the connected occupied sites of every sequence.

    Raises SchemaError for an unknown adjacency or an array without the three axes.
    """
    structure = adjacency(adjacency_id)
    if occupancy.ndim != 3:
        raise SchemaError(f"labels need [seq, layer, token], got {occupancy.ndim} axes: pass one condition")
    labels = np.empty(occupancy.shape, dtype=np.int32)
    return Components(labels, ndimage.label(occupancy, structure=structure, output=labels))
