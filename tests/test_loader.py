"""Loading: what is accepted, what it is recorded as, and every checkpoint that must be refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from avalanche_llm.errors import DeterminismError, EnvironmentProblem, UnsupportedModel
from avalanche_llm.model.families import FAMILIES, GATED, hook_names, recomputed_input
from avalanche_llm.model.loader import check_device, content_sha256, load_model, local_folder
from avalanche_llm.settings_sources import HookNames, ModelChoice


@pytest.fixture
def copied(model_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def save_weights(folder: Path, change: Any) -> None:
    """The checkpoint with its tensors changed."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_load_model_places_a_local_checkpoint_and_says_what_it_is(model_folder: Path) -> None:
    model = tiny.loaded(model_folder)
    assert (model.n_layers, model.d_ff) == (tiny.N_LAYERS, tiny.D_FF)
    assert {parameter.device.type for parameter in model.causal.parameters()} == {"cpu"}
    assert not model.causal.training
    assert not any(parameter.requires_grad for parameter in model.causal.parameters())
    assert not any("lm_head" in name for name, _ in model.decoder.named_modules())
    assert model.identity == {
        "role": "INSTRUCT",
        "id": str(model_folder),
        "revision": None,
        "content_sha256": content_sha256(ModelChoice(hf_id=str(model_folder))),
        "n_layers": tiny.N_LAYERS,
        "d_ff": tiny.D_FF,
        "device": "cpu",
        "dtype": "fp32",
    }
    assert [module.in_features for module in model.modules("down")] == [tiny.D_FF] * tiny.N_LAYERS


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_load_model_loads_the_dtype_that_was_asked_for(dtype: str, expected: torch.dtype, model_folder: Path) -> None:
    assert {parameter.dtype for parameter in tiny.loaded(model_folder, dtype=dtype).causal.parameters()} == {expected}


def test_content_sha256_follows_the_weights_and_not_the_folder(model_folder: Path, copied: Path) -> None:
    before = content_sha256(ModelChoice(hf_id=str(model_folder)))
    assert content_sha256(ModelChoice(hf_id=str(copied))) == before
    save_weights(copied, lambda tensors: tensors["model.norm.weight"].mul_(1.5))
    assert content_sha256(ModelChoice(hf_id=str(copied))) != before


def test_a_local_checkpoint_has_a_hash_and_no_revision(model_folder: Path) -> None:
    """A revision pins a hub id; of a folder it would be on record without having chosen anything."""
    identity = load_model(ModelChoice(hf_id=str(model_folder), revision="v2"), role="INSTRUCT", device="cpu", dtype="fp32").identity
    assert identity["revision"] is None
    assert identity["content_sha256"]


def test_hook_names_takes_the_names_of_the_config_before_the_table() -> None:
    own = HookNames(layers="h", mlp="ffn", attn="att", down="ffn.out")
    model = tiny.llama()
    assert hook_names(model.config, model.base_model, own) is own
    assert hook_names(model.config, model.base_model, None) is FAMILIES["llama"] is GATED
    assert recomputed_input(nn.Linear(1, 1), own, torch.zeros(1)) is None


