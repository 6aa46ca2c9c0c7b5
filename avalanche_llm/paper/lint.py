"""Three lints that stop an export: citations against the bibliography, links against records, words against spec 22."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from avalanche_llm.errors import SchemaError
from avalanche_llm.io.artifacts import RunArtifacts

CITATION: Final = re.compile(r"\[@([\w:-]+)\]")
_ENTRY: Final = re.compile(r"^@(\w+)\{([\w:-]+),\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD: Final = re.compile(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", re.MULTILINE)
_DOI: Final = re.compile(r"10\.\d{4,9}/\S+")
_EPRINT: Final = re.compile(r"\d{4}\.\d{4,5}")
_LINK: Final = re.compile(r"\]\(\.\./\.\./(RUN_\w+)/([^)]+)\)")
_IS: Final = r"\b(is|are|was|were|be|becomes?|operates?) (at )?(the )?"
_SHOWS: Final = r"\b(at|evidence (for|of)|signs? of|demonstrates?|shows?|establish(es)?|confirms?) "
FORBIDDEN: Final[Mapping[str, str]] = {
    _IS + r"(self-organi[sz]ed )?(critical(ity)?|a critical point)\b": "quasi-critical",
    _SHOWS + r"(self-organi[sz]ed )?criticality\b": "avalanche-like",
    r"\b(proves?|proven|proof that)\b": "is consistent with",
    r"\bcritical brain\b": "avalanche-like activity",
    r"\bneuronal avalanches? in (the|language) models?\b": "avalanche-like events",
}
"""A claim that the measurement cannot carry, and what to write in its place."""
_SENTENCE: Final = re.compile(r"(?=\S)(?:[^.;:!?|\n]|[.;:!?](?!\s)|\n(?!\s*(?:\n|[|#-])))+")
"""Up to a full stop, a table cell's edge, an empty line, or the start of a row, a heading or a list item."""
_DENIED: Final = re.compile(r"\b(not|no|never|nothing|neither|nor|cannot|without|nobody)\b")


@dataclass(frozen=True)
class Entry:
    """One entry of the bibliography."""

    key: str
    fields: Mapping[str, str]


def read_bibliography(text: str) -> dict[str, Entry]:
    """Entries by key. SchemaError for a duplicate, and for one that cannot be found by a reader."""
    entries: dict[str, Entry] = {}
    for _, key, body in _ENTRY.findall(text):
        fields = {name.lower(): value for name, value in _FIELD.findall(body)}
        if key in entries:
            raise SchemaError(f"references.bib has two entries {key}")
        missing = [name for name in ("author", "title", "year") if not fields.get(name)]
        if missing:
            raise SchemaError(f"references.bib, {key}: {', '.join(missing)} is missing")
        if not (_DOI.fullmatch(fields.get("doi", "")) or _EPRINT.fullmatch(fields.get("eprint", "")) or fields.get("isbn")):
            raise SchemaError(f"references.bib, {key}: expected a well-formed doi, eprint (arXiv) or isbn")
        entries[key] = Entry(key, fields)
    if len(entries) != text.count("\n@") + text.startswith("@"):
        raise SchemaError("references.bib holds an entry that is not closed by a brace of its own line")
    return entries


def lint_citations(pages: Mapping[str, str], entries: Mapping[str, Entry]) -> list[str]:
    """Every citation has an entry and every entry is cited; returns the keys in order of their first use."""
    cited: dict[str, None] = {}
    for name, text in pages.items():
        for number, line in enumerate(text.splitlines(), start=1):
            for key in CITATION.findall(line):
                if key not in entries:
                    raise SchemaError(f"{name}, line {number}: [@{key}] is not in references.bib; add it or mend the key")
                cited[key] = None
    unused = sorted(entries.keys() - cited.keys())
    if unused:
        raise SchemaError(f"references.bib: {', '.join(unused)} is never cited; cite or remove it")
    return list(cited)


def lint_artifacts(pages: Mapping[str, str], runs: Iterable[RunArtifacts], exports: Iterable[tuple[str, str]]) -> None:
    """Every link into a run names an artifact of its record, unchanged, and every one of `exports` is linked."""
    by_id = {run.run_id: run for run in runs}
    linked = set()
    for name, text in pages.items():
        for run_id, relative in _LINK.findall(text):
            run = by_id.get(run_id)
            names = {path: artifact for artifact, path in run.record["artifacts"].items()} if run else {}
            if run is None or relative not in names:
                raise SchemaError(f"{name} links {run_id}/{relative}, which no run behind this paper has on record")
            run.artifact(names[relative])
            linked.add((run_id, relative))
    left_out = sorted(set(exports) - linked)
    if left_out:
        raise SchemaError(f"{left_out[0][0]}/{left_out[0][1]} is an export that no page links ({len(left_out)} such)")


def lint_wording(name: str, text: str) -> None:
    """No claim that the measurement cannot carry. A sentence that denies it is allowed, over a line break too."""
    for sentence in _SENTENCE.finditer(text):
        words = " ".join(sentence[0].split())
        for pattern, instead in FORBIDDEN.items():
            found = re.search(pattern, words, re.IGNORECASE)
            if found and not _DENIED.search(words.lower()):
                line = text.count("\n", 0, sentence.start()) + 1
                raise SchemaError(f"{name}, line {line}: {found[0]!r} claims too much; write {instead!r} or what was measured")
