"""The simulated processes of the validity report, as data: what each is, and which null hypothesis is true of it.

A null holds where the process itself is invariant under what the surrogate does:

    permutation   tokens of a layer are exchangeable and layers are unrelated, given the counts of a layer
    shift         layers are unrelated; each may have a memory along tokens
    swap          given the counts of every layer and of every token, all rasters are equally likely
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from avalanche_llm.raster.nulls import null_seed
from avalanche_llm.simulate.cascade import branching_process
from avalanche_llm.simulate.directed import directed_percolation
from avalanche_llm.simulate.drive import latent_drive
from avalanche_llm.simulate.lattice import independent_lattice, poisson_counts, site_percolation
from avalanche_llm.simulate.truth import Shape, SimulatedRaster

SEED: Final = 20240
LAYERS: Final = 8
TOKENS: Final = 64
_BY_LAYER: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.1, 0.05)
_drive = partial(latent_drive, rate=0.3, gamma_shape=1.0)


@dataclass(frozen=True)
class Scenario:
    """A process: `draw(shape, seed=...)` simulates it, the flags say which null is true of it."""

    name: str
    text: str
    draw: Callable[..., SimulatedRaster]
    permutation_holds: bool = False
    shift_holds: bool = False
    swap_holds: bool = False


_UNRELATED: Final = {"permutation_holds": True, "shift_holds": True, "swap_holds": True}

SCENARIOS: Final = (
    Scenario("lattice", "independent sites, p = 0.2", partial(independent_lattice, p=0.2), **_UNRELATED),
    Scenario("by layer", "independent sites, p 0.02 to 0.4 by layer", partial(independent_lattice, p=_BY_LAYER), **_UNRELATED),
    Scenario("sparse", "independent sites, p = 0.01", partial(independent_lattice, p=0.01), **_UNRELATED),
    Scenario(
        "percolation", "independent sites at p_c of ADJ_4N", partial(site_percolation, adjacency_id="ADJ_4N"), **_UNRELATED
    ),
    Scenario("Poisson", "independent Poisson counts, 0.3 events a site", partial(poisson_counts, rate=0.3), **_UNRELATED),
    Scenario(
        "drive, sequence",
        "a common drive, constant within a sequence: sequences differ in rate",
        partial(_drive, persistence=1.0),
        **_UNRELATED,
    ),
    Scenario(
        "drive, token", "a common drive, drawn anew at every token", partial(_drive, persistence=0.0), swap_holds=True
    ),
    Scenario("drive, smooth", "a common drive, kept with probability 0.8", partial(_drive, persistence=0.8), swap_holds=True),
    Scenario("drive, banded", "as smooth, each half of the layers with its own", partial(_drive, persistence=0.8, bands=2)),
    Scenario(
        "branching",
        "unrelated layers, each a branching process of m = 0.9",
        partial(branching_process, m=0.9, immigration=0.02, seen=1.0),
        shift_holds=True,
    ),
    Scenario(
        "directed",
        "directed percolation along tokens and into the next layer, p_dp = 0.5",
        partial(directed_percolation, p_dp=0.5, source=0.02, initial=0.2),
    ),
)


def scenario(name: str) -> Scenario:
    """The scenario of that name."""
    return next(one for one in SCENARIOS if one.name == name)


def seed_of(study: str, name: str, part: int = 0) -> int:
    """The seed of one part of a study, from its names alone."""
    return null_seed(SEED, study, name, part, 0)


def draw_raster(study: str, one: Scenario, shape: Shape, part: int = 0) -> SimulatedRaster:
    """Simulate a part of a study; parts are independent of each other."""
    return one.draw(shape, seed=seed_of(study, one.name, part))
