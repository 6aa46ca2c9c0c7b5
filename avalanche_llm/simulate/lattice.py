"""Sites without any interaction: independent lattice, site percolation, Poisson counts (SCIENCE section 9).

    independent lattice   P(X = 1) = p[layer]
    site percolation      the same with p = p_c of an adjacency, where clusters of every size exist by density alone
    Poisson counts        A ~ Poisson(rate), X = A > 0 with p = 1 - exp(-rate); chi = 1

Nothing here propagates: excess branching is 0, exactly. Percolation shows what clusters of that density look like
without dynamics: the number of clusters of s sites falls as s^-187/91 (Stauffer and Aharony 1994, table 2).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from avalanche_llm.metrics.density import PERCOLATION_THRESHOLD
from avalanche_llm.simulate.truth import RasterTruth, Shape, SimulatedRaster, as_counts, raster_truth

PERCOLATION_SIZE_EXPONENT: Final = 187 / 91
"""Exponent of the number of clusters by sites at p_c."""


def independent_lattice(shape: Shape, p: float | Sequence[float], *, seed: int) -> SimulatedRaster:
    """Independent sites, each with at most one event; p for all layers or one a layer."""
    of_layer = np.broadcast_to(np.asarray(p, dtype=np.float64), (shape.n_layers,))
    rng = np.random.Generator(np.random.PCG64(seed))
    number = rng.random((shape.n_seq, shape.n_layers, shape.n_tokens), dtype=np.float32)
    counts = (number < of_layer[:, None].astype(np.float32)).astype(np.uint16)
    chi = float((of_layer * (1.0 - of_layer)).sum() / of_layer.sum())
    return SimulatedRaster(counts, _independent(of_layer, shape, chi))


def site_percolation(shape: Shape, adjacency_id: str, *, seed: int) -> SimulatedRaster:
    """The independent lattice at the percolation threshold of that adjacency."""
    return independent_lattice(shape, PERCOLATION_THRESHOLD[adjacency_id], seed=seed)


def poisson_counts(shape: Shape, rate: float, *, seed: int) -> SimulatedRaster:
    """Independent Poisson counts, `rate` events a site."""
    rng = np.random.Generator(np.random.PCG64(seed))
    counts = as_counts(rng.poisson(rate, size=(shape.n_seq, shape.n_layers, shape.n_tokens)))
    p = np.full(shape.n_layers, -np.expm1(-rate))
    return SimulatedRaster(counts, _independent(p, shape, 1.0))


def _independent(p: np.ndarray, shape: Shape, chi: float) -> RasterTruth:
    square = (shape.n_tokens, shape.n_tokens)
    return raster_truth(
        np.broadcast_to(p[:, None], (shape.n_layers, shape.n_tokens)),
        np.broadcast_to((p * p)[:, None, None], (shape.n_layers, *square)),
        np.broadcast_to((p[:-1] * p[1:])[:, None, None], (shape.n_layers - 1, *square)),
        chi=chi,
        m=float("nan"),
        propagates=False,
    )
