"""Phase 7: what the paper says follows from tables, every number has a file, and three lints can stop it."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from report_case import BEFORE_THE_PAPER

from avalanche_llm.errors import MissingArtifact, SchemaError
from avalanche_llm.io.artifacts import index_by_path, read_record
from avalanche_llm.io.store import RunStore
from avalanche_llm.paper import sections
from avalanche_llm.paper.claim import verdict_of
from avalanche_llm.paper.claims import all_claims
from avalanche_llm.paper.export import same_bytes
from avalanche_llm.paper.facts import Origin, Sheet, written
from avalanche_llm.paper.inputs import PaperInputs
from avalanche_llm.paper.lint import lint_artifacts, lint_citations, lint_wording, read_bibliography
from avalanche_llm.paper.prose import TYPED_NUMBER, Prose, prose
from avalanche_llm.paper.rows import Column, rows_of
from avalanche_llm.paper.sections import exports, pages
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.paper_export import export_paper, tables
from avalanche_llm.plotting.export import table_files
from avalanche_llm.resources import packaged

BIBLIOGRAPHY = packaged("bib/references.bib").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def both(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    """Phases 1 to 6 of two seeded models, BASE and INSTRUCT, and the paper of the second."""
    folder = tmp_path_factory.mktemp("both")
    base = tiny.save_model(tiny.llama(seed=1), folder / "base")
    config = tiny.write_config(folder / "c.yaml", model_folder, models__BASE={"hf_id": str(base)})
    for role in ("BASE", "INSTRUCT"):
        job = tiny.job_of(config, folder / "runs", model_role=role)
        for step in BEFORE_THE_PAPER:
            step(job)
    export_paper(job)
    return job, folder / "runs"


@pytest.fixture
def inputs(both: tuple[Job, Path]) -> PaperInputs:
    job, runs = both
    return PaperInputs.of(job, RunStore(runs).get(tiny.run_of(runs, "S07").name))


def paper(runs: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted((tiny.run_of(runs, "S07") / "paper").glob("*.md"))}


def sentences(inputs: PaperInputs) -> dict[str, str]:
    return {claim.claim_id: str(claim.sentence) for claim in all_claims(inputs)}


def with_column(inputs: PaperInputs, table_id: str, column: str, value: Any) -> PaperInputs:
    sheet = inputs.sheets[table_id]
    return inputs.with_sheets({table_id: replace(sheet, frame=sheet.frame.assign(**{column: value}))})


def test_export_paper_writes_every_section_and_every_claim(both: tuple[Job, Path]) -> None:
    _, runs = both
    assert list(paper(runs)) == [
        "00_PAPER_SNAPSHOT.md",
        "01_METHODS.md",
        "02_RESULTS.md",
        "03_LIMITATIONS.md",
        "04_PROVENANCE.md",
        "05_CLAIMS_TO_EVIDENCE.md",
    ]
    claims = json.loads((tiny.run_of(runs, "S07") / "results" / "claims.json").read_bytes())["claims"]
    assert len(claims) == 16
    assert {claim["verdict"] for claim in claims} <= {"supported", "mixed", "not supported", "undetermined"}
    for claim in claims:
        for evidence in claim["evidence"]:
            entry = index_by_path(read_record(runs / evidence["run_id"]))[evidence["relative_path"]]
            assert entry["sha256"] == evidence["sha256"]


def test_every_number_of_the_results_is_a_fact(inputs: PaperInputs) -> None:
    made = pages(inputs, all_claims(inputs), {f"paper_{name}": name for name in ("snapshot", "methods", "results", "limitations", "provenance", "claims")})
    for name in ("paper_snapshot", "paper_results"):
        words = "".join(part for block in made[name].blocks for part in block.parts if isinstance(part, str))
        assert not TYPED_NUMBER.search(re.sub(r"\]\([^)]*\)", "]", words))
        assert len(made[name].facts) > 20
        assert all(fact.origin.sha256 for fact in made[name].facts)


def test_every_number_of_a_table_stands_with_its_interval(inputs: PaperInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the rows of a table hold both ends of an interval, the paper shows them: spec 20."""
    shown: list[tuple[Sheet, list[Column]]] = []

    def noted(sheet: Sheet, columns: Sequence[str | Column]) -> Prose:
        shown.append((sheet, [column if isinstance(column, Column) else Column(column, column) for column in columns]))
        return rows_of(sheet, columns)

    monkeypatch.setattr(sections, "rows_of", noted)
    names = {f"paper_{name}": name for name in ("snapshot", "methods", "results", "limitations", "provenance", "claims")}
    pages(inputs, all_claims(inputs), names)
    bare = [
        column.name
        for sheet, columns in shown
        for column in columns
        for stem in (f"{column.name}_ci", f"opt_{column.name}_ci")
        if f"{stem}_low" in sheet.frame and not column.ends and f"{stem}_low" not in [other.name for other in columns]
    ]
    assert len(shown) >= 8
    assert bare == []


