"""What mkdocs does beside rendering: equations become MathML, and spec/ and the top pages become part of the site.

No page of the site loads anything from elsewhere. A nav entry whose page is not in this checkout is left out.
"""

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TOP = Path(__file__).resolve().parents[1]
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md")
_MATH = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.DOTALL)
_UP = re.compile(r"\]\(\.\./(spec/[\w.]+|[A-Z]+\.md|[\w./]+)(#[\w-]+)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the menu what is not there."""
    config.nav = [entry for entry in config.nav if not isinstance(entry, str) or (TOP / "docs" / entry).is_file()]
    specs = sorted(path.name for path in (TOP / "spec").glob("*.md"))
    config.nav += [{"Specification": [f"spec/{name}" for name in specs]}, {"Project": list(BESIDE)}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The specification and the top pages, as they lie in the repository."""
    for path in [*sorted((TOP / "spec").iterdir()), *(TOP / name for name in BESIDE)]:
        files.append(File.generated(config, path.relative_to(TOP).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link up and out of docs/ becomes one inside the site where its target is part of it, and plain text where it is not."""

    def inside(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if target.startswith("spec/") or target in BESIDE:
            return f"]({target}{anchor})"
        return "](index.md)" if target == "README.md" else "](#)"

    return _UP.sub(inside, markdown) if "/" not in page.file.src_uri else markdown


def on_page_content(content: str, **_: Any) -> str:
    """LaTeX to MathML, which browsers draw by themselves."""

    def drawn(match: re.Match[str]) -> str:
        return convert(html.unescape(match[2].strip()), display="block" if match[1] == "div" else "inline")

    return _MATH.sub(drawn, content)
