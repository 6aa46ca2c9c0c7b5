"""Branching of every surrogate beside the observed held-out raster: the tidy rows behind F10."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from avalanche_llm.analysis.conditions import Condition
from avalanche_llm.metrics.branching import branching, branching_sums

OBSERVED: Final = "NULL_NONE"
"""The null id of what was measured itself."""


def null_rows(
    conditions: Sequence[Condition], observed: np.ndarray, null_ids: np.ndarray, cond_ids: np.ndarray, surrogates: np.ndarray
) -> Iterator[dict[str, Any]]:
    """One row a condition and raster: null_id, the condition, b_tot, and delta_b_tot = observed - null (0 for the observed).

    observed: X [cond, seq, layer, token]; surrogates: X [row, seq, layer, token] with its null_id and cond_id a row.
    """
    of_condition = dict(
        zip((condition.cond_id for condition in conditions), branching(branching_sums(observed)).b_tot, strict=True)
    )
    by_id = {condition.cond_id: condition for condition in conditions}
    for condition in conditions:
        yield {"null_id": OBSERVED, **condition.columns(), "b_tot": float(of_condition[condition.cond_id]), "delta_b_tot": 0.0}
    values = branching(branching_sums(surrogates)).b_tot
    for null_id, cond_id, b_tot in zip(null_ids.tolist(), cond_ids.tolist(), values, strict=True):
        difference = float(of_condition[cond_id] - b_tot)
        yield {"null_id": null_id, **by_id[cond_id].columns(), "b_tot": float(b_tot), "delta_b_tot": difference}
