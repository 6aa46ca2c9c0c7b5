"""The resolver: references, merging, overrides, canonical bytes."""

import copy
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from avalanche_llm.canon import Canon, load_canon, parse_canon
from avalanche_llm.config import Overrides, canonical_yaml, load_merged, merge, resolve_config, resolve_references
from avalanche_llm.errors import ConfigError
from avalanche_llm.run_id import content_run_id
from avalanche_llm.settings import parse_settings

HASH_OF = "import sys; from pathlib import Path; from avalanche_llm.phases.job import JobRequest; print(JobRequest(Path(sys.argv[1])).job().config.sha256)"
OVERRIDES = {
    "device": ("cuda:1", ("run", "device")),
    "dtype": ("bf16", ("run", "dtype")),
    "gstar_method": ("excess_peak", ("pipeline", "gstar_method")),
    "arc_split": ("validation", ("datasets", "ARC_MCQ", "split")),
    "arc_config": ("ARC-Easy", ("datasets", "ARC_MCQ", "hf_config")),
    "model_id": ("some/model", ("models", "INSTRUCT", "hf_id")),
    "data_a": ("some/text", ("datasets", "A", "hf_id")),
    "data_b": ("other/text", ("datasets", "B", "hf_id")),
    "model_role": ("BASE", ("run", "model_role")),
}


@pytest.fixture(scope="module")
def canon() -> Canon:
    return load_canon()


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def at(values: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        values = values[key]
    return values


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *strings(item))]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def test_resolve_config_twice_gives_the_same_bytes_and_hash(config: Path, canon: Canon) -> None:
    first, second = resolve_config(config, canon), resolve_config(config, canon)
    assert first.canonical == second.canonical
    assert first.sha256 == second.sha256 == hashlib.sha256(first.canonical).hexdigest()


@pytest.mark.parametrize("seed", ["0", "4242"])
def test_resolve_config_gives_the_same_hash_in_a_process_with_another_hash_seed(config: Path, canon: Canon, seed: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", HASH_OF, str(config)],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == resolve_config(config, canon).sha256


def test_resolve_config_writes_lf_utf8_yaml_in_the_order_of_the_file(tmp_path: Path, canon: Canon) -> None:
    path = write(
        tmp_path,
        "c.yaml",
        "zeta: 1\r\nalpha: é\r\nrates: CANON.CONST.TARGET_LAYER_RATES\r\nagain: CANON.CONST.TARGET_LAYER_RATES\r\n",
    )
    rates = "- 1.0e-05\n- 2.0e-05\n- 4.0e-05\n- 8.0e-05\n"
    assert resolve_config(path, canon).canonical.decode() == f"zeta: 1\nalpha: é\nrates:\n{rates}again:\n{rates}"


def test_resolve_config_of_the_shipped_configs_leaves_no_reference(canon: Canon) -> None:
    for name in ("pipeline.yaml", "demo.yaml"):
        resolved = resolve_config(tiny.REPO / "configs" / name, canon)
        assert not [text for text in strings(dict(resolved.values)) if "CANON." in text]
        assert yaml.safe_load(resolved.canonical) == resolved.values


def test_resolve_config_defaults_to_the_canonical_pipeline(canon: Canon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_config(None, canon).sha256 == resolve_config(tiny.REPO / "configs" / "pipeline.yaml", canon).sha256
    (tmp_path / "configs").mkdir()
    own = write(tmp_path, "configs/pipeline.yaml", f"extends: {tiny.REPO}/configs/pipeline.yaml\nrun: {{dtype: fp32}}\n")
    assert resolve_config(None, canon).sha256 == resolve_config(own, canon).sha256


def test_resolve_references_in_scalars_lists_and_dicts(canon: Canon) -> None:
    value = {
        "a": "CANON.CONST.EPS",
        "b": ["CANON.ENUM.MODEL_ROLE.BASE", {"c": "CANON.CONST.TARGET_LAYER_RATES"}],
        "d": "plain CANON.CONST.EPS",
    }
    before = copy.deepcopy(value)
    assert resolve_references(value, canon) == {
        "a": 1e-6,
        "b": ["BASE", {"c": [1e-5, 2e-5, 4e-5, 8e-5]}],
        "d": "plain CANON.CONST.EPS",
    }
    assert value == before


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"events": {"eps": "CANON.CONST.EPSILON"}}, r"config\.events\.eps: unknown registry reference CANON\.CONST\.EPSILON"),
        ({"grid": [1.0, "CANON.NOPE"]}, r"config\.grid\[1\]: unknown registry reference CANON\.NOPE"),
        ({"eps": "CANON."}, r"unknown registry reference"),
        ({"CANON.CONST.EPS": 1}, r"keys must be plain words, found 'CANON\.CONST\.EPS'"),
        ({"grid": {1: 2}}, r"config\.grid: keys must be plain words, found 1"),
    ],
)
def test_resolve_references_refuses_an_unknown_reference_and_says_where(
    value: dict[str, Any], complaint: str, canon: Canon
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        resolve_references(value, canon)


@pytest.mark.parametrize("left_over", ["CANON.CONST.EPS", "[1, CANON.CONST.EPS]", "{deep: CANON.CONST.EPS}"])
def test_resolve_references_refuses_a_registry_value_that_is_itself_a_reference(left_over: str) -> None:
    registry = parse_canon(f"```yaml\nCANON:\n  CONST:\n    EPS: 1\n    POINTER: {left_over}\n```\n", "spec")
    with pytest.raises(ConfigError, match=r"'CANON\.CONST\.EPS' is itself a reference"):
        resolve_references({"eps": "CANON.CONST.POINTER"}, registry)


def test_load_merged_lays_includes_over_extends_and_the_file_over_both(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "a: {x: 1, y: 1, z: 1, w: 1}\nlist: [1, 2, 3]\nbase: true\n")
    write(tmp_path, "one.yaml", "a: {y: 2, z: 2, w: 2}\n")
    write(tmp_path, "two.yaml", "a: {z: 3, w: 3}\n")
    own = write(tmp_path, "own.yaml", "extends: base.yaml\ninclude: [one.yaml, two.yaml]\na: {w: 4}\nlist: [9]\n")
    assert load_merged(own) == {"a": {"x": 1, "y": 2, "z": 3, "w": 4}, "list": [9], "base": True}


def test_load_merged_finds_companions_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, "deep/base.yaml", "include: [companion.yaml]\n")
    write(tmp_path, "deep/companion.yaml", "from: deep\n")
    assert load_merged(write(tmp_path, "own.yaml", "extends: deep/base.yaml\n")) == {"from": "deep"}


