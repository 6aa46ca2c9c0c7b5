"""The CANON registry: every canonical name and value, read once from the yaml block of spec/00_CANONICAL.md."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import yaml

from avalanche_llm.errors import ConfigError
from avalanche_llm.resources import packaged
from avalanche_llm.suggest import nearest

PREFIX: Final = "CANON."
_YAML_BLOCK: Final = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Canon:
    """The frozen registry. `canon["CONST.EPS"]` and `canon["CANON.CONST.EPS"]` name the same entry."""

    entries: Mapping[str, Any]

    def __getitem__(self, reference: str) -> Any:
        """The value at a dotted reference, with lists as tuples and dicts as read-only mappings.

        Raises ConfigError for an unknown reference, with the nearest known one.
        """
        value: Any = self.entries
        for key in reference.removeprefix(PREFIX).split("."):
            if not isinstance(value, Mapping) or key not in value:
                hint = nearest(reference.removeprefix(PREFIX), self.references(), prefix=PREFIX)
                raise ConfigError(f"unknown registry reference {PREFIX}{reference.removeprefix(PREFIX)}{hint}")
            value = value[key]
        return value

    def references(self) -> Iterator[str]:
        """Every dotted reference of the registry, inner nodes included."""
        yield from _walk(self.entries, "")


def _walk(node: Mapping[str, Any], above: str) -> Iterator[str]:
    for key, value in node.items():
        yield above + key
        if isinstance(value, Mapping):
            yield from _walk(value, f"{above}{key}.")


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({str(key): _freeze(item) for key, item in value.items()})
    if isinstance(value, list):
        return tuple(_freeze(item) for item in value)
    return value


def thaw(value: Any) -> Any:
    """Plain dicts and lists again, for writing as yaml or json."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [thaw(item) for item in value]
    return value


def parse_canon(markdown: str, source: str) -> Canon:
    """The registry in the one yaml block of `markdown`. Raises ConfigError if there is not exactly one."""
    blocks = _YAML_BLOCK.findall(markdown)
    if len(blocks) != 1:
        raise ConfigError(f"{source}: expected one fenced yaml block with the registry, found {len(blocks)}")
    try:
        parsed = yaml.safe_load(blocks[0])
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: the registry is not valid yaml: {' '.join(str(error).split())}") from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("CANON"), dict):
        raise ConfigError(f"{source}: the registry must be one mapping under the key CANON")
    return Canon(_freeze(parsed["CANON"]))


@lru_cache(maxsize=1)
def load_canon() -> Canon:
    """The registry that ships with the package, read once."""
    path = packaged("spec/00_CANONICAL.md")
    if not path.is_file():
        raise ConfigError(f"the registry {path} is missing: reinstall avalanche_llm")
    return parse_canon(path.read_text(encoding="utf-8"), path.name)
