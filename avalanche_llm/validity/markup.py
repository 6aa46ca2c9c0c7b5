"""Shares, numbers and tables as the report writes them; an empty cell is a value that does not exist."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd

from avalanche_llm.plotting.tables import markdown_head
from avalanche_llm.raster.nulls import CIRCULAR_SHIFT, COMMON_SHIFT, MARGIN_SWAP, PERMUTATION
from avalanche_llm.validity.shares import Share

NULL_NAMES: Final[Mapping[str, str]] = {
    PERMUTATION: "permutation",
    CIRCULAR_SHIFT: "circular shift",
    MARGIN_SWAP: "margin swap",
    COMMON_SHIFT: "common shift",
}
_ROUNDING: Final = 1e-12
"""A truth that is 0 comes out of its sums as some 1e-16."""


def percent(share: Share) -> str:
    """A share in per cent, without the sign."""
    return f"{100.0 * share.value:.1f}"


def with_interval(share: Share | None) -> str:
    """A share in per cent with its binomial interval."""
    if share is None:
        return ""
    return f"{percent(share)} [{100.0 * share.low:.1f}, {100.0 * share.high:.1f}]"


def number(value: float) -> str:
    """Four significant digits."""
    if np.isnan(value):
        return ""
    return f"{value if abs(value) > _ROUNDING else 0.0:.4g}"


def estimate(mean: float, sd: float) -> str:
    """The mean over repetitions, their standard deviation in brackets."""
    return "" if np.isnan(mean) else f"{number(mean)} ({sd:.2g})"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A whole Markdown table."""
    frame = pd.DataFrame(list(rows), columns=list(heads))
    return markdown_head(frame, n=len(frame))