def test_the_limitations_deny_no_interval_that_is_there(both: tuple[Job, Path]) -> None:
    """The excess over the swap is decided by its interval (excess_swap): the page may not say that there is none."""
    assert "has no interval" not in paper(both[1])["03_LIMITATIONS.md"]


@pytest.mark.parametrize(
    ("table_id", "column", "claims"),
    [
        ("T01_SUMMARY", "delta_b_tot", {"excess_g1", "excess_gstar", "excess_swap"}),  # the swap's share is a share of it
        ("T02_GENERALIZATION", "opt_diff_nll_mean", {"likelihood_kept"}),
        ("T03_ARC", "accuracy", {"arc_above_chance"}),
        ("T05_CRACKLING_DIAGNOSTICS", "crackling_gamma", {"crackling"}),
        ("T07_REPLICATION_SUMMARY", "gstar_base", {"replication"}),
    ],
)
def test_a_changed_table_changes_its_sentences_and_no_other(inputs: PaperInputs, table_id: str, column: str, claims: set[str]) -> None:
    if table_id not in inputs.sheets:
        run = RunStore(inputs.job.store.root).get(tiny.run_of(inputs.job.store.root, "S07").name)
        frame = pd.read_parquet(run.artifact(f"{table_id}_parquet"))
        inputs = inputs.with_sheets({table_id: Sheet(Origin.of(run, f"{table_id}_parquet"), ("spike_def_id", "target_rate"), frame)})
    before, after = sentences(inputs), sentences(with_column(inputs, table_id, column, 0.8765))
    assert {name for name in before if before[name] != after[name]} == claims
    assert any("0.876" in after[name] for name in claims)


@pytest.mark.parametrize(("low", "verdict"), [(0.1, "supported"), (-0.1, "not supported")])
def test_a_verdict_follows_the_numbers_either_way(inputs: PaperInputs, low: float, verdict: str) -> None:
    changed = with_column(inputs, "T01_SUMMARY", "opt_delta_b_tot_ci_low", low)
    (claim,) = (claim for claim in all_claims(changed) if claim.claim_id == "excess_g1")
    assert claim.verdict == verdict


@pytest.mark.parametrize(("holds", "verdict"), [([], "undetermined"), ([True], "supported"), ([True, False], "mixed"), ([False], "not supported")])
def test_verdict_of_counts_cells(holds: list[bool], verdict: str) -> None:
    assert verdict_of(np.array(holds, dtype=bool)) == verdict


