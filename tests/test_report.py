"""The report over a tiny measurement full of markup: what is on the page, that nothing else can get in, and the numbers behind it."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report_case
import tiny
from markupsafe import escape
from report_case import EVIL_TOKEN
from scipy import ndimage

from avalanche_llm.cli import main
from avalanche_llm.errors import DeterminismError, MissingArtifact, SchemaError
from avalanche_llm.io.artifacts import index_by_path
from avalanche_llm.io.files import raw
from avalanche_llm.io.store import Upstream
from avalanche_llm.paper.lint import lint_wording
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.report import report
from avalanche_llm.plotting.schemas import SCHEMAS
from avalanche_llm.report import page as page_module
from avalanche_llm.report.captions import FIGURES, TABLES
from avalanche_llm.report.cautions import cautions
from avalanche_llm.report.cells import Cell, table_view
from avalanche_llm.report.charts import _packed, chart_data, visible
from avalanche_llm.report.checks import checks_of
from avalanche_llm.report.claims import claim_views, tally
from avalanche_llm.report.gather import PAPER, Evidence, Side, _sides, figure_ids
from avalanche_llm.report.overview import measured
from avalanche_llm.report.page import figure_views, inline_script, render
from avalanche_llm.report.sizes import LOWEST_SHARE, MAX_POINTS, at_least, fitted

ANALYSIS, GRID, SELECT = "PHASE5_ANALYZE_AND_EXPORT", "PHASE2_GAIN_GRID", "PHASE2_SELECT_GSTAR"
VOID = {"meta", "link", "img", "input", "br"}


@dataclass
class Node:
    """One element: its attributes, its place in the page, and the text directly inside."""

    tag: str
    attributes: dict[str, str]
    inside: tuple[str, ...]
    text: str = ""


@dataclass
class Parsed(HTMLParser):
    """Every element of a page, read as a browser would: scripts and styles are raw text."""

    nodes: list[Node] = field(default_factory=list)
    stack: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs}, tuple(above.tag for above in self.stack))
        self.nodes.append(node)
        if tag not in VOID:
            self.stack.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.stack:
            self.stack[-1].text += data

    def all(self, tag: str) -> list[Node]:
        return [node for node in self.nodes if node.tag == tag]

    def by_id(self, name: str) -> Node:
        (node,) = (node for node in self.nodes if node.attributes.get("id") == name)
        return node


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Every phase up to the paper. Read only."""
    return report_case.measured(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def evidence(job: Job) -> Evidence:
    return Evidence.of(job.store, job.upstream(PAPER))


@pytest.fixture(scope="module")
def page(job: Job, evidence: Evidence) -> bytes:
    return render(evidence, job.settings, job.config.sha256)


@pytest.fixture(scope="module")
def parsed(page: bytes) -> Parsed:
    found = Parsed()
    found.feed(page.decode("utf-8"))
    found.close()
    assert not found.stack
    return found


@pytest.fixture(scope="module")
def charts(parsed: Parsed) -> dict[str, Any]:
    """What the page's own script reads."""
    return dict(json.loads(parsed.by_id("chart-data").text)["models"][0])


@dataclass(frozen=True)
class Doctored(Side):
    """A side where some artifacts read otherwise than they lie on disk."""

    frames: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    def frame(self, phase_id: str, artifact: str) -> pd.DataFrame:
        return self.frames[artifact] if artifact in self.frames else super().frame(phase_id, artifact)

    def json(self, phase_id: str, artifact: str) -> Any:
        return self.values[artifact] if artifact in self.values else super().json(phase_id, artifact)


def doctored(evidence: Evidence, **artifacts: Any) -> Evidence:
    """The same evidence with some artifacts of its side replaced."""
    side = evidence.sides[0]
    frames = {name: value for name, value in artifacts.items() if isinstance(value, pd.DataFrame)}
    values = {name: value for name, value in artifacts.items() if name not in frames}
    return replace(evidence, sides=(Doctored(side.role, side.runs, frames, values),))


def summary_of(evidence: Evidence) -> pd.DataFrame:
    return evidence.sides[0].frame(ANALYSIS, "T01_SUMMARY_parquet")


def test_render_gives_the_same_bytes_in_another_process(job: Job, page: bytes) -> None:
    program = (
        "import sys; from pathlib import Path; from avalanche_llm.phases.job import JobRequest;"
        "from avalanche_llm.report.gather import Evidence; from avalanche_llm.report.page import render; import hashlib;"
        "job = JobRequest(Path(sys.argv[1]), runs_dir=Path(sys.argv[2])).job();"
        "evidence = Evidence.of(job.store, job.upstream('PHASE7_PAPER_EXPORT'));"
        "print(hashlib.sha256(render(evidence, job.settings, job.config.sha256)).hexdigest())"
    )
    config = job.store.root.parent / "tiny.yaml"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(tiny.REPO)}
    command = [sys.executable, "-c", program, str(config), str(job.store.root)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.strip() == hashlib.sha256(page).hexdigest()


def test_page_loads_nothing(parsed: Parsed) -> None:
    addresses = [
        node.attributes[name] for node in parsed.nodes for name in ("src", "href", "srcset", "action", "data") if name in node.attributes
    ]
    assert addresses
    assert [address[:60] for address in addresses if not address.startswith(("data:", "#"))] == []
    assert {node.tag for node in parsed.nodes}.isdisjoint({"iframe", "object", "embed", "base", "video", "audio"})
    (style,) = parsed.all("style")
    assert "@import" not in style.text
    assert "url(" not in style.text


def test_policy_lets_only_these_scripts_run(parsed: Parsed) -> None:
    (meta,) = (node for node in parsed.all("meta") if node.attributes.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in meta.attributes["content"].split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    scripts = [node for node in parsed.all("script") if "type" not in node.attributes]
    hashes = [base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode() for script in scripts]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in hashes]
    assert len(scripts) == 1 + len(page_module.OWN_SCRIPTS)
    policy_place, first_script = parsed.nodes.index(meta), parsed.nodes.index(parsed.all("script")[0])
    assert policy_place < first_script


@pytest.mark.parametrize("text", ["a = '</SCRIPT>'", "x <!-- y", "a\r\nb"])
def test_inline_script_refuses_what_a_browser_reads_otherwise(text: str) -> None:
    with pytest.raises(SchemaError, match=r"chart\.js holds .* expected a script without it"):
        inline_script(text, "chart.js")


def test_model_ids_and_tokens_are_text(parsed: Parsed, page: bytes, charts: dict[str, Any], evidence: Evidence) -> None:
    assert not any("alert(" in script.text for script in parsed.all("script") if "type" not in script.attributes)
    assert Counter(node.attributes.get("type", "") for node in parsed.all("script")) == {"": 3, "application/json": 1}
    model_id = evidence.sides[0].model_id
    assert "<script>" in model_id
    (title,) = (node for node in parsed.nodes if node.attributes.get("class") == "model")
    assert title.text == model_id
    assert EVIL_TOKEN in charts["sequence"]["tokens"]
    assert b"<script>alert" not in page


def test_page_is_well_formed_and_ids_are_unique(parsed: Parsed) -> None:
    ids = Counter(node.attributes["id"] for node in parsed.nodes if "id" in node.attributes)
    assert [name for name, times in ids.items() if times > 1] == []
    targets = {node.attributes["href"][1:] for node in parsed.all("a")}
    assert targets <= ids.keys()
    named = {node.attributes["for"] for node in parsed.nodes if "for" in node.attributes}
    assert named <= ids.keys()
    assert all(node.attributes.get("alt") or node.inside[-1] == "dialog" for node in parsed.all("img"))
    assert len(parsed.all("h1")) == 1


def test_warnings_come_before_every_other_section(parsed: Parsed) -> None:
    assert [node.attributes["id"] for node in parsed.all("section")] == [name for name, _ in page_module.SECTIONS]
    assert page_module.SECTIONS[0][0] == "warnings"


def test_verdicts_show_every_claim_of_the_paper(page: bytes, parsed: Parsed, evidence: Evidence) -> None:
    claims = evidence.claims["claims"]
    views = claim_views(evidence)
    assert [(view.title, view.verdict, view.sentence) for view in views] == [
        (claim["title"], claim["verdict"], claim["sentence"]) for claim in claims
    ]
    for view in views:
        share = {"supported": view.k == view.n, "mixed": 0 < view.k < view.n, "not supported": view.k == 0, "undetermined": view.n == 0}
        assert share[view.verdict]
        assert str(escape(view.sentence)) in page.decode("utf-8")
        assert all(str(escape(fact["row"])) in page.decode("utf-8") for fact in view.facts)
    assert {len(claim["facts"]) - len(view.facts) for claim, view in zip(claims, views, strict=True)} == {0, 2}
    shown = [node.text for node in parsed.nodes if node.attributes.get("class") == "verdict" and "ol" in node.inside]
    assert [text.strip() for text in shown] == [view.verdict for view in views]
    counts = Counter(view.verdict for view in views)
    assert sum(int(part.split()[0]) for part in tally(views).split(", ")) == len(views)
    assert f"{counts['undetermined']} undetermined" in tally(views)


def test_claim_views_refuse_a_verdict_of_another_kind(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = {"claims": [{**evidence.claims["claims"][0], "verdict": "proven"}]}
    monkeypatch.setattr(Evidence, "claims", claims)
    with pytest.raises(SchemaError, match="claim rates_matched: verdict must be one of supported, .* found 'proven'"):
        claim_views(evidence)


def test_no_sentence_of_the_page_claims_too_much(parsed: Parsed) -> None:
    words = [node.text for node in parsed.nodes if node.tag not in ("script", "style")]
    words += [node.attributes[name] for node in parsed.nodes for name in ("alt", "title", "aria-label") if name in node.attributes]
    assert sum("critical" in text for text in words) >= 2  # the non-claims are among them
    for text in words:
        lint_wording("report.html", text)


def test_every_figure_is_shown_with_its_bytes(parsed: Parsed, evidence: Evidence) -> None:
    views = {view.anchor: view for view in figure_views(evidence)}
    assert [view.anchor for view in views.values()] == [f"{name}_INSTRUCT" for name in figure_ids()]
    shown = [node for node in parsed.all("img") if node.attributes.get("src")]
    for view, image in zip(views.values(), shown, strict=True):
        data = base64.b64decode(image.attributes["src"].removeprefix("data:image/png;base64,"))
        run_id, relative = view.path.split("/", 1)
        (run,) = (run for run in evidence.runs if run.run_id == run_id)
        assert hashlib.sha256(data).hexdigest() == view.sha256 == index_by_path(run.record)[relative]["sha256"]
        assert (int(image.attributes["width"]), int(image.attributes["height"])) == (view.width, view.height)


def test_captions_cover_every_figure_and_table() -> None:
    assert list(FIGURES) == list(figure_ids())
    assert list(TABLES) == list(SCHEMAS)


def test_tables_hold_every_row_and_value(parsed: Parsed, evidence: Evidence) -> None:
    tables = [node.attributes["id"] for node in parsed.all("table") if node.attributes.get("id", "").startswith("t-")]
    assert tables == ["t-T01_SUMMARY", "t-T02_GENERALIZATION", "t-T03_ARC", "t-T04_TAIL_FITS", "t-T05_CRACKLING_DIAGNOSTICS", "t-T06_ABLATIONS"]
    frame = summary_of(evidence)
    view = table_view("T01_SUMMARY", frame)
    names = [heading.name for heading in view.headings]
    for column in ("b_tot", "chi", "opt_occupancy", "n_avalanches"):
        place = names.index(column)
        shown = [float(row.cells[place].exact or row.cells[place].text) for row in view.rows]
        assert shown == frame[column].tolist()
    assert dict(view.same)["run_id"] == evidence.sides[0].runs[ANALYSIS].run_id
    assert not set(dict(view.same)) & set(names)


def test_table_view_shortens_numbers_and_names_what_is_missing(evidence: Evidence) -> None:
    frame = summary_of(evidence).iloc[:2].copy()
    frame["crackling_gamma"] = [1.23456, np.nan]
    frame.loc[frame.index[1], "run_id"] = "RUN_S05_other0000000"
    view = table_view("T01_SUMMARY", frame)
    place = [heading.name for heading in view.headings].index("crackling_gamma")
    assert [row.cells[place] for row in view.rows] == [Cell("1.23", "1.23456"), Cell("n/a")]
    assert "run_id" in [heading.name for heading in view.headings]
    assert [row.label for row in view.rows] == ["one-sided, 0.002, g 0.8", "one-sided, 0.002, g 1"]
    assert view.n_optional == sum(column.name.startswith("opt_") for column in SCHEMAS["T01_SUMMARY"].columns)


def test_chart_data_holds_the_curves_of_the_summary(charts: dict[str, Any], evidence: Evidence) -> None:
    frame = summary_of(evidence)
    assert len(charts["cells"]) == 2 * len(tiny.RATES)
    for name, cell in charts["cells"].items():
        spike_def, rate = name.split("|")
        rows = frame[(frame["spike_def_id"] == spike_def) & (frame["target_rate"] == float(rate))].sort_values("g")
        assert cell["g"] == rows["g"].tolist() == tiny.GAINS
        np.testing.assert_allclose(cell["curves"]["b_tot"]["value"], rows["b_tot"], rtol=1e-5)
        np.testing.assert_allclose(cell["curves"]["delta_b_tot"]["low"], rows["opt_delta_b_tot_ci_low"], rtol=1e-5)
        np.testing.assert_allclose(cell["curves"]["twice_occupancy"]["value"], 2 * rows["opt_occupancy"], rtol=1e-5)


@pytest.mark.parametrize(("method", "first"), [("btot_near_one", 2), ("excess_peak", 3), ("mr_near_one", 1)])
def test_chart_data_shows_the_cell_first_that_fits_the_rule_best(evidence: Evidence, method: str, first: int) -> None:
    """One criterion for every rule would choose another cell for two of the three."""
    criteria = {"btot_near_one": [0.4, 0.5, 1.1, 1.3], "excess_peak": [0.4, 0.5, 1.1, 1.3], "mr_near_one": [0.8, 0.9, 0.2, 0.1]}
    rows = [
        {**row, "criterion": criterion} for row, criterion in zip(evidence.sides[0].selections, criteria[method], strict=True)
    ]
    (model,) = chart_data(doctored(evidence, gstar={"method": method, "selections": rows}).sides)["models"]
    assert model["first"] == {"definition": rows[first]["spike_def_id"], "rate": repr(rows[first]["target_rate"])}


def test_chart_data_holds_the_rasters_of_one_held_out_sequence(charts: dict[str, Any], evidence: Evidence) -> None:
    side = evidence.sides[0]
    arrays = np.load(side.runs["PHASE3_EXTRACT_RASTERS"].artifact("rasters_token_layer"))
    conditions = side.frame("PHASE3_EXTRACT_RASTERS", "metrics")
    for row in conditions.to_dict("records"):
        drawn = charts["cells"][f"{row['spike_def_id']}|{row['target_rate']!r}"]["rasters"]
        (raster,) = (one for one in drawn if one["is"] == row["g_condition"])
        counts = arrays["A"][row["cond_id"], 0]
        np.testing.assert_array_equal(unpacked(raster["counts"]).reshape(counts.shape), counts)
        labels = np.zeros(counts.shape, dtype=np.int64)
        labels[counts > 0] = unpacked(raster["labels"])
        expected, n = ndimage.label(counts > 0)
        assert len(np.unique(labels[counts > 0])) == n
        pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
        assert len(pairs) == n + 1  # one to one, the silent sites included
    tokens = side.frame("PHASE3_EXTRACT_RASTERS", "raster_tokens")
    texts = tokens[tokens["seq_id"] == 0].sort_values("token")["text"]
    assert charts["sequence"]["tokens"] == [visible(text) for text in texts]


def unpacked(packed: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["data"]), dtype=f"<u{packed['bytes']}")


def test_chart_data_holds_the_share_of_avalanches_at_least_as_large(charts: dict[str, Any], evidence: Evidence) -> None:
    side = evidence.sides[0]
    rows = side.frame(ANALYSIS, "avalanches")
    conditions = side.frame(ANALYSIS, "metrics").set_index("cond_id")
    for cond_id, row in conditions.iterrows():
        cell = charts["cells"][f"{row['spike_def_id']}|{row['target_rate']!r}"]
        (curve,) = (curve for curve in cell["sizes"] if curve["g"] == row["g"])
        sizes = rows[(rows["cond_id"] == cond_id) & (rows["adjacency_id"] == "ADJ_4N")]["size"].to_numpy()
        assert curve["n"] == len(sizes)
        assert curve["at_least"] == [int((sizes >= size).sum()) for size in curve["size"]]
        assert curve["size"][-1] == sizes.max()


def test_at_least_keeps_every_size_and_thins_only_long_curves() -> None:
    values, above = at_least(np.array([1, 1, 1, 2, 5]))
    assert (values.tolist(), above.tolist()) == ([1, 2, 5], [5, 2, 1])
    many = np.arange(1, 5000)
    values, above = at_least(many)
    assert len(values) <= MAX_POINTS
    assert (values[0], values[-1]) == (1, 4999)
    assert above.tolist() == [int((many >= size).sum()) for size in values]


def test_fitted_laws_are_the_sums_of_their_probabilities() -> None:
    row = {
        "alpha_powerlaw": 2.4,
        "lambda_exponential": 0.3,
        "lognorm_mu": 0.5,
        "lognorm_sigma": 1.1,
        "xmin": 3.0,
        "n_tail": 600.0,
    }
    curves = fitted(row, 1000, 12)
    x = np.arange(3, 200_000, dtype=np.float64)
    masses = {"power law": x**-2.4, "exponential": np.exp(-0.3 * x)}
    for law, mass in masses.items():
        tail = mass[::-1].cumsum()[::-1] / mass.sum()
        sizes, shares = (np.array(axis) for axis in curves[law])
        np.testing.assert_allclose(shares, 0.6 * tail[(sizes - 3).astype(int)], rtol=2e-3)
    assert all(curve[1][0] == pytest.approx(0.6, rel=1e-3) for curve in curves.values())
    assert all(np.diff(curve[1]).max() < 0 for curve in curves.values())
    assert fitted({**row, "alpha_powerlaw": np.nan}, 1000, 12) == {}


def test_fitted_laws_end_where_less_than_a_fifth_of_an_avalanche_is_left() -> None:
    row = {
        "alpha_powerlaw": 2.4,
        "lambda_exponential": 0.3,
        "lognorm_mu": 0.5,
        "lognorm_sigma": 1.1,
        "xmin": 1.0,
        "n_tail": 100.0,
    }
    sizes, shares = fitted(row, 100, 10_000)["exponential"]
    assert min(shares) >= LOWEST_SHARE / 100
    assert sizes[-1] < 10_000
    assert np.exp(-0.3 * (1.5 * sizes[-1] - 1)) < LOWEST_SHARE / 100  # the next size drawn would lie below


def test_visible_shows_line_ends_and_hides_nothing() -> None:
    assert visible(" a\n\tb") == " a⏎⇥b"
    assert visible("x\u202ey\x00\ud800") == "x\ufffdy\ufffd\ufffd"


def test_checks_hold_on_an_honest_measurement(evidence: Evidence) -> None:
    found = {check.name: check for check in checks_of(evidence)}
    assert all(found[name].passed for name in ("rate_match_abs", "rate_match_rel", "marginals_exact", "rows_cover_grid", "slices_disjoint"))
    assert found["artifact_hash_holds"].numbers == {
        "files": sum(len(run.record["artifact_index"]) for run in evidence.runs),
        "runs": 9,
    }
    assert found["rows_cover_grid"].numbers["rows"] == 2 * len(tiny.RATES) * len(tiny.GAINS)
    grid = evidence.sides[0].frame(GRID, "tau_rate_matched")
    assert found["rate_match_rel"].numbers["largest error"] == grid["rel_err"].max()


def broken(evidence: Evidence, case: str) -> tuple[str, Evidence]:
    """One artifact spoiled, and the check that has to say so."""
    side = evidence.sides[0]
    match case:
        case "rates":
            rows = side.frame(GRID, "tau_rate_matched")
            few = rows.assign(kept_events=rows["kept_events"] // 2)
            return "rate_match_rel", doctored(evidence, tau_rate_matched=few)
        case "surrogates":
            rows = side.frame("PHASE4_RUN_NULLS", "null_marginals").assign(marginals_exact=False)
            return "marginals_exact", doctored(evidence, null_marginals=rows)
        case "rows":
            return "rows_cover_grid", doctored(evidence, T01_SUMMARY_parquet=summary_of(evidence).iloc[1:])
        case "gain":
            frame = summary_of(evidence)
            return "rows_cover_grid", doctored(evidence, T01_SUMMARY_parquet=frame[frame["g"] != tiny.GAINS[0]])
        case "pairs":
            rows = side.frame("PHASE6_ARC_MCQ_EVAL", "T03_ARC_parquet").iloc[1:]
            return "pairs_complete", doctored(evidence, T03_ARC_parquet=rows)
        case "cell":
            rows = side.frame("PHASE6_ARC_MCQ_EVAL", "T03_ARC_parquet")
            return "pairs_complete", doctored(evidence, T03_ARC_parquet=rows[rows["target_rate"] != tiny.RATES[0]])
        case _:
            rows = [{**row, "status": "grid_edge"} for row in side.selections]
            return "gstar_bracketed", doctored(evidence, gstar={"selections": rows})


@pytest.mark.parametrize("case", ["rates", "surrogates", "rows", "gain", "pairs", "cell", "gstar"])
def test_checks_fail_where_an_artifact_says_so(evidence: Evidence, case: str) -> None:
    name, spoiled = broken(evidence, case)
    failed = [check for check in checks_of(spoiled) if check.name == name and not check.passed]
    assert len(failed) == 1


def test_cautions_count_what_the_artifacts_say(evidence: Evidence) -> None:
    checks = checks_of(evidence)
    found = {caution.headline: caution for caution in cautions(evidence, checks)}
    frame = summary_of(evidence)
    density = found["Density alone explains much of b_tot"]
    assert (density.k, density.n) == (int((frame["b_tot_perm"] / frame["b_tot"] > 0.5).sum()), len(frame))
    statuses = [row["status"] for row in evidence.sides[0].selections]
    missed = sum(status != "bracketed" for status in statuses)
    assert ("g* locates nothing" in found) == bool(missed)
    errors = evidence.sides[0].frame("PHASE3_EXTRACT_RASTERS", "metrics")["heldout_rate_max_rel_err"]
    held_out = found["Event rates do not hold on held-out windows of data set A"]
    assert (held_out.k, held_out.n) == (int((errors > 0.02).sum()), len(errors))
    failed = [check for check in checks if not check.passed]
    assert ("Some checks do not hold" in found) == bool(failed)


@pytest.mark.parametrize(
    ("method", "missed"),
    [
        ("btot_near_one", "b_tot does not cross one at the chosen gain, which is only the gain of the grid with b_tot nearest one"),
        ("excess_peak", "delta_b_tot does not peak at the chosen gain, which is only the gain of the grid with the largest delta_b_tot"),
        ("mr_near_one", "m along tokens does not cross one at the chosen gain, which is only the gain of the grid with m along tokens"),
    ],
)
@pytest.mark.parametrize(("statuses", "k"), [(["bracketed"] * 4, 0), (["bracketed", "grid_edge", "no_crossing", "grid_edge"], 3)])
def test_cautions_name_every_gstar_that_locates_nothing(
    evidence: Evidence, statuses: list[str], k: int, method: str, missed: str
) -> None:
    rows = [{**row, "status": status} for row, status in zip(evidence.sides[0].selections, statuses, strict=True)]
    changed = doctored(evidence, gstar={"method": method, "selections": rows})
    found = [caution for caution in cautions(changed, []) if "locates nothing" in caution.headline]
    assert [(caution.k, caution.n) for caution in found] == ([(k, 4)] if k else [])
    assert all(caution.text.startswith(missed) for caution in found)


@pytest.mark.parametrize(("over_threshold", "expected"), [([0.4, 1.0], []), ([0.4, 1.1], [1]), ([1.2, 1.1], [2])])
def test_cautions_count_rasters_over_the_percolation_threshold(
    evidence: Evidence, over_threshold: list[float], expected: list[int]
) -> None:
    frame = summary_of(evidence).iloc[:2].assign(opt_occupancy_over_pc_4n=over_threshold)
    found = cautions(doctored(evidence, T01_SUMMARY_parquet=frame), [])
    assert [caution.k for caution in found if "percolation" in caution.headline] == expected


def test_cautions_name_kernels_that_were_not_deterministic(evidence: Evidence) -> None:
    first = evidence.runs[0]
    loose = {**first.record, "determinism": {**first.record["determinism"], "unavailable": ["cumsum_cuda"]}}
    changed = replace(evidence, runs=(replace(first, record=loose), *evidence.runs[1:]))
    texts = {caution.headline: caution.text for caution in cautions(changed, [])}
    assert texts["Not every kernel was deterministic"] == "cumsum_cuda."


def test_cautions_name_runs_of_different_code(evidence: Evidence) -> None:
    first = evidence.runs[0]
    other = {**first.record, "hashes": {**first.record["hashes"], "code_version": "0.0.1+src.aaaaaaaaaaaa"}}
    changed = replace(evidence, runs=(replace(first, record=other), *evidence.runs[1:]))
    texts = {caution.headline: caution.text for caution in cautions(changed, [])}
    assert "0.0.1+src.aaaaaaaaaaaa" in texts["The runs were made by different code"]


def two_sided(evidence: Evidence) -> Evidence:
    """The same runs once more as those of a BASE model."""

    def as_base(run: Upstream) -> Upstream:
        return replace(run, record={**run.record, "model": {**run.record["model"], "role": "BASE", "id": "base & sons"}})

    side = evidence.sides[0]
    twin = Side("BASE", {phase_id: as_base(run) for phase_id, run in side.runs.items()})
    return replace(evidence, sides=(side, twin))


def test_measured_names_the_windows_of_both_tokenizers(evidence: Evidence) -> None:
    """One role, two hashes: the second model's windows may not hide the first's."""
    first = evidence.runs[0]
    entry = {**first.record["dataset"]["A_CALIBRATION"], "sha256": "f" * 64}
    twin = replace(first, record={**first.record, "dataset": {"A_CALIBRATION": entry}})
    rows = measured(replace(evidence, runs=(*evidence.runs, twin)), "0" * 64)
    hashes = [row.sha256 for row in rows if row.name == "data A_CALIBRATION"]
    assert sorted(hashes) == sorted([first.record["dataset"]["A_CALIBRATION"]["sha256"], "f" * 64])


def test_packed_labels_beyond_two_bytes_are_not_cut() -> None:
    """A long raster with many components, where the config allows them."""
    labels = np.array([1, 255, 256, 65_535, 65_536, 163_840])
    np.testing.assert_array_equal(unpacked(_packed(labels)), labels)


def test_a_base_model_stands_beside_the_other(job: Job, evidence: Evidence) -> None:
    found = Parsed()
    found.feed(render(two_sided(evidence), job.settings, job.config.sha256).decode("utf-8"))
    ids = Counter(node.attributes["id"] for node in found.nodes if "id" in node.attributes)
    assert [name for name, times in ids.items() if times > 1] == []
    assert {f"{name}_{role}" for name in figure_ids() for role in ("INSTRUCT", "BASE")} <= ids.keys()
    assert [node.text for node in found.all("option")] == [f"INSTRUCT: {evidence.sides[0].model_id}", "BASE: base & sons"]
    data = json.loads(found.by_id("chart-data").text)
    assert [model["role"] for model in data["models"]] == ["INSTRUCT", "BASE"]
    headlines = [node.text for node in found.all("h3") if "density" in node.text.lower()]
    assert [headline.split(":")[0] for headline in headlines] == ["INSTRUCT", "BASE"]


def test_sides_put_the_papers_own_model_first(evidence: Evidence) -> None:
    both = [*evidence.runs, *two_sided(evidence).sides[1].runs.values()]
    assert [side.role for side in _sides(both, "BASE")] == ["BASE", "INSTRUCT"]
    without_analysis = [run for run in both if run.record["model"]["role"] == "INSTRUCT" or run.phase_id == GRID]
    assert [side.role for side in _sides(without_analysis, "INSTRUCT")] == ["INSTRUCT"]


def test_provenance_names_every_run_with_its_hashes(page: bytes, evidence: Evidence) -> None:
    text = page.decode("utf-8")
    for run in evidence.runs:
        assert f'<li id="{run.run_id}">' in text
        assert hashlib.sha256((run.folder / "run_record.json").read_bytes()).hexdigest() in text
        for entry in run.record["artifact_index"]:
            assert entry["sha256"] in text


@pytest.fixture
def own_runs(job: Job, tmp_path: Path) -> Job:
    """The same runs in a folder of our own, writable."""
    return replace(job, store=replace(job.store, root=tiny.copied(job.store.root, tmp_path / "runs")))


def test_report_writes_one_complete_run(own_runs: Job, page: bytes) -> None:
    run = own_runs.store.get(report(own_runs))
    assert run.artifact("report").read_bytes() == page
    assert [dependency["phase_id"] for dependency in run.record["dependencies"]] == [PAPER]


def test_report_refuses_to_resume_over_another_page(own_runs: Job) -> None:
    begun = own_runs.begin("REPORT")
    begun.save("report", raw(b"another page"))
    begun.release()
    with pytest.raises(DeterminismError, match="was begun over other runs"):
        report(replace(own_runs, allow_resume=True))


def test_report_refuses_a_changed_run_before_it_writes(own_runs: Job) -> None:
    tiny.flip_a_byte(next(own_runs.store.root.glob("RUN_S01_*/results/calibration_stats.npz")))
    with pytest.raises(MissingArtifact, match=r"RUN_S01_\w+ is changed: results/calibration_stats\.npz"):
        report(own_runs)
    assert list(own_runs.store.root.glob("RUN_S09_*")) == []


def test_report_refuses_a_run_that_the_paper_does_not_rest_on(own_runs: Job) -> None:
    with pytest.raises(MissingArtifact, match="RUN_S05_000000000000 is not among the 9 runs"):
        report(replace(own_runs, pinned=(own_runs.upstream(PAPER).run_id, "RUN_S05_000000000000")))


def test_report_command_takes_the_config_of_a_named_run(own_runs: Job, capsys: pytest.CaptureFixture[str]) -> None:
    root, paper = own_runs.store.root, own_runs.upstream(PAPER).run_id
    assert main(["report", paper, "--runs_dir", str(root)]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert re.fullmatch(r"RUN_S09_[0-9a-f]{12}", folder.name)
    assert main(["report", paper, "--runs_dir", str(root)]) == 4
    assert main(["report", "RUN_S07_000000000000", "--runs_dir", str(root)]) == 3
