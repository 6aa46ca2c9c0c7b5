"""What counts as a spike: v > tau, strictly, with v = z (one-sided) or v = |z| (two-sided) (spec 06)."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final

from avalanche_llm.settings import SpikeDef


def _identity(z: Any) -> Any:
    return z


MAGNITUDE: Final = MappingProxyType[SpikeDef, Callable[[Any], Any]](
    {"SPIKE_ONE_SIDED_POS": _identity, "SPIKE_TWO_SIDED_ABS": abs}
)


def magnitude(z: Any, spike_def: SpikeDef) -> Any:
    """v of an array or tensor of z, of the same kind and shape."""
    return MAGNITUDE[spike_def](z)
