"""The config resolver: yaml files and command-line overrides in, one canonical byte string and its sha256 out.

Order of precedence, lowest first: the file named by `extends`, the files named by `include`, the file itself, the
command line. Mappings merge key by key, everything else replaces. Every string that begins with `CANON.` is replaced by its
registry value (contract 23; spec 13).
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import yaml

from avalanche_llm.canon import PREFIX, Canon, thaw
from avalanche_llm.errors import ConfigError
from avalanche_llm.plain_yaml import check_scalar, read_yaml
from avalanche_llm.resources import local

MAX_EXTENDS: Final = 8
MAX_FILES: Final = 64


@dataclass(frozen=True)
class Overrides:
    """What the command line may change. None leaves the config's own value. Each becomes part of the resolved config."""

    model_role: str | None = None
    device: str | None = None
    dtype: str | None = None
    gstar_method: str | None = None
    arc_split: str | None = None
    arc_config: str | None = None
    model_id: str | None = None
    data_a: str | None = None
    data_b: str | None = None

    def as_config(self, role: str) -> dict[str, Any]:
        """The nested mapping that these overrides stand for, for the model role that the run will use."""
        places = {
            "model_role": ("run", "model_role"),
            "device": ("run", "device"),
            "dtype": ("run", "dtype"),
            "gstar_method": ("pipeline", "gstar_method"),
            "arc_split": ("datasets", "ARC_MCQ", "split"),
            "arc_config": ("datasets", "ARC_MCQ", "hf_config"),
            "model_id": ("models", role, "hf_id"),
            "data_a": ("datasets", "A", "hf_id"),
            "data_b": ("datasets", "B", "hf_id"),
        }
        nested: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                *parents, leaf = places[field.name]
                node = nested
                for key in parents:
                    node = node.setdefault(key, {})
                node[leaf] = value
        return nested


@dataclass(frozen=True)
class ResolvedConfig:
    """A config without references, its canonical bytes and their sha256."""

    values: Mapping[str, Any]
    canonical: bytes
    sha256: str

    @classmethod
    def of(cls, values: dict[str, Any]) -> "ResolvedConfig":
        canonical = canonical_yaml(values)
        return cls(values, canonical, hashlib.sha256(canonical).hexdigest())

    def scope_sha256(self, scope: tuple[str, ...]) -> str:
        """sha256 of the dotted parts of the config in `scope`; `{role}` stands for the model role of the run."""
        role = self.values.get("run", {}).get("model_role", "")
        parts: dict[str, Any] = {}
        for dotted in scope:
            node: Any = self.values
            for key in dotted.format(role=role).split("."):
                node = node.get(key) if isinstance(node, Mapping) else None
            parts[dotted] = node
        return hashlib.sha256(canonical_yaml(parts)).hexdigest()


def canonical_yaml(values: Mapping[str, Any]) -> bytes:
    """UTF-8 yaml in the order of the keys, LF line ends, one style: the same values in the same order, the same bytes."""
    text: str = yaml.dump(
        thaw(values),
        Dumper=_CanonicalDumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=2**30,
        line_break="\n",
    )
    return text.encode("utf-8")


class _CanonicalDumper(yaml.SafeDumper):
    """Writes a repeated list in full each time: an alias would make the bytes depend on object identity."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def resolve_references(value: Any, canon: Canon, where: str = "config") -> Any:
    """`value` with every CANON reference replaced, in scalars, lists and mappings (also where one points to another).

    Raises ConfigError for an unknown reference, or one that remains or stands in a key, with its place in the config.
    """
    if isinstance(value, str) and value.startswith(PREFIX):
        try:
            found = thaw(canon[value])
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        return _reject_references(found, where)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or key.startswith(PREFIX) or not key.isprintable():
                raise ConfigError(f"{where}: keys must be plain words, found {key!r}")
        return {key: resolve_references(item, canon, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [resolve_references(item, canon, f"{where}[{index}]") for index, item in enumerate(value)]
    check_scalar(value, where)
    return value


def _reject_references(value: Any, where: str) -> Any:
    """The contract's hard check: a registry value may not itself be a reference that nobody replaces."""
    if isinstance(value, str) and value.startswith(PREFIX):
        raise ConfigError(f"{where}: the registry value {value!r} is itself a reference; write the value out in spec/00")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _reject_references(item, where)
    return value


def load_merged(path: Path) -> dict[str, Any]:
    """The config at `path` over what it extends and includes, references still in place."""
    return _load_merged(path, 0, itertools.count(1))


def _load_merged(path: Path, depth: int, files: Iterator[int]) -> dict[str, Any]:
    if depth > MAX_EXTENDS:
        raise ConfigError(f"{path}: more than {MAX_EXTENDS} configs extend one another; is there a circle?")
    if next(files) > MAX_FILES:  # each of a chain that includes the next one twice is read twice as often as the one before
        raise ConfigError(f"{path}: more than {MAX_FILES} files are extended and included in all; is there a circle?")
    own = read_yaml(path)
    base, companions = own.pop("extends", None), own.pop("include", [])
    if not isinstance(base, str | None) or not isinstance(companions, list) or {type(name) for name in companions} - {str}:
        raise ConfigError(f"{path}: `extends` must name one file and `include` a list of files")
    for name in companions if base is None else (base, *companions):
        check_scalar(name, str(path))
    merged: dict[str, Any] = {} if base is None else _load_merged(_below(path, base), depth + 1, files)
    for name in companions:
        merged = merge(merged, _load_merged(path.parent / name, depth + 1, files))
    return merge(merged, own)


def _below(path: Path, base: str) -> Path:
    """The file that `extends` names: beside the config, else the shipped one (`extends: configs/pipeline.yaml` in any folder)."""
    beside, shipped = path.parent / base, local(base)
    return shipped if shipped.exists() and not beside.exists() else beside


def merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, mapping by mapping; neither is changed."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def resolve_config(path: Path | None, canon: Canon, overrides: Overrides | None = None) -> ResolvedConfig:
    """The resolved config of the file at `path` (None: the canonical one, here or as shipped) with `overrides` on top."""
    values = resolve_references(load_merged(local(path or str(canon["PATH.CONFIG_PIPELINE"]))), canon)
    overrides = overrides or Overrides()
    run = values.get("run")
    role = overrides.model_role or (run.get("model_role") if isinstance(run, dict) else None)
    role = role if isinstance(role, str) else ""  # what is no role is refused when the settings are parsed
    return ResolvedConfig.of(merge(values, resolve_references(overrides.as_config(role), canon, "command line")))
