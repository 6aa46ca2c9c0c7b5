"""What goes into a release, by name in the archive, with its sha256; MANIFEST.sha256 lists it as `sha256sum -c` reads it.

    pack/...         what describes and makes the measurement: specs, tasks, configs, the source of both packages
    runs/RUN_.../... the record, the config and every recorded artifact of each chosen run

Logs stay out: no record vouches for them, and they may name folders of the machine that wrote them. So does all text that
`PACK` does not name: its licence is not ours (spec 21).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import avalanche_llm
from avalanche_llm.canon import load_canon
from avalanche_llm.errors import SchemaError
from avalanche_llm.io.artifacts import CONFIG_NAME, RECORD_NAME, index_by_path
from avalanche_llm.io.hashing import sha256_file
from avalanche_llm.io.store import RunStore

MANIFEST: Final = str(load_canon()["OUTPUT.MANIFEST_SHA256_BASENAME"])
RUNS: Final = "runs"
SOURCE: Final = (
    "avalanche_llm/**/*.py",
    "avalanche_llm/plotting/fonts/*.ttf",
    "avalanche_llm/plotting/fonts/LICENSE_*",
    "avalanche_llm/report/*.css",
    "avalanche_llm/report/*.j2",
    "avalanche_llm/report/*.js",
    "avalanche_dagster/**/*.py",
    "avalanche_dagster/*.yaml",
)
PACK: Final = (
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
    "requirements.lock",
    "requirements-cpu.lock",
    "workspace.yaml",
    "spec/*.md",
    "spec/*.json",
    "tasks/*.md",
    "configs/*.yaml",
    "bib/*.bib",
    "checklists/*.md",
    "tests/**/*.py",
    "data/README.md",
    "data/jargon.txt",
    "data/devil.txt",
    "data/arc_demo.jsonl",
)
LINE: Final = re.compile(r"([0-9a-f]{64})  (\S.*)")


@dataclass(frozen=True)
class Member:
    """One file of a release."""

    name: str
    path: Path
    sha256: str


def pack_members(package: Path = Path(avalanche_llm.__file__).parent) -> list[Member]:
    """The pack of a source checkout, or what an installed wheel carries of it."""
    top, carried = package.parent, package / "_pack"
    places = [(top, SOURCE), (carried if carried.is_dir() else top, PACK)]
    found = {path.relative_to(root).as_posix(): path for root, patterns in places for one in patterns for path in root.glob(one)}
    return [Member(check_name(f"pack/{name}"), path, sha256_file(path)) for name, path in sorted(found.items())]


def run_members(store: RunStore, run_ids: Iterable[str]) -> list[Member]:
    """The files of complete runs that their records vouch for."""
    members = []
    for run_id in run_ids:
        run = store.get(run_id)
        hashes = {relative: entry["sha256"] for relative, entry in index_by_path(run.record).items()}
        hashes |= {name: sha256_file(run.folder / name) for name in (RECORD_NAME, CONFIG_NAME)}
        members += [
            Member(check_name(f"{RUNS}/{run_id}/{relative}"), run.folder / relative, sha256)
            for relative, sha256 in hashes.items()
        ]
    return members


def manifest_bytes(members: Iterable[Member]) -> bytes:
    """One line a member, sorted by name."""
    return "".join(f"{member.sha256}  {member.name}\n" for member in sorted(members, key=lambda one: one.name)).encode("utf-8")


def read_manifest(data: bytes) -> dict[str, str]:
    """Name to sha256. Raises SchemaError for a line of another form, a repeated name, or one that leaves its folder."""
    hashes: dict[str, str] = {}
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SchemaError(f"{MANIFEST} is not UTF-8: {error}") from error
    for number, line in enumerate(lines, start=1):
        match = LINE.fullmatch(line)
        if match is None or match[2] in hashes:
            raise SchemaError(f"{MANIFEST}, line {number}: expected `sha256  path` with a path of its own, found {line[:80]!r}")
        hashes[check_name(match[2])] = match[1]
    return hashes


def check_name(name: str) -> str:
    """`name` itself if it is a plain relative path: it leads nowhere else, and `sha256sum` reads it as it stands."""
    plain = PurePosixPath(name)
    if plain.is_absolute() or name == "." or ".." in plain.parts or str(plain) != name or "\\" in name or not name.isprintable():
        raise SchemaError(f"{name!r} cannot be a path in a release: expected a plain relative one")
    return name
