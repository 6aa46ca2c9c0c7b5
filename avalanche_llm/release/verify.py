"""`verify`: every run asked for with all that it rests on, or a release made elsewhere; nothing is written (spec 21)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from avalanche_llm.catalog import find
from avalanche_llm.errors import MissingArtifact, SchemaError, UsageError
from avalanche_llm.io.artifacts import RECORD_NAME
from avalanche_llm.io.store import RunStore
from avalanche_llm.progress import progress
from avalanche_llm.release.archive import unpacked
from avalanche_llm.release.chain import Finding, Verdict, chain_of, compared, verdicts
from avalanche_llm.release.manifest import MANIFEST, RUNS, read_manifest
from avalanche_llm.release.remake import remade_tables
from avalanche_llm.resources import local
from avalanche_llm.run_id import RUN_ID


def runs_to_verify(store: RunStore, run_ids: Sequence[str]) -> list[str]:
    """The named runs with all that they rest on, or every run directory; upstream first.

    Raises MissingArtifact when a named one, or any at all, is not there.
    """
    chain = chain_of(store, [find(store, run_id).run_id for run_id in run_ids]) if run_ids else _every_run(store)
    if not chain:
        raise MissingArtifact(f"no runs under {store.root}; name another folder with --runs_dir, or run a phase first")
    return chain


def verify_runs(store: RunStore, chain: Sequence[str], *, with_tables: bool) -> Iterator[Verdict]:
    """The verdict on each run of a chain; with tables they are made again where all else holds."""
    with progress("verify", len(chain), "runs") as advance:
        for verdict in verdicts(store, chain, remade_tables if with_tables else None):
            yield verdict
            advance(1)


def verify_release(release: Path, *, with_tables: bool) -> Iterator[Verdict]:
    """The verdict on an archive or its unpacked folder as its manifest has it, then on each run inside."""
    with unpacked(release) as folder:
        yield Verdict(release.name, tuple(_against_manifest(folder)))
        store = RunStore(folder / RUNS)
        yield from verify_runs(store, _every_run(store), with_tables=with_tables)


def is_release(target: str) -> bool:
    """Whether a word of the command line names an archive or a folder, not a run id. MissingArtifact if it is not there."""
    if RUN_ID.fullmatch(target):
        return False
    path = local(target)
    if (path / RECORD_NAME).is_file():
        raise UsageError(f"{target} is one run; expected {path.name} --runs_dir {path.parent}")
    if not path.exists() and len(path.parts) + len(path.suffixes) > 1:
        raise MissingArtifact(f"no release at {target}; expected a zip, or the folder it was unpacked to")
    return path.exists()


def _every_run(store: RunStore) -> list[str]:
    return chain_of(store, sorted(folder.name for folder in store.root.glob("RUN_*") if folder.is_dir()))


def _against_manifest(folder: Path) -> Iterator[Finding]:
    listed = folder / MANIFEST
    if not listed.is_file():
        yield Finding("incomplete", f"it has no {MANIFEST} at its top")
        return
    try:
        hashes = read_manifest(listed.read_bytes())
    except SchemaError as error:
        yield Finding("changed", str(error))
        return
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    for name in sorted(there - hashes.keys() - {MANIFEST}):
        yield Finding("changed", f"{name} is not in {MANIFEST}")
    for name, expected in hashes.items():
        if name not in there or (folder / name).is_symlink():
            yield Finding("changed", f"{name} is missing or a link (expected sha256 {expected[:12]})")
        else:
            yield from compared(folder / name, name, expected, since="it was listed")
    if not any(name.startswith(f"{RUNS}/") for name in hashes):
        yield Finding("incomplete", f"{MANIFEST} lists no run")