@pytest.mark.parametrize("text", ["extends: circle.yaml", "include: [circle.yaml]"])
def test_load_merged_refuses_a_circle(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is there a circle"):
        load_merged(write(tmp_path, "circle.yaml", text))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [1, 2", "is not valid yaml"),
        ("a: 1\n\tb: 2", "is not valid yaml"),
        ("a: !!python/object:os.system {}", "is not valid yaml"),
        ("- a\n- b\n", "must hold one mapping, found list"),
        ("", "must hold one mapping, found NoneType"),
        ("just words", "must hold one mapping, found str"),
        ("extends: [a.yaml]", "`extends` must name one file"),
        ("include: a.yaml", "`include` a list of files"),
        ("extends: nowhere.yaml", "nowhere.yaml does not exist"),
    ],
)
def test_load_merged_refuses_a_malformed_file_in_one_line(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_merged(write(tmp_path, "bad.yaml", text))
    assert "\n" not in str(caught.value)


def test_load_merged_refuses_bytes_that_are_no_text_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="is not valid yaml"):
        load_merged(tmp_path / "binary.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_merged(tmp_path)


def test_merge_changes_neither_of_its_inputs() -> None:
    below, above = {"a": {"x": 1}, "b": [1]}, {"a": {"y": 2}, "b": {"now": "a mapping"}}
    kept = copy.deepcopy((below, above))
    assert merge(below, above) == {"a": {"x": 1, "y": 2}, "b": {"now": "a mapping"}}
    assert (below, above) == kept


@pytest.mark.parametrize("name", OVERRIDES)
def test_resolve_config_puts_each_override_into_the_config_and_changes_the_hash(name: str, config: Path, canon: Canon) -> None:
    value, place = OVERRIDES[name]
    plain, changed = resolve_config(config, canon), resolve_config(config, canon, Overrides(**{name: value}))
    assert at(changed.values, place) == value
    assert changed.sha256 != plain.sha256
    assert content_run_id("S01", changed.canonical) != content_run_id("S01", plain.canonical)
    undone = copy.deepcopy(dict(changed.values))
    at(undone, place[:-1])[place[-1]] = at(plain.values, place)
    assert canonical_yaml(undone) == plain.canonical  # and nothing else changed


def test_overrides_are_the_ones_tested_here() -> None:
    assert set(OVERRIDES) == set(vars(Overrides()))


def test_resolve_config_names_the_model_of_the_role_that_the_run_uses(config: Path, canon: Canon) -> None:
    resolved = resolve_config(config, canon, Overrides(model_role="BASE", model_id="some/base"))
    assert resolved.values["models"]["BASE"] == {"hf_id": "some/base"}
    assert resolved.values["models"]["INSTRUCT"]["hf_id"] != "some/base"
    assert parse_settings(resolved.values).model.hf_id == "some/base"


@pytest.mark.parametrize("role", ["[BASE]", "{BASE: 1}", "null"])
def test_a_model_role_that_is_none_is_a_config_error_also_with_model_id(role: str, config: Path, canon: Canon, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"extends: {config}\nrun: {{model_role: {role}}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.model_role: Input should be 'BASE' or 'INSTRUCT'"):
        parse_settings(resolve_config(bad, canon, Overrides(model_id="some/model")).values)


def test_resolve_config_resolves_references_of_the_command_line_too(config: Path, canon: Canon) -> None:
    resolved = resolve_config(config, canon, Overrides(model_id="CANON.MODEL.LLAMA31_8B_BASE.HF_ID"))
    assert resolved.values["models"]["INSTRUCT"]["hf_id"] == "meta-llama/Llama-3.1-8B"
    with pytest.raises(ConfigError, match=r"unknown registry reference CANON\.MODEL\.NOPE"):
        resolve_config(config, canon, Overrides(model_id="CANON.MODEL.NOPE"))


def test_scope_sha256_sees_only_its_parts(config: Path, canon: Canon) -> None:
    scope = ("run", "models.{role}", "datasets.A", "not.there")
    plain = resolve_config(config, canon).scope_sha256(scope)
    assert resolve_config(config, canon, Overrides(data_b="other", arc_split="x")).scope_sha256(scope) == plain
    for override in (Overrides(data_a="other"), Overrides(dtype="bf16"), Overrides(model_id="m"), Overrides(model_role="BASE")):
        assert resolve_config(config, canon, override).scope_sha256(scope) != plain