@pytest.mark.parametrize("left_out", ["up", "act"])
def test_hook_names_refuses_names_that_cannot_be_checked(left_out: str) -> None:
    with pytest.raises(ValueError, match="up and act belong together, and gate needs both; name them or leave all three out"):
        HookNames.model_validate(GATED.model_dump() | {left_out: None})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"layers": "norm"}, "expected a list of layers at 'norm', found LlamaRMSNorm"),
        ({"layers": "blocks"}, r"decoder has no module 'blocks' \(it has: embed_tokens, layers, norm, rotary_emb\); check models"),
        ({"down": "mlp.c_proj"}, r"layer 0 has no module 'mlp.c_proj' \(it has: self_attn, .*, mlp\.up_proj, mlp\.down_proj, "),
        ({"attn": "attn"}, r"layer 0 has no module 'attn' \(it has: self_attn, self_attn\.q_proj, "),
        ({"down": "mlp.act_fn"}, "expected the down projection to be a linear layer, found SiLU"),
    ],
)
def test_load_model_with_wrong_names_in_the_config_lists_what_is_there(
    change: dict[str, str], complaint: str, model_folder: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=complaint):
        tiny.loaded(model_folder, hooks=GATED.model_copy(update=change))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_load_model_refuses_broken_weights_and_names_them(value: float, copied: Path) -> None:
    save_weights(copied, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].view(-1)[5:6].fill_(value))
    with pytest.raises(
        DeterminismError, match=r"has NaN or infinite weights in model\.layers\.1\.mlp\.up_proj\.weight"
    ) as caught:
        tiny.loaded(copied)
    assert caught.value.exit_code == 2


def test_load_model_refuses_a_checkpoint_that_lacks_a_weight(copied: Path) -> None:
    """transformers would draw the missing tensor at random and only warn."""
    save_weights(copied, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(DeterminismError, match=r"has no weights for .*layers\.1\.mlp\.up_proj\.weight"):
        tiny.loaded(copied)


def test_load_model_refuses_a_checkpoint_of_another_shape(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    (copied / "config.json").write_text(json.dumps(config | {"intermediate_size": 2 * tiny.D_FF}), encoding="utf-8")
    with pytest.raises(
        DeterminismError, match=r"has weights of another shape for model\.layers\.0\.mlp\.down_proj\.weight \(9 such tensors\)"
    ):
        tiny.loaded(copied)


@pytest.mark.parametrize("harm", ["truncated", "no weights", "no config", "malformed config", "no tokenizer", "pickle only"])
def test_load_model_refuses_an_incomplete_checkpoint_in_one_line(harm: str, copied: Path) -> None:
    weights = copied / "model.safetensors"
    if harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif harm == "no weights":
        weights.unlink()
    elif harm == "no config":
        (copied / "config.json").unlink()
    elif harm == "malformed config":
        (copied / "config.json").write_text("{", encoding="utf-8")
    elif harm == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (copied / name).unlink()
    else:
        weights.unlink()
        torch.save(tiny.llama().state_dict(), copied / "pytorch_model.bin")
    with pytest.raises(EnvironmentProblem, match=r"model '.*' cannot be loaded: ") as caught:
        tiny.loaded(copied)
    assert "\n" not in str(caught.value)


def test_load_model_runs_no_code_of_a_checkpoint(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}
    (copied / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (copied / "own.py").write_text(f"open({str(copied / 'ran')!r}, 'w').close()\n", encoding="utf-8")
    with pytest.raises(EnvironmentProblem, match="cannot be loaded"):
        tiny.loaded(copied)
    assert not (copied / "ran").exists()


def test_load_model_from_a_hub_that_cannot_be_reached_is_an_environment_problem() -> None:
    with pytest.raises(EnvironmentProblem, match="model 'nobody/nothing' cannot be loaded: ") as caught:
        tiny.loaded(Path("nobody/nothing"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hf_id", ["models/absent", "./absent", "/absent/model", "a/b/c"])
def test_local_folder_does_not_take_a_path_for_a_hub_id(hf_id: str) -> None:
    with pytest.raises(EnvironmentProblem, match=f"model folder {hf_id} does not exist"):
        local_folder(hf_id)


def test_local_folder_leaves_a_hub_id_to_the_hub(model_folder: Path) -> None:
    assert local_folder("Qwen/Qwen2.5-7B") is None
    assert local_folder(str(model_folder)) == model_folder


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_check_device_without_cuda_says_what_to_use(device: str) -> None:
    with pytest.raises(
        EnvironmentProblem, match=f"--device {device} needs a CUDA GPU and none is visible; use --device cpu --dtype fp32"
    ):
        check_device(device)