def test_replication_holds_both_roles_at_their_own_gain(both: tuple[Job, Path]) -> None:
    job, runs = both
    table = pd.read_parquet(tiny.run_of(runs, "S07") / "tables" / "appendix" / "table_T07_REPLICATION_SUMMARY.parquet")
    assert len(table) == 4
    for role in ("BASE", "INSTRUCT"):
        analysis = tiny.job_of(Path(str(job.store.root.parent / "c.yaml")), runs, model_role=role).upstream("PHASE5_ANALYZE_AND_EXPORT")
        summary = pd.read_parquet(analysis.artifact("T01_SUMMARY_parquet")).set_index(["spike_def_id", "target_rate", "g"])
        lower = role.lower()
        assert set(table[f"run_id_s05_{lower}"]) == {analysis.run_id}
        for row in table.to_dict("records"):
            there = summary.loc[(row["spike_def_id"], row["target_rate"], row[f"gstar_{lower}"])]
            assert row[f"chi_at_gstar_{lower}"] == there["chi"]
            assert row[f"delta_b_tot_at_gstar_{lower}"] == there["delta_b_tot"]
    assert len(read_record(tiny.run_of(runs, "S07"))["dependencies"]) == 6


def test_tables_made_again_are_the_bytes_on_record(both: tuple[Job, Path]) -> None:
    job, runs = both
    run = RunStore(runs).get(tiny.run_of(runs, "S07").name)
    ((table_id, frame),) = tables(job, run).items()
    for name, data in table_files(table_id, frame).items():
        assert run.artifact(name).read_bytes() == data


@pytest.mark.parametrize("form", [b"/ID[<%s><%s>]/Root", b"/ID [<%s> <%s>] /Root"])
def test_same_bytes_forgets_the_identifiers_alone(form: bytes) -> None:
    first, second, other = (
        b"%PDF " + text + form % (name * 32, name * 32) + b" %%EOF" for text, name in ((b"a", b"0"), (b"a", b"F"), (b"b", b"0"))
    )
    assert first != second
    assert same_bytes(first) == same_bytes(second) != same_bytes(other)
    assert len(same_bytes(first)) == len(first)
    assert same_bytes(b"%PDF without any") == b"%PDF without any"


def test_a_second_export_is_byte_identical(both: tuple[Job, Path], tmp_path: Path) -> None:
    job, runs = both
    again = tiny.run_of(tiny.copied(runs, tmp_path / "runs"), "S07")
    shutil.rmtree(again)
    export_paper(replace(job, store=RunStore(tmp_path / "runs")))
    for folder in ("paper", "results", "tables"):
        assert tiny.file_hashes(again / folder) == tiny.file_hashes(tiny.run_of(runs, "S07") / folder)


def test_without_a_twin_one_line_says_so(config: Path, tmp_path: Path, both: tuple[Job, Path]) -> None:
    """The same runs under a config that names no BASE model: found again by their scope, except the paper itself."""
    runs = tiny.copied(both[1], tmp_path / "runs")
    shutil.rmtree(tiny.run_of(runs, "S07"))
    export_paper(tiny.job_of(config, runs))
    folder = tiny.run_of(runs, "S07")
    assert "T07 compares BASE with INSTRUCT; only INSTRUCT was measured here." in (folder / "paper" / "02_RESULTS.md").read_text()
    assert not list(folder.glob("tables/**/*T07*"))
    assert read_record(folder)["stage_status"] == "complete"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "n/a"), (float("nan"), "n/a"), (0.123456, "0.123"), (1532.3, "1532"), (7, "7"), (True, "yes"), (0.0, "0"), (-2.5e-7, "-2.50e-07")],
)
def test_written_rounds_to_significant_digits(value: Any, text: str) -> None:
    assert written(value) == text


def test_prose_refuses_a_number_in_its_words() -> None:
    with pytest.raises(SchemaError, match="a number is typed by hand"):
        prose("b_tot is 0.9 here")
    assert str(prose("T01 and S2 are names")) == "T01 and S2 are names"


# --- lints


