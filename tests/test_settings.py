"""Validation of the resolved config: what is wrong is named, in one line, with its place."""

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest
import tiny

from avalanche_llm.canon import load_canon
from avalanche_llm.config import merge, resolve_config
from avalanche_llm.errors import ConfigError
from avalanche_llm.settings import parse_settings


@pytest.fixture
def good(config: Path) -> dict[str, Any]:
    return dict(resolve_config(config, load_canon()).values)


def changed(values: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    for key in reversed(place.split(".")):
        value = {key: value}
    return merge(values, value)


def test_parse_settings_reads_the_config(good: dict[str, Any]) -> None:
    settings = parse_settings(good)
    assert settings.gains.grid == tuple(tiny.GAINS)
    assert settings.events.spike_defs == ("SPIKE_ONE_SIDED_POS", "SPIKE_TWO_SIDED_ABS")
    assert settings.datasets.A.n_windows_calibration == tiny.N_WINDOWS
    assert settings.model.hf_id == good["models"]["INSTRUCT"]["hf_id"]


def test_parse_settings_accepts_the_shipped_configs() -> None:
    for name in ("pipeline.yaml", "demo.yaml"):
        parse_settings(resolve_config(tiny.REPO / "configs" / name, load_canon()).values)


def test_settings_are_frozen(good: dict[str, Any]) -> None:
    settings = parse_settings(good)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        settings.gains.baseline = 2.0
    assert hash(settings.model) == hash(parse_settings(good).model)  # the loaded model is cached by it


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("gains.grid", [0.0, 1.0], r"gains\.grid\.0: Input should be greater than 0, found 0\.0"),
        ("gains.grid", [-0.5, 1.0], r"gains\.grid\.0: Input should be greater than 0, found -0\.5"),
        ("gains.grid", [1.0, float("nan")], r"gains\.grid\.1: Input should be"),
        ("gains.grid", [1.0, float("inf")], r"gains\.grid\.1: Input should be a finite number"),
        ("gains.grid", [1.0, "loud"], r"gains\.grid\.1: .*valid number.*, found 'loud'"),
        ("gains.grid", [True, 2.0], r"gains\.grid\.0: .*number.*, found True"),
        ("gains.grid", [1.0, None], r"gains\.grid\.1: .*valid number"),
        ("gains.grid", [], r"gains\.grid: .*at least 1 item"),
        ("gains.grid", 1.0, r"gains\.grid: .*valid tuple"),
        ("gains.grid", [1.0, 1.0], r"gains\.grid: values must be distinct, found \[1\.0, 1\.0\]$"),
        ("gains.grid", [1.1, 1.0], r"gains: grid must rise"),
        ("gains.grid", [0.9, 1.1], r"gains: grid must contain the baseline gain 1"),
        (
            "events.spike_defs",
            ["SPIKE_SIDEWAYS"],
            r"events\.spike_defs\.0: .*'SPIKE_ONE_SIDED_POS' or 'SPIKE_TWO_SIDED_ABS', found 'SPIKE_SIDEWAYS'",
        ),
        ("events.target_rates", [1.5], r"events\.target_rates\.0: .*less than 1"),
        ("events.target_rates", [float("nan")], r"events\.target_rates\.0: "),
        ("events.eps", 0, r"events\.eps: .*greater than 0"),
        ("run.device", "tpu", r"run\.device: .*cpu\|cuda"),
        ("run.dtype", "int8", r"run\.dtype: .*'bf16', 'fp16' or 'fp32'"),
        ("run.model_role", "TEACHER", r"run\.model_role: .*'BASE' or 'INSTRUCT'"),
        ("pipeline.batch_windows", 0, r"pipeline\.batch_windows: .*greater than or equal to 1"),
        ("pipeline.batch_windows", True, r"pipeline\.batch_windows: .*number.*, found True"),
        ("pipeline.burn_in_tokens", 63, r"pipeline: burn_in_tokens must leave at least two tokens of a window, found 63 of 64$"),
        ("pipeline.gstar_method", "loudest", r"pipeline\.gstar_method: .*btot_near_one"),
        ("datasets.A.n_windows_calibration", 2.5, r"datasets\.A\.n_windows_calibration: .*valid integer"),
        ("pipeline.batch_window", 4, r"pipeline\.batch_window: unknown key, did you mean batch_windows\?"),
        ("datasets.A.splitt", "train", r"datasets\.A\.splitt: unknown key, did you mean split\?"),
        ("models.INSTRUCT.revison", "main", r"models\.INSTRUCT\.revison: unknown key, did you mean revision\?"),
        ("a[b", 1, r"config: a\[b: unknown key$"),
        (
            "budgets.effective_tflops.cpu",
            -1,
            r"^config: budgets\.effective_tflops\.cpu: Input should be greater than 0, found -1; "
            r"budgets\.effective_tflops\.cpu: Input should be 'measured', found -1$",
        ),
        ("budgets.memory_gib_max.tpu", 16.0, r"budgets\.memory_gib_max\.tpu: unknown key"),
        ("gain", {"grid": [1.0]}, r"gain: unknown key, did you mean gains\?"),
    ],
)
def test_parse_settings_names_the_key_that_is_wrong(good: dict[str, Any], place: str, value: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        parse_settings(changed(good, place, value))
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_parse_settings_names_every_missing_section(good: dict[str, Any]) -> None:
    del good["gains"], good["events"]
    with pytest.raises(ConfigError, match=r"gains: Field required; events: Field required"):
        parse_settings(good)


def test_parse_settings_wants_a_memory_budget_for_both_kinds_of_device(good: dict[str, Any]) -> None:
    budgets = good["budgets"] | {"memory_gib_max": {"cpu": 16.0}}
    with pytest.raises(ConfigError, match=r"budgets\.memory_gib_max\.cuda: Field required"):
        parse_settings(good | {"budgets": budgets})


def test_parse_settings_wants_a_model_for_the_role_of_the_run(good: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"models\.BASE is empty in this config: name a model there"):
        parse_settings(changed(good, "run.model_role", "BASE"))


def test_parse_settings_reads_a_number_that_yaml_takes_for_text(good: dict[str, Any]) -> None:
    """yaml 1.1 wants a dot in a float: 2e-3 arrives as text, and is meant as a number."""
    assert parse_settings(changed(good, "events.target_rates", ["2e-3"])).events.target_rates == (0.002,)


def test_parse_settings_agrees_with_the_registry() -> None:
    """What the code accepts literally is what the registry enumerates."""
    canon = load_canon()
    schema = json.dumps(
        type(parse_settings(resolve_config(tiny.REPO / "configs" / "pipeline.yaml", canon).values)).model_json_schema()
    )
    for enum in ("MODEL_ROLE", "SPIKE_DEF_ID", "GSTAR_METHOD"):
        assert all(f'"{name}"' in schema for name in canon[f"ENUM.{enum}"])
