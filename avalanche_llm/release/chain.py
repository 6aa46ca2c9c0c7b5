"""Is a run what its record says, and does everything it rests on still hold? Reads only: no lock, no file is made (spec 21).

A run is `intact` if its record, its config, every artifact and every run it read are as recorded; `incomplete` if it, or a run
it rests on, was not finished, is not there, or cannot be checked in full by this code; `changed` if anything differs. The worst
word counts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from avalanche_llm.config import ResolvedConfig
from avalanche_llm.errors import ConfigError, MissingArtifact, SchemaError
from avalanche_llm.io.artifacts import CONFIG_NAME, RECORD_NAME, index_by_path, read_record
from avalanche_llm.io.hashing import code_version, sha256_file
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.plain_yaml import read_yaml
from avalanche_llm.run_id import RUN_ID, content_run_id
from avalanche_llm.stages import stages

Status = Literal["intact", "incomplete", "changed"]
WORSE: Final[tuple[Status, ...]] = ("intact", "incomplete", "changed")
UNRECORDED: Final = ("logs", "cache")
"""Folders of a run that its record does not vouch for; nothing reads them."""


@dataclass(frozen=True)
class Finding:
    """One sentence about a run and what it makes of it; an `intact` one is a remark."""

    status: Status
    text: str


@dataclass(frozen=True)
class Verdict:
    """What was found of one run, or of one release."""

    subject: str
    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        return max((finding.status for finding in self.findings), key=WORSE.index, default="intact")

    @property
    def problems(self) -> list[str]:
        """The sentences that keep it from being intact."""
        return [finding.text for finding in self.findings if finding.status != "intact"]


Deeper = Callable[[Upstream], Iterable[Finding]]
"""A further look at a run that is intact so far."""


def chain_of(store: RunStore, run_ids: Iterable[str]) -> list[str]:
    """These runs and all that they rest on and that are there, upstream first. A circle is broken somewhere."""
    ordered: dict[str, None] = {}
    met: set[str] = set()

    def visit(run_id: str) -> None:
        folder = store.root / run_id
        if run_id in met or not folder.is_dir():
            return
        met.add(run_id)
        for upstream in _upstream_ids(folder):
            visit(upstream)
        ordered[run_id] = None

    for run_id in run_ids:
        visit(run_id)
    return list(ordered)


def verdicts(store: RunStore, chain: Sequence[str], deeper: Deeper | None = None) -> Iterator[Verdict]:
    """The verdict on each run of a chain as `chain_of` orders it."""
    found: dict[str, Verdict] = {}
    for run_id in chain:
        findings = list(_findings(store, run_id, found))
        if deeper is not None and not any(finding.status != "intact" for finding in findings):
            findings += deeper(store.get(run_id))
        found[run_id] = Verdict(run_id, tuple(findings))
        yield found[run_id]


def require_intact(store: RunStore, run_ids: Iterable[str], *, allow_absent: bool = False) -> list[str]:
    """The chain of these runs, upstream first. Raises MissingArtifact, naming the first problem, unless all of it is intact.

    With allow_absent a run that is not there, or not complete, is no problem: what is there must be unchanged.
    """
    chain = chain_of(store, run_ids)
    for verdict in verdicts(store, chain):
        if verdict.status != "intact" and not (allow_absent and verdict.status == "incomplete"):
            raise MissingArtifact(f"{verdict.subject} is {verdict.status}: {verdict.problems[0]}; rebuild {verdict.subject}")
    return chain


def _upstream_ids(folder: Path) -> list[str]:
    try:
        return [dependency["run_id"] for dependency in read_record(folder)["dependencies"]]
    except SchemaError:
        return []


def _findings(store: RunStore, run_id: str, found: Mapping[str, Verdict]) -> Iterator[Finding]:
    folder = store.root / run_id
    if folder.is_symlink() or not RUN_ID.fullmatch(run_id):
        yield Finding("changed", "the folder is a link" if folder.is_symlink() else "the folder's name is not a run id")
        return
    try:
        record = read_record(folder)
    except SchemaError as error:
        yield Finding("changed", str(error))
        return
    complete = record["stage_status"] == "complete"
    if not complete:
        yield Finding("incomplete", "it was not finished; continue it with --allow_resume")
    misnamed = list(_identity(folder, record))
    yield from misnamed
    yield from _files(folder, record, complete)
    if complete and not misnamed and record["hashes"]["code_version"] == code_version():
        yield from _against_stage(folder, record)
    for dependency in record["dependencies"]:
        yield from _upstream(store, dependency, found)


def _identity(folder: Path, record: Mapping[str, Any]) -> Iterator[Finding]:
    """Config, its hash and the run id belong together."""
    stage = stages().get(record["phase_id"])
    _, tag, rest = folder.name.split("_", 2)
    if stage is None or stage.tag != tag:
        yield Finding("changed", f"{RECORD_NAME}: phase_id {record['phase_id']} does not belong to a run id with {tag}")
    config = folder / CONFIG_NAME
    replaced = list(compared(config, CONFIG_NAME, record["hashes"]["config_sha256"]))
    yield from replaced
    if not replaced and "_" not in rest:  # an id of the time says nothing of the config
        by_content = content_run_id(tag, config.read_bytes())
        if by_content != folder.name:
            yield Finding("changed", f"{CONFIG_NAME} is the config of {by_content}")


def _files(folder: Path, record: Mapping[str, Any], complete: bool) -> Iterator[Finding]:
    """Every recorded artifact has its hash; nothing is a link; a complete run holds nothing that its record does not name."""
    index = index_by_path(record)
    for relative, entry in index.items():
        yield from compared(folder / relative, relative, entry["sha256"])
    for name, relative in record["artifacts"].items():
        if relative not in index:
            yield Finding("changed", f"{RECORD_NAME}: artifact {name} has no hash on record")
    known = {RECORD_NAME, CONFIG_NAME, *index}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield Finding("changed", f"{relative} is a link")
        elif complete and path.is_file() and relative not in known and relative.split("/")[0] not in UNRECORDED:
            yield Finding("changed", f"{relative} is not in the artifact index")


def compared(path: Path, relative: str, expected: str, *, since: str = "it was recorded") -> Iterator[Finding]:
    """What is wrong with one file, `relative` its name in the sentence: it is missing, cannot be read, or has another sha256."""
    if not path.is_file():
        yield Finding("changed", f"{relative} is missing (expected sha256 {expected[:12]})")
        return
    try:
        found = sha256_file(path)
    except OSError as error:
        yield Finding("changed", f"{relative} cannot be read ({error.strerror or error}, expected sha256 {expected[:12]})")
        return
    if found != expected:
        yield Finding("changed", f"{relative} changed since {since} (sha256 {found[:12]}, expected {expected[:12]})")


def _against_stage(folder: Path, record: Mapping[str, Any]) -> Iterator[Finding]:
    """What this very code writes into a record of this phase; a run of other code may lawfully differ."""
    stage = stages()[record["phase_id"]]
    try:
        scope = ResolvedConfig.of(read_yaml(folder / CONFIG_NAME)).scope_sha256(stage.scope)
    except ConfigError as error:
        yield Finding("changed", str(error))
        return
    if scope != record["hashes"]["scope_sha256"]:
        yield Finding("changed", f"{RECORD_NAME}: scope_sha256 is not that of {CONFIG_NAME}, expected {scope[:12]}")
    held = record["artifacts"]
    for name, relative in held.items():
        if stage.artifacts.get(name) != relative:
            yield Finding("changed", f"{RECORD_NAME}: artifact {name} at {relative}, expected {stage.artifacts.get(name)}")
    for name in sorted(stage.artifacts.keys() - stage.optional - held.keys()):
        yield Finding("changed", f"{RECORD_NAME}: artifact {name} is not on record")
    for phase_id in sorted(set(stage.needs) - {dependency["phase_id"] for dependency in record["dependencies"]}):
        yield Finding("changed", f"{RECORD_NAME}: no run of {phase_id} among its dependencies")


def _upstream(store: RunStore, dependency: Mapping[str, str], found: Mapping[str, Verdict]) -> Iterator[Finding]:
    """The run that was read is there, is intact, and its record is the one that was read."""
    run_id = dependency["run_id"]
    folder = store.root / run_id
    if not folder.is_dir():
        yield Finding("incomplete", f"rests on {run_id}, which is not there")
        return
    if run_id not in found:
        yield Finding("changed", f"rests on {run_id}, which rests on it in turn")
        return
    if found[run_id].status != "intact":
        yield Finding(found[run_id].status, f"rests on {run_id}, which is {found[run_id].status}")
    try:
        record = read_record(folder)
    except SchemaError:
        return  # said by the line above
    sha256 = sha256_file(folder / RECORD_NAME)
    if sha256 != dependency["record_sha256"]:
        read = dependency["record_sha256"]
        yield Finding("changed", f"{run_id}/{RECORD_NAME} changed since it was read (sha256 {sha256[:12]}, expected {read[:12]})")
    for name, value in (("phase_id", record["phase_id"]), ("config_sha256", record["hashes"]["config_sha256"])):
        if value != dependency[name]:
            yield Finding("changed", f"{RECORD_NAME}: {name} of {run_id} is {value[:26]}, expected {dependency[name][:26]}")