def test_the_bibliography_is_well_formed() -> None:
    entries = read_bibliography(BIBLIOGRAPHY)
    assert {"beggs2003", "clauset2009", "touboul2010", "wilting2018", "sun2024", "shazeer2020"} <= entries.keys()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("  doi = {10.1137/070710111},\n", "", "clauset2009: expected a well-formed doi"),
        ("  doi = {10.1137/070710111},\n", "  doi = {see the journal},\n", "clauset2009: expected a well-formed doi"),
        ("  year = {2003},\n", "", "beggs2003: year is missing"),
        ("@misc{sun2024,", "@misc{shazeer2020,", "two entries shazeer2020"),
        ("  eprint = {1803.05457},\n}", "  eprint = {1803.05457},\n", "not closed"),
    ],
)
def test_read_bibliography_refuses_what_a_reader_could_not_find(old: str, new: str, complaint: str) -> None:
    assert old in BIBLIOGRAPHY
    with pytest.raises(SchemaError, match=complaint):
        read_bibliography(BIBLIOGRAPHY.replace(old, new, 1))


def test_lint_citations_wants_every_key_and_every_entry() -> None:
    entries = read_bibliography(BIBLIOGRAPHY)
    cited = " ".join(f"[@{key}]" for key in entries)
    assert lint_citations({"a.md": cited}, entries) == list(entries)
    with pytest.raises(SchemaError, match=r"a\.md, line 2: \[@nobody1999\] is not in references\.bib"):
        lint_citations({"a.md": f"{cited}\n[@nobody1999]"}, entries)
    with pytest.raises(SchemaError, match="beggs2003 is never cited"):
        lint_citations({"a.md": cited.replace("[@beggs2003]", "")}, entries)


def test_lint_artifacts_wants_links_that_hold(both: tuple[Job, Path], inputs: PaperInputs, tmp_path: Path) -> None:
    text = paper(both[1])["00_PAPER_SNAPSHOT.md"]
    lint_artifacts({"a.md": text}, inputs.chain, exports(inputs))
    run_id, path = exports(inputs)[0]
    with pytest.raises(SchemaError, match="which no run behind this paper has on record"):
        lint_artifacts({"a.md": text.replace(path, "figs/fig_F99.pdf", 1)}, inputs.chain, [])
    with pytest.raises(SchemaError, match="is an export that no page links"):
        lint_artifacts({"a.md": ""}, inputs.chain, exports(inputs))
    tiny.copied(both[1], tmp_path / "runs")
    (tmp_path / "runs" / run_id / path).write_bytes(b"%PDF")
    moved = [RunStore(tmp_path / "runs").get(run.run_id) for run in inputs.chain]
    with pytest.raises(MissingArtifact, match="changed since it was recorded"):
        lint_artifacts({"a.md": text}, moved, [])


@pytest.mark.parametrize(
    "claim",
    ["The model is critical.", "This proves it.", "Evidence for criticality in layers.", "The network operates at criticality.", "It is self-organized critical."],
)
def test_lint_wording_refuses_what_cannot_be_shown(claim: str) -> None:
    with pytest.raises(SchemaError, match=r"a\.md, line 2: .* claims too much; write"):
        lint_wording("a.md", f"Fine.\n{claim}")


def test_lint_wording_looks_across_line_breaks_but_not_across_sentences() -> None:
    with pytest.raises(SchemaError, match=r"a\.md, line 1: 'is critical'"):
        lint_wording("a.md", "The model is\ncritical.")
    with pytest.raises(SchemaError, match=r"a\.md, line 3"):
        lint_wording("a.md", "- It is not so.\n\n- The model is critical.")


@pytest.mark.parametrize("claim", ["A power law does not show criticality.", "Quasi-critical at most.", "It does not claim that a\nmodel is critical.", "No claim of criticality."])
def test_lint_wording_lets_a_denial_pass(claim: str) -> None:
    lint_wording("a.md", claim)


def pages_of_the_project() -> Iterator[Path]:
    for pattern in ("README.md", "spec/*.md", "docs/*.md", "checklists/*.md", "tasks/*.md"):
        yield from sorted(tiny.REPO.glob(pattern))


@pytest.mark.parametrize("page", list(pages_of_the_project()), ids=lambda page: page.name)
def test_the_projects_own_pages_claim_no_more(page: Path) -> None:
    if page.name != "22_LANGUAGE_AND_CITATIONS.md":  # it quotes what must not be said
        lint_wording(page.name, page.read_text(encoding="utf-8"))
