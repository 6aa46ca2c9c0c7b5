"""Sizes from config.json against the model that transformers builds from it, family by family."""

import json
import sys
from pathlib import Path
from subprocess import run

import pytest
import torch
from test_families import BLOOM, CASES, GEMMA, GPT2, VISION
from transformers import AutoConfig, AutoModelForCausalLM

from avalanche_llm.model.families import FAMILIES, find_layers
from avalanche_llm.model.shape import GEMMA3_TEXT, PLAIN, ModelShape, UnknownShape, model_shape
from avalanche_llm.settings_sources import ModelChoice

FURTHER = {
    "gemma2, wide heads": ("gemma2", {**GEMMA, "head_dim": 16}),
    "gemma3, sizes left out": ("gemma3", {"text_config": {"hidden_size": 64, "num_hidden_layers": 2}, "vision_config": VISION}),
    "gpt2, d_ff left out": ("gpt2", {**GPT2, "n_inner": None}),
}
CONFIGS = {name: (case.model_type, case.config) for name, case in CASES.items()} | FURTHER


def config_json(folder: Path, text: str) -> ModelChoice:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return ModelChoice(hf_id=str(folder))


@pytest.mark.parametrize("name", CONFIGS)
def test_model_shape_counts_the_matrices_of_every_family(name: str, tmp_path: Path) -> None:
    model_type, values = CONFIGS[name]
    config = AutoConfig.for_model(model_type, **values)
    config.save_pretrained(tmp_path)
    shape = model_shape(ModelChoice(hf_id=str(tmp_path)))
    assert isinstance(shape, ModelShape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = find_layers(model.base_model, FAMILIES[model_type])
    matrices = sum(weight.numel() for layer in layers for weight in layer.parameters() if weight.ndim == 2)
    assert (shape.n_layers, shape.layer_weights) == (len(layers), matrices)
    assert shape.d_model == config.get_text_config().hidden_size
    assert shape.vocab == model.get_input_embeddings().weight.shape[0]
    assert shape.all_weights == matrices + shape.vocab * shape.d_model


def test_plain_families_are_those_without_a_gate() -> None:
    assert {name for name, names in FAMILIES.items() if names.gate is None} == PLAIN


def test_sizes_that_gemma3_leaves_out_are_the_defaults_of_transformers() -> None:
    text = AutoConfig.for_model("gemma3_text")
    assert {name: getattr(text, name) for name in GEMMA3_TEXT} == GEMMA3_TEXT


def test_model_shape_reads_the_names_of_older_checkpoints(tmp_path: Path) -> None:
    """BLOOM's own config.json has n_embed and num_attention_heads, Falcon's first one n_layer and n_head."""
    bloom = {"model_type": "bloom", "n_embed": 8, "n_layer": 2, "num_attention_heads": 2, "vocab_size": 10}
    assert model_shape(config_json(tmp_path, json.dumps(bloom))) == ModelShape(2, 8, 32, 2, 2, 4, 10, gated=False)
    falcon = {"model_type": "falcon", "hidden_size": 8, "n_layer": 2, "n_head": 2, "multi_query": True, "vocab_size": 10}
    assert model_shape(config_json(tmp_path, json.dumps(falcon))) == ModelShape(2, 8, 32, 2, 1, 4, 10, gated=False)


def test_model_shape_of_a_published_model_gives_its_size() -> None:
    """Qwen2.5-7B: 7.61 billion parameters, 6.53 billion without both embeddings (its model card)."""
    shape = ModelShape(28, 3584, 18944, n_heads=28, n_kv_heads=4, head_dim=128, vocab=152064, gated=True)
    assert shape.layer_weights == pytest.approx(6.53e9, rel=0.005)
    assert shape.all_weights + 152064 * 3584 == pytest.approx(7.61e9, rel=0.005)


@pytest.mark.parametrize("gated", [True, False])
def test_flops_of_a_pass_by_hand(gated: bool) -> None:
    shape = ModelShape(n_layers=2, d_model=4, d_ff=8, n_heads=2, n_kv_heads=1, head_dim=3, vocab=10, gated=gated)
    weights = 2 * (4 * 6 + 2 * 4 * 3 + 6 * 4 + (3 if gated else 2) * 4 * 8)
    assert shape.layer_weights == weights
    assert shape.flops(6, seq_len=3) == 6 * (2 * weights + 4 * 2 * 6 * 3)
    assert shape.head_flops(6) == 6 * 2 * 10 * 4


def test_model_shape_without_grouped_heads(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 4, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 10}
    for kv in ({}, {"num_key_value_heads": None}, {"num_key_value_heads": 2}):
        shape = model_shape(config_json(tmp_path, json.dumps(sizes | kv)))
        assert shape == ModelShape(1, 4, 8, 2, 2, 2, 10, gated=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not one json object"),
        ("{", "is not one json object"),
        ("[]", "is not one json object"),
        ('{"text_config": 3}', "text_config in the model's config.json is no json object"),
        (json.dumps({**BLOOM, "model_type": []}), "gives no positive whole number for intermediate_size"),
        (json.dumps({**BLOOM, "n_layer": None}), "gives no positive whole number for num_hidden_layers or n_layer; intermediate_size"),
        (json.dumps({**BLOOM, "model_type": "bloom", "vocab_size": "many"}), "gives no positive whole number for vocab_size"),
        (json.dumps({**BLOOM, "model_type": "bloom", "n_head": 64}), "gives no positive whole number for head_dim"),
    ],
)
def test_model_shape_says_what_the_config_lacks(text: str, reason: str, tmp_path: Path) -> None:
    found = model_shape(config_json(tmp_path, text))
    assert isinstance(found, UnknownShape)
    assert reason in found.reason


def test_model_shape_says_where_there_is_no_config() -> None:
    assert model_shape(ModelChoice(hf_id="nobody/nothing")) == UnknownShape("the model's config.json is not on this machine")


def test_model_shape_reads_the_pinned_revision_of_a_hub_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "models--me--mine"
    for revision, n_layers in (("main", 3), ("v2", 5)):
        (repo / "refs").mkdir(parents=True, exist_ok=True)
        (repo / "refs" / revision).write_text(f"commit_{revision}")
        snapshot = repo / "snapshots" / f"commit_{revision}"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps({**BLOOM, "model_type": "bloom", "n_layer": n_layers}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for pinned, n_layers in ((None, 3), ("v2", 5)):
        found = model_shape(ModelChoice(hf_id="me/mine", revision=pinned))
        assert isinstance(found, ModelShape)
        assert found.n_layers == n_layers


def test_a_plan_imports_neither_torch_nor_transformers() -> None:
    """An estimate answers at once."""
    code = "import sys, avalanche_llm.plan; print(sorted({'torch', 'transformers'} & {*sys.modules}))"
    assert run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
