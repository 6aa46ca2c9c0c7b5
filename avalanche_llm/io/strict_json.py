"""JSON from a file that somebody else may have written: one meaning or none.

python's own reader takes the last of two equal keys, NaN, numbers beyond a float, and halves of surrogate pairs, none of which
can be written back as JSON in UTF-8. Here each is a ValueError, as is nesting deeper than anything that we write.
"""

import json
import math
from typing import Any, Final

MAX_DEPTH: Final = 64
MAX_WHOLE: Final = 2**63


def parse_json(data: bytes) -> Any:
    """The one value in `data`, UTF-8. Raises ValueError saying what is wrong."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from error
    _check(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one mapping")
    return read


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is beyond a float")
    return number


def _check(value: Any) -> None:
    """Depth, whole numbers that fit 64 bits, and text that UTF-8 can hold; without recursion."""
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(item, dict):
            waiting += [(inner, depth + 1) for pair in item.items() for inner in pair]
        elif isinstance(item, list):
            waiting += [(inner, depth + 1) for inner in item]
        elif isinstance(item, str):
            if not item.isascii():
                item.encode("utf-8")  # UnicodeEncodeError, a ValueError, for half a surrogate pair
        elif type(item) is int and abs(item) >= MAX_WHOLE:
            raise ValueError("a whole number does not fit 64 bits")
