"""What a number must do for a claim to hold in a cell: the rules themselves, for the claims and for their false positives.

Each takes columns of a table, or arrays, and answers row by row. A value that is not available (NaN) satisfies no rule.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

Values = pd.Series | Float64[np.ndarray, " row"]


def above(low: Values, bound: Values | float = 0.0) -> Bool[np.ndarray, " row"]:
    """The lower end of an interval lies above the bound: an excess, an accuracy above chance, a gain of it."""
    return np.asarray(low, dtype=np.float64) > np.asarray(bound, dtype=np.float64)


def no_worse(high: Values) -> Bool[np.ndarray, " row"]:
    """The upper end of the interval of a loss is zero or below."""
    return np.asarray(high, dtype=np.float64) <= 0.0


def preferred(ratio: Values, p: Values, level: float) -> Bool[np.ndarray, " row"]:
    """The log-likelihood ratio favours the first of two laws, and Vuong's p says that it is no chance."""
    return (np.asarray(ratio, dtype=np.float64) > 0.0) & (np.asarray(p, dtype=np.float64) < level)
