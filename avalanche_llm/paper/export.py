"""Phase 7's files: sections, claims for programs, bibliography, and a PDF where pandoc and LaTeX are there (spec 20)."""

import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from avalanche_llm.io.artifacts import Run
from avalanche_llm.io.files import json_bytes, raw
from avalanche_llm.paper.claim import Claim
from avalanche_llm.paper.claims import all_claims
from avalanche_llm.paper.inputs import PaperInputs
from avalanche_llm.paper.lint import Entry, lint_artifacts, lint_citations, lint_wording, read_bibliography
from avalanche_llm.paper.prose import Prose, heading
from avalanche_llm.paper.sections import exports, pages
from avalanche_llm.resources import packaged

ENGINES: Final = ("xelatex", "lualatex", "pdflatex", "tectonic")
_IDENTIFIERS: Final = re.compile(rb"(/ID *\[ *<)[0-9A-Fa-f]{32}(> *<)[0-9A-Fa-f]{32}(> *\])")
_log = logging.getLogger("avalanche_llm")


def write_paper(run: Run, inputs: PaperInputs) -> None:
    """Make the pages, lint them, and write everything; a page that does not pass leaves nothing behind."""
    claims = all_claims(inputs)
    names = {name: PurePosixPath(path).name for name, path in run.stage.artifacts.items()}
    made = pages(inputs, claims, names)
    texts = {page.name: str(page) for page in made.values()}
    bibliography = packaged("bib/references.bib").read_bytes()
    entries = read_bibliography(bibliography.decode("utf-8"))
    keys = lint_citations(texts, entries)
    snapshot = made["paper_snapshot"]
    made["paper_snapshot"] = replace(snapshot, blocks=(*snapshot.blocks, *references([entries[key] for key in keys])))
    texts = {page.name: str(page) for page in made.values()}
    lint_artifacts(texts, [*inputs.chain, run], exports(inputs))
    for name, text in texts.items():
        lint_wording(name, text)
    _log.info("paper: %d pages, %d claims, %d works cited; all lints pass", len(texts), len(claims), len(keys))
    for artifact, page in made.items():
        run.save(artifact, raw(str(page).encode("utf-8")))
    run.save("paper_references", raw(bibliography))
    run.save("claims", raw(json_bytes({"claims": [described(claim) for claim in claims]})))
    pdf = printed([str(page) for page in made.values()], bibliography)
    if pdf is not None:
        run.save("paper_pdf", raw(pdf))


def references(entries: Sequence[Entry]) -> list[Prose]:
    """The works that the sections cite. Their years and pages are the bibliography's, not this paper's numbers."""
    return [heading("References"), Prose(("\n".join(_reference(entry) for entry in entries),))]


def _reference(entry: Entry) -> str:
    found = entry.fields
    where = found.get("journal") or found.get("publisher") or found.get("booktitle") or "preprint"
    place = next(f"{name}:{found[key]}" for key, name in (("doi", "doi"), ("eprint", "arXiv"), ("isbn", "ISBN")) if key in found)
    authors = found["author"].replace(" and ", "; ")
    return f"- [@{entry.key}] {authors} ({found['year']}). {found['title'].rstrip('.')}. {where}. {place}"


def described(claim: Claim) -> dict[str, Any]:
    """A claim as claims.json has it."""
    evidence: Sequence[Mapping[str, str]] = [
        {"run_id": origin.run_id, "relative_path": origin.relative_path, "sha256": origin.sha256} for origin in claim.evidence
    ]
    return {
        "claim_id": claim.claim_id,
        "title": claim.title,
        "rule": claim.rule,
        "verdict": claim.verdict,
        "sentence": str(claim.sentence),
        "facts": [fact.described() for fact in claim.sentence.facts],
        "evidence": evidence,
    }


def printed(texts: Sequence[str], bibliography: bytes) -> bytes | None:
    """All sections as one PDF; None where pandoc or every LaTeX engine is absent, or they cannot make it."""
    pandoc, engine = shutil.which("pandoc"), next(filter(shutil.which, ENGINES), None)
    if pandoc is None or engine is None:
        _log.info("paper: no PDF, %s is not installed", "pandoc" if pandoc is None else "LaTeX")
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "paper.md", Path(folder) / "paper.pdf"
        source.write_text("\n".join(texts), encoding="utf-8")
        (Path(folder) / "references.bib").write_bytes(bibliography)
        command = [
            pandoc,
            source.name,
            "--citeproc",
            "--bibliography=references.bib",
            f"--pdf-engine={engine}",
            "-o",
            target.name,
        ]
        fixed = os.environ | {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1"}
        done = subprocess.run(command, cwd=folder, env=fixed, capture_output=True, text=True)
        if done.returncode or not target.exists():
            said = done.stderr.strip().splitlines() or [f"nothing, exit code {done.returncode}"]
            _log.warning("paper: no PDF, pandoc said: %s", said[-1])
            return None
        return same_bytes(target.read_bytes())


def same_bytes(pdf: bytes) -> bytes:
    """The PDF with identifiers made from its content: engines make them from the temporary folder's name as well."""
    rest = _IDENTIFIERS.sub(b"", pdf)
    digest = hashlib.sha256(rest).hexdigest()[:32].encode()
    return _IDENTIFIERS.sub(rb"\g<1>" + digest + rb"\g<2>" + digest + rb"\g<3>", pdf)
