"""The registry: one block, frozen, every command and file name of the contract in it."""

from collections.abc import Mapping

import pytest
import tiny
import yaml

from avalanche_llm.canon import load_canon, parse_canon, thaw
from avalanche_llm.errors import ConfigError
from avalanche_llm.stages import stages

BLOCK = "# 00\n\n```yaml\nCANON:\n  CONST:\n    EPS: 1.0e-06\n    RATES: [1, 2]\n```\n"


def test_canon_names_an_entry_with_or_without_its_prefix() -> None:
    canon = load_canon()
    assert canon["CONST.SEQ_LEN_TOKENS"] == canon["CANON.CONST.SEQ_LEN_TOKENS"] == 256
    assert canon["CONST.TARGET_LAYER_RATES"] == (1e-5, 2e-5, 4e-5, 8e-5)


def test_canon_every_reference_it_lists_leads_somewhere() -> None:
    canon = load_canon()
    references = list(canon.references())
    assert len(references) > 200
    for reference in references:
        assert canon[reference] is not None


def test_canon_unknown_reference_names_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown registry reference CANON\.CONST\.EPSS, did you mean CANON\.CONST\.EPS\?"):
        load_canon()["CANON.CONST.EPSS"]
    with pytest.raises(ConfigError, match=r"CANON\.CONST\.EPS\.DEEPER"):
        load_canon()["CONST.EPS.DEEPER"]


def test_canon_cannot_be_changed() -> None:
    canon = load_canon()
    with pytest.raises(TypeError):
        canon.entries["CONST"]["EPS"] = 1.0
    with pytest.raises(AttributeError):
        canon.entries = {}  # type: ignore[misc]  # that it fails is the point


def test_canon_holds_what_the_yaml_block_of_the_spec_says() -> None:
    text = (tiny.REPO / "spec" / "00_CANONICAL.md").read_text(encoding="utf-8")
    block = text.split("```yaml\n")[1].split("\n```")[0]
    assert thaw(load_canon().entries) == yaml.safe_load(block)["CANON"]


def test_canon_writes_every_command_out_in_full() -> None:
    commands = load_canon()["CLI.CMD"]
    assert isinstance(commands, Mapping)
    twins = {name for name in commands if name.endswith("_BASE")}
    assert len(twins) == 8
    for name, command in commands.items():
        words = command.split()
        assert words[:3] == ["python", "-m", "avalanche_llm"]
        assert words[3] == name.removesuffix("_BASE").lower()
        assert "--config configs/pipeline.yaml --device cuda --dtype bf16 --run_id_mode content_hash" in command
        assert ("--model_role BASE" in command) == (name in twins)


def test_canon_writes_out_a_file_for_every_figure_and_table() -> None:
    canon = load_canon()
    for kind, folder, forms in (("FIG", "figs", ("PDF", "PNG")), ("TABLE", "tables", ("CSV", "PARQUET"))):
        for form in forms:
            files = canon[f"OUTPUT.{kind}_FILE_{form}"]
            assert tuple(files) == canon[f"ID.{kind}"]
            for name, path in files.items():
                assert path.startswith(f"{folder}/")
                assert path.endswith(f"{name}.{form.lower()}")


def test_stages_have_the_tags_of_the_registry_and_need_only_earlier_stages() -> None:
    table, seen = stages(), set()
    assert {stage.phase_id: stage.tag for stage in table.values()} == dict(load_canon()["STAGE_TAG"])
    for stage in table.values():
        assert set(stage.needs) <= seen
        seen.add(stage.phase_id)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("no block at all", "found 0"),
        (BLOCK + BLOCK, "found 2"),
        (BLOCK.replace("CANON:", "OTHER:"), "one mapping under the key CANON"),
        (BLOCK.replace("[1, 2]", "[1, 2"), "not valid yaml"),
    ],
)
def test_parse_canon_wants_one_valid_block(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        parse_canon(text, "00_CANONICAL.md")
    assert "\n" not in str(caught.value)


def test_parse_canon_keeps_the_value_of_a_number_in_exponent_form() -> None:
    assert parse_canon(BLOCK, "spec")["CONST.EPS"] == 1e-6
