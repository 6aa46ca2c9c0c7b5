"""A yaml file that somebody else may have written, read as plain values: mappings with distinct text keys, lists, and scalars.

yaml's aliases let a few lines stand for more values than any memory holds, and a value can contain itself. So the nodes are
counted, aliases written out, before a single value is made. Equal keys are an error: yaml would silently take the last (spec 13).
"""

from pathlib import Path
from typing import Any, Final

import yaml

from avalanche_llm.errors import ConfigError
from avalanche_llm.suggest import nearest

MAX_BYTES: Final = 2**18
MAX_VALUES: Final = 20_000
MAX_DEPTH: Final = 32
MAX_WHOLE: Final = 2**63


def read_yaml(path: Path) -> dict[str, Any]:
    """One yaml mapping. Raises ConfigError, in one line, for a missing, unreadable, malformed or hostile file."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe or device may never end
            raise ConfigError(f"config file {path} is no regular file; write the config to one")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"config file {path} is larger than {MAX_BYTES} bytes; it is not a config")
        parsed = parse_yaml(data)
    except FileNotFoundError as error:
        near = nearest(path.name, [file.name for file in path.parent.glob("*.y*ml")])
        raise ConfigError(f"config file {path} does not exist{near}: name one with --config") from error
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no text, a date or number that cannot be
        raise ConfigError(f"config file {path} is not valid yaml: {' '.join(str(error).split())}") from error
    if not isinstance(parsed, dict):
        raise ConfigError(f"config file {path} must hold one mapping, found {type(parsed).__name__}")
    for key in parsed:
        if not isinstance(key, str):
            raise ConfigError(f"config file {path}: keys must be plain words, found {key!r}")
    return parsed


def parse_yaml(data: bytes) -> Any:
    """The one document in `data`. Raises YAMLError, ValueError or RecursionError for what is malformed or beyond the limits."""
    loader = yaml.SafeLoader(data)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _measure(root, {}, 0)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def check_scalar(value: Any, where: str) -> None:
    """Raise ConfigError for a value that no config needs: a date or bytes, a whole number beyond 64 bits, text with controls."""
    if isinstance(value, str):
        if not value.isprintable():
            raise ConfigError(f"{where}: text must be printable, without line breaks or control characters, found {value!a}")
    elif isinstance(value, int):
        if abs(value) >= MAX_WHOLE:
            raise ConfigError(f"{where}: the whole number does not fit 64 bits")
    elif not (value is None or isinstance(value, float)):
        raise ConfigError(f"{where}: expected text, a number, true, false or null, found a {type(value).__name__}; quote it")


def _measure(node: yaml.Node, known: dict[yaml.Node, tuple[int, int]], depth: int) -> tuple[int, int]:
    """Values in `node` and levels below it, aliases written out; one that is met again while it is measured contains itself."""
    size, height = known.get(node, (-1, 0))
    if size == 0:
        raise ValueError(f"a value contains itself{node.start_mark}")
    if size < 0 and depth <= MAX_DEPTH:
        known[node] = 0, 0
        if isinstance(node, yaml.MappingNode):
            _refuse_equal_keys(node)
            inner = [part for pair in node.value for part in pair]
        else:
            inner = node.value if isinstance(node, yaml.SequenceNode) else []
        below = [_measure(part, known, depth + 1) for part in inner]
        size, height = 1 + sum(size for size, _ in below), max((1 + height for _, height in below), default=0)
        known[node] = size, height
    if depth + height > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if size > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values with aliases written out")
    return size, height


def _refuse_equal_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
        if name in seen:
            raise ValueError(f"the key {key.value!r} stands twice in one mapping{key.start_mark}")
        if name is not None:
            seen.add(name)
