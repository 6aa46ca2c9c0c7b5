"""From evidence to the bytes of one HTML page that needs no network (spec 24).

The page carries its style, its scripts, its numbers and its images. Its Content-Security-Policy lets nothing else be loaded and
only these scripts run, each named by its sha256. Whatever comes from a model, a text or a path is escaped by the template.
The same evidence gives the same bytes: no date, no random id, no run id of the report itself.
"""

import base64
import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from avalanche_llm.errors import SchemaError
from avalanche_llm.io.artifacts import index_by_path
from avalanche_llm.io.hashing import code_version, sha256_file
from avalanche_llm.io.store import Upstream
from avalanche_llm.paper.facts import written
from avalanche_llm.plotting.schemas import SCHEMAS
from avalanche_llm.report.captions import FIGURES
from avalanche_llm.report.cautions import NON_CLAIMS, cautions
from avalanche_llm.report.cells import TableView, table_view
from avalanche_llm.report.charts import chart_data
from avalanche_llm.report.checks import checks_of
from avalanche_llm.report.claims import claim_views, tally
from avalanche_llm.report.gather import Evidence, figure_ids
from avalanche_llm.report.overview import lead, measured, subject, tiles
from avalanche_llm.settings import Settings
from avalanche_llm.stages import stages

HERE: Final = Path(__file__).parent
OWN_SCRIPTS: Final = ("tables.js", "charts.js")
SECTIONS: Final = (
    ("warnings", "Read first"),
    ("verdicts", "Verdicts"),
    ("look", "Look closer"),
    ("figures", "Figures"),
    ("tables", "Tables"),
    ("checks", "Checks"),
    ("provenance", "Provenance"),
)
_PNG_SIZE: Final = slice(16, 24)


@dataclass(frozen=True)
class FigureView:
    """One figure: its image, and where it lies. `number` is F01 to F11, `anchor` its place in the page."""

    anchor: str
    number: str
    title: str
    text: str
    alt: str
    data: str
    width: int
    height: int
    path: str
    sha256: str


@dataclass(frozen=True)
class RunView:
    """One run of the chain."""

    run_id: str
    command: str
    role: str
    reads: tuple[str, ...]
    record_sha256: str
    config_sha256: str
    code_version: str
    artifacts: tuple[dict[str, Any], ...]


def render(evidence: Evidence, settings: Settings, config_sha256: str) -> bytes:
    """The page in UTF-8."""
    scripts = [inline_script(text, name) for name, text in _scripts().items()]
    checks, claims = checks_of(evidence), claim_views(evidence)
    charts = chart_data(evidence.sides)
    page = _environment().get_template("template.html.j2").render(
        policy=policy(scripts),
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        scripts=scripts,
        sections=SECTIONS,
        subject=subject(evidence),
        lead=lead(evidence, settings),
        tiles=tiles(evidence, settings.gains.baseline),
        cautions=cautions(evidence, checks),
        non_claims=NON_CLAIMS,
        claims=claims,
        tally=tally(claims),
        models=charts["models"],
        chart_data=htmlsafe_json_dumps(charts, ensure_ascii=False, allow_nan=False, separators=(",", ":")),
        figures=figure_views(evidence),
        tables=table_views(evidence),
        checks=checks,
        measured=measured(evidence, config_sha256),
        runs=[run_view(run) for run in evidence.runs],
        code_version=code_version(),
        paper_id=evidence.paper.run_id,
    )
    return page.encode("utf-8")


def policy(scripts: list[Markup]) -> str:
    """Nothing is loaded; these scripts run and no other. Styles may stand in the page: the plotting library sets them."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    rest = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {hashes}; {rest}"


def inline_script(text: str, name: str) -> Markup:
    """A script as it may stand between script tags. SchemaError where a browser would read it as something else."""
    for forbidden in ("</script", "<!--", "\r"):
        if forbidden in text.lower():
            raise SchemaError(f"{name} holds {forbidden!r}, which cannot stand inside a page; expected a script without it")
    return Markup(text)


def figure_views(evidence: Evidence) -> list[FigureView]:
    """Every figure that a run of the chain holds, in the order of the registry, the paper's own model first."""
    views = []
    for figure_id in figure_ids():
        caption, artifact = FIGURES[figure_id], f"{figure_id}_png"
        held = evidence.holding(artifact)
        for run in held:
            path = run.artifact(artifact)
            png, relative = path.read_bytes(), run.record["artifacts"][artifact]
            width, height = struct.unpack(">II", png[_PNG_SIZE])
            role = run.record["model"]["role"]
            views.append(
                FigureView(
                    f"{figure_id}_{role}",
                    figure_id.split("_")[0] + (f" {role}" if len(held) > 1 else ""),
                    caption.title,
                    caption.text,
                    f"{caption.title}. {caption.alt}",
                    base64.b64encode(png).decode("ascii"),
                    width,
                    height,
                    f"{run.run_id}/{relative}",
                    index_by_path(run.record)[relative]["sha256"],
                )
            )
    return views


def table_views(evidence: Evidence) -> list[TableView]:
    """Every result table that a run of the chain holds."""
    views = []
    for table_id in SCHEMAS:
        frame = evidence.table(table_id)
        if frame is not None:
            views.append(table_view(table_id, frame, [_csv_of(run, table_id) for run in evidence.holding(f"{table_id}_csv")]))
    return views


def run_view(run: Upstream) -> RunView:
    """How the page lists a run."""
    record = run.record
    return RunView(
        run.run_id,
        stages()[run.phase_id].command,
        record["model"]["role"],
        tuple(dependency["run_id"] for dependency in record["dependencies"]),
        sha256_file(run.folder / "run_record.json"),
        record["hashes"]["config_sha256"],
        record["hashes"]["code_version"],
        tuple(sorted(record["artifact_index"], key=lambda entry: str(entry["relative_path"]))),
    )


def _csv_of(run: Upstream, table_id: str) -> tuple[str, str]:
    relative = run.record["artifacts"][f"{table_id}_csv"]
    return f"{run.run_id}/{relative}", index_by_path(run.record)[relative]["sha256"]


def _scripts() -> dict[str, str]:
    own = {name: (HERE / name).read_text(encoding="utf-8") for name in OWN_SCRIPTS}
    return {"plotly.js": get_plotlyjs(), **own}


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        autoescape=True, loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["written"] = written
    return environment
