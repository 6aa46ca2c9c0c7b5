"""The documentation: its blocks run, its links lead somewhere, its schema page is what the code gives.

A fenced block of bash or python stands below a comment that a reader does not see: `<!-- run -->`, or `<!-- not run: why -->`. Blocks of
a page run in order in a folder where configs/demo.yaml is the tiny config, so that the commands of the page run as they stand.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import yaml

from avalanche_llm.cli import main
from avalanche_llm.io.store import RunStore
from avalanche_llm.schema_page import page
from avalanche_llm.stages import stages

DOCS = tiny.REPO / "docs"
RUN_PAGES = ("README.md", "docs/quickstart.md", "docs/recipes.md", "docs/extending.md")
LINKED = [*tiny.REPO.glob("*.md"), *DOCS.glob("*.md"), *(tiny.REPO / "spec").glob("*.md")]
OURS = ("bash", "python", "yaml")
BLOCK = re.compile(r"(?:<!-- (run|not run: [^\n]+?) -->\n)?^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|^    [^\n]*|`[^`\n]+`", re.MULTILINE | re.DOTALL)
ANY_RUN = re.compile(r"RUN_(S\w+?)_0123456789ab")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    place: str
    mark: str
    language: str
    text: str


def blocks(name: str) -> Iterator[Block]:
    text = (tiny.REPO / name).read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start(3)) + 1
        body = "\n".join(row.removeprefix(found[2]) for row in found[4].splitlines())
        yield Block(f"{name}:{line}", found[1] or "", found[3], body)


@pytest.fixture(scope="module")
def workspace(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose configs/demo.yaml is the tiny config, with every phase complete."""
    folder = tmp_path_factory.mktemp("docs")
    smaller = {"gains__grid": [0.8, 1.0], "datasets__ARC_MCQ__n_questions": 6}
    tiny.write_config(folder / "configs" / "demo.yaml", model_folder, **smaller)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run_all", "--config", "configs/demo.yaml"]) == 0
    return folder


def run_lines(text: str, folder: Path) -> None:
    """Each line of a bash block: our own commands in this process, anything else by bash."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:3] == ["python", "-m", "avalanche_llm"]:
            assert main(words[3:]) == 0, line
        elif words:
            subprocess.run(["bash", "-c", line], cwd=folder, check=True, timeout=600)


def test_times_and_memory_of_the_readme_are_those_of_the_benchmark() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+) \| ([\d.]+) \|$", (tiny.REPO / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    measured = json.loads((DOCS / "performance.json").read_text(encoding="utf-8"))["commands"]["commands"]
    assert {name: (s, gib) for name, s, gib in rows} == {
        name: (f"{of['wall_s']:.0f}", f"{of['peak_gib']:.1f}") for name, of in measured.items()
    }


@pytest.mark.parametrize("name", RUN_PAGES)
def test_blocks_run_in_order(name: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    names: dict[str, object] = {"__name__": "docs"}
    ran = 0
    for block in blocks(name):
        if block.mark == "run":
            ran += 1
            text = ANY_RUN.sub(lambda found: sorted((workspace / "runs").glob(f"RUN_{found[1]}_*"))[0].name, block.text)
            if block.language == "python":
                exec(compile(text, block.place, "exec"), names)
            else:
                run_lines(text, workspace)
    assert ran > 0


@pytest.mark.parametrize("name", RUN_PAGES)
def test_every_block_says_whether_it_runs(name: str) -> None:
    silent = [block.place for block in blocks(name) if block.language in OURS and not block.mark]
    assert silent == []


@pytest.mark.parametrize("name", RUN_PAGES)
def test_commands_that_do_not_run_at_least_parse(name: str) -> None:
    from avalanche_llm.cli import build_parser

    for block in blocks(name):
        if block.language == "bash" and block.mark != "run":
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:3] == ["python", "-m", "avalanche_llm"]:
                    _, unknown = build_parser().parse_known_args(words[3:])
                    assert unknown == [], f"{block.place}: {line}"
        elif block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict), block.place


def anchors(path: Path) -> set[str]:
    """The headings of a page as a link names them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower().replace("\\", "")).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.relative_to(tiny.REPO).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in LINK.findall(CODE.sub("", path.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = path.parent / place if place else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_schema_page_is_what_the_code_gives(workspace: Path) -> None:
    made = page(RunStore(workspace / "runs"))
    if os.environ.get("WRITE_SCHEMAS"):  # make schemas
        (DOCS / "schemas.md").write_text(made, encoding="utf-8")
    assert (DOCS / "schemas.md").read_text(encoding="utf-8") == made, "run `make schemas`"


def test_schema_page_names_every_artifact() -> None:
    text = (DOCS / "schemas.md").read_text(encoding="utf-8")
    assert [path for stage in stages().values() for path in stage.artifacts.values() if path not in text] == []


def test_menu_names_every_page() -> None:
    menu = yaml.safe_load((tiny.REPO / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = {next(iter(entry.values())) if isinstance(entry, dict) else entry for entry in menu}
    assert {path.name for path in DOCS.glob("*.md")} <= named


def test_site_loads_nothing_from_elsewhere() -> None:
    """The parts of the theme that would fetch fonts, scripts or pictures are off."""
    config = yaml.safe_load((tiny.REPO / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["theme"]["font"] is False
    assert set(config["plugins"]) == {"search"}
    assert "extra_javascript" not in config
