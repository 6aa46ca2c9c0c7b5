"""How fast this machine's cores run a decoder, from a fraction of a second of matrix products in float32."""

from functools import lru_cache
from time import perf_counter
from typing import Final

import numpy as np

SIDE: Final = 1024
SECONDS: Final = 0.15
SHARE_OF_A_PASS: Final = 0.86
"""A forward pass reaches this share of the rate of square products; 0.83 to 0.89 on SmolLM2-135M with two cores."""


@lru_cache(maxsize=1)
def cpu_tflops() -> float:
    """Sustained FLOPs of a forward pass a second, in 10^12, as this process may use the cores now."""
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, SIDE, SIDE), dtype=np.float32)
    product = left @ right  # the first one starts the threads
    began, products = perf_counter(), 0
    while (spent := perf_counter() - began) < SECONDS:
        np.matmul(left, right, out=product)
        products += 1
    return SHARE_OF_A_PASS * products * 2 * SIDE**3 / spent / 1e12
