"""What the studies take over from the registry, so that they measure as the pipeline does (spec 00)."""

from dataclasses import dataclass

from avalanche_llm.canon import Canon


@dataclass(frozen=True)
class Limits:
    """Bootstrap, the durations of the crackling fit (tokens) and its gate, and the limits of the tail fits."""

    bootstrap_reps: int
    bootstrap_seed: int
    chi_eps: float
    d_min: int
    d_max: int
    min_points: int
    ci_width_max: float
    xmin_percentile: float
    min_tail: int

    @classmethod
    def of(cls, canon: Canon) -> "Limits":
        """Those of the registry."""
        return cls(
            bootstrap_reps=canon["CONST.BOOTSTRAP_REPS"],
            bootstrap_seed=canon["CONST.BOOTSTRAP_SEED"],
            chi_eps=canon["CONST.CHI_EPS"],
            d_min=canon["CONST.CRACKLING_D_RANGE_MIN"],
            d_max=canon["CONST.CRACKLING_D_RANGE_MAX"],
            min_points=canon["CONST.CRACKLING_MIN_POINTS"],
            ci_width_max=canon["CONST.BOOTSTRAP_CI_WIDTH_MAX"],
            xmin_percentile=canon["CONST.TAIL_FIT_XMIN_PERCENTILE"],
            min_tail=canon["CONST.TAIL_FIT_MIN_TAIL_SAMPLES"],
        )
