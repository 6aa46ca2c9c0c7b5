"""Every family of the table as a tiny seeded checkpoint: u, the gain on what is added, and the phases from end to end.

What a gain does is measured on the residual stream itself, between points that the table of families does not name.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from avalanche_llm.errors import UnsupportedModel
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.model import hook_checks
from avalanche_llm.model.families import FAMILIES, GATED, find_modules, refuse_experts
from avalanche_llm.model.forward import forward_pass
from avalanche_llm.model.gain import GainPlan, GainTarget
from avalanche_llm.model.hook_checks import gain_effect, hook_difference
from avalanche_llm.model.hooks import ReadInput, ScaleOutput
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.phases.calibrate import calibrate
from avalanche_llm.phases.extract_rasters import extract_rasters
from avalanche_llm.phases.gain_grid import gain_grid
from avalanche_llm.phases.select_gstar import select_gstar
from avalanche_llm.phases.validate_env import validate_env
from avalanche_llm.settings_sources import HookNames

N_LAYERS, D_FF, D_MODEL, N_HEADS = 3, 48, 32, 4
TARGETS: tuple[GainTarget, ...] = ("MLP", "ATTN")
TOKENS = torch.arange(2, 66).reshape(2, 32)
EPS = torch.finfo(torch.float32).eps

TOKEN_IDS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
COMMON = {"vocab_size": tiny.VOCABULARY, "hidden_size": D_MODEL, "initializer_range": 0.2, **TOKEN_IDS}
HEADS = {"num_hidden_layers": N_LAYERS, "num_attention_heads": N_HEADS}
LLAMA = {**COMMON, **HEADS, "intermediate_size": D_FF, "num_key_value_heads": 2, "max_position_embeddings": 64}
GEMMA = {**LLAMA, "head_dim": 8}
GPT2 = {
    **TOKEN_IDS,
    "vocab_size": tiny.VOCABULARY,
    "n_embd": D_MODEL,
    "n_layer": N_LAYERS,
    "n_head": N_HEADS,
    "n_positions": 64,
    "n_inner": D_FF,
    "initializer_range": 0.2,
}
NEOX = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
OPT = {
    **TOKEN_IDS,
    **HEADS,
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": D_MODEL,
    "ffn_dim": D_FF,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": D_MODEL,
    "init_std": 0.2,
}
BLOOM = {**COMMON, "n_layer": N_LAYERS, "n_head": N_HEADS}
FALCON = {**COMMON, **HEADS, "ffn_hidden_size": D_FF}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@dataclass(frozen=True)
class Case:
    """A config, and where its block shows the residual stream: modules whose input is the stream at that point.

    before_attn is None where attention is added to what the layer is given, after_attn where attention and MLP read the same
    stream and are added to it together, after_mlp where the layer returns that sum.
    """

    model_type: str
    config: dict[str, Any]
    after_attn: str | None = "post_attention_layernorm"
    before_mlp: str | None = None
    after_mlp: str | None = None
    before_attn: str | None = None
    d_ff: int = D_FF
    multiplier: float = 1.0


GEMMA3 = {"text_config": GEMMA, "vision_config": VISION, "mm_tokens_per_image": 4, **TOKEN_IDS}
CASES = {
    "bloom": Case("bloom", BLOOM, d_ff=4 * D_MODEL),
    "bloom, norm before the residual": Case(
        "bloom",
        {**BLOOM, "apply_residual_connection_post_layernorm": True},
        before_mlp="mlp",
        before_attn="self_attention.query_key_value",
        d_ff=4 * D_MODEL,
    ),
    "falcon": Case("falcon", FALCON, None),
    "falcon, new decoder": Case("falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}, None),
    "falcon, sequential": Case("falcon", {**FALCON, "parallel_attn": False, "multi_query": False, "alibi": True, "bias": True}),
    "gemma": Case("gemma", GEMMA),
    "gemma2": Case("gemma2", GEMMA, "pre_feedforward_layernorm"),
    "gemma3": Case("gemma3", GEMMA3, "pre_feedforward_layernorm"),
    "gemma3_text": Case("gemma3_text", GEMMA, "pre_feedforward_layernorm"),
    "gpt2": Case("gpt2", GPT2, "ln_2"),
    "gpt_neox": Case("gpt_neox", NEOX, None),
    "gpt_neox, sequential": Case("gpt_neox", {**NEOX, "use_parallel_residual": False}),
    "granite": Case("granite", {**LLAMA, "residual_multiplier": 0.22}, multiplier=0.22),
    "llama": Case("llama", LLAMA),
    "mistral": Case("mistral", LLAMA),
    "olmo": Case("olmo", LLAMA),
    "olmo2": Case("olmo2", LLAMA, "mlp"),
    "olmo3": Case("olmo3", LLAMA, "mlp"),
    "opt": Case("opt", OPT, "final_layer_norm"),
    "opt, norm after the sum": Case(
        "opt", {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16}, "self_attn_layer_norm", "fc1", "final_layer_norm"
    ),
    "phi": Case("phi", {**LLAMA, "num_key_value_heads": N_HEADS}, None),
    "phi3": Case("phi3", LLAMA),
    "qwen2": Case("qwen2", LLAMA),
    "qwen3": Case("qwen3", GEMMA),
    "smollm3": Case("smollm3", LLAMA),
    "stablelm": Case("stablelm", LLAMA),
    "stablelm, parallel": Case("stablelm", {**LLAMA, "use_parallel_residual": True}, None),
}
EXPERTS = {
    "mixtral": ("num_local_experts", {**LLAMA, "num_local_experts": 4}),
    "qwen2_moe": ("num_experts", {**LLAMA, "num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}),
    "qwen3_moe": ("num_local_experts", {**LLAMA, "num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}),
}


def causal_model(model_type: str, config: dict[str, Any]) -> Any:
    """Random weights, of biases and norms too, so that no part of a block is idle."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@dataclass(frozen=True)
class Made:
    case: Case
    folder: Path
    model: LoadedModel


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small are faster without a second thread, most of all beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    case = CASES[request.param]
    folder = tiny.save_model(causal_model(case.model_type, case.config), tmp_path_factory.mktemp("family"))
    return Made(case, folder, tiny.loaded(folder))


Stream = list[dict[str, torch.Tensor]]
"""Of every layer: h_in, before_attn, after_attn (where there is such a point), before_mlp, after_mlp, what the layer returns."""


@contextmanager
def tracing(model: LoadedModel, case: Case) -> Iterator[Stream]:
    stream: Stream = [{} for _ in model.layers]
    handles = []

    def keep(layer: int, name: str, tensor: Any) -> None:
        tensor = tensor[0] if isinstance(tensor, tuple) else tensor
        stream[layer][name] = tensor.reshape((*TOKENS.shape, -1)).clone()

    for index, layer in enumerate(model.layers):
        points = {
            "before_attn": case.before_attn,
            "after_attn": case.after_attn,
            "before_mlp": case.before_mlp or case.after_attn,
            "after_mlp": case.after_mlp,
        }
        handles.append(layer.register_forward_pre_hook(lambda _, given, at=index: keep(at, "h_in", given)))
        for point, name in points.items():
            if name is not None:
                module = layer.get_submodule(name)
                handles.append(module.register_forward_pre_hook(lambda _, given, at=index, to=point: keep(at, to, given)))
        handles.append(layer.register_forward_hook(lambda _, given, output, at=index: keep(at, "h_out", output)))
    try:
        yield stream
    finally:
        for handle in handles:
            handle.remove()


def streams(made: Made, plan: GainPlan) -> Stream:
    modules = made.model.modules("mlp" if plan.target == "MLP" else "attn")
    with torch.inference_mode(), ScaleOutput(modules, plan.gains), tracing(made.model, made.case) as stream:
        made.model.decoder(input_ids=TOKENS, use_cache=False)
    for of_layer in stream:
        of_layer.setdefault("after_mlp", of_layer["h_out"])
        of_layer.setdefault("before_mlp", of_layer["h_in"])
        of_layer.setdefault("before_attn", of_layer["h_in"])
    return stream


def gain_in(layer: int, target: GainTarget, gain: float) -> GainPlan:
    return GainPlan(target, tuple(gain if index == layer else 1.0 for index in range(N_LAYERS)))


def test_every_family_of_the_table_is_tried() -> None:
    assert {case.model_type for case in CASES.values()} == set(FAMILIES)


def test_u_is_what_gate_up_and_act_compute(made: Made) -> None:
    model = made.model
    found = hook_difference(model.decoder, list(model.layers), model.names, TOKENS)
    assert found.n_layers == N_LAYERS
    assert found.largest == 0.0
    u: dict[int, torch.Tensor] = {}
    output: dict[int, torch.Tensor] = {}
    with torch.inference_mode(), ReadInput(model.modules("down"), u.__setitem__):
        handles = [
            down.register_forward_hook(lambda _, given, out, at=layer: output.__setitem__(at, out.clone()))
            for layer, down in enumerate(model.modules("down"))
        ]
        model.decoder(input_ids=TOKENS, use_cache=False)
    for handle in handles:
        handle.remove()
    for layer, down in enumerate(model.modules("down")):
        assert u[layer].shape[-1] == made.case.d_ff == model.d_ff
        assert u[layer].numel() == TOKENS.numel() * model.d_ff
        assert u[layer].std() > 0.01
        with torch.inference_mode():
            assert torch.equal(down(u[layer]), output[layer])


def test_u_computed_another_way_is_found_out(made: Made) -> None:
    """The comparison can fail: without the activation, or with gate and up swapped."""
    model, names = made.model, made.model.names
    wrong = names.model_copy(update={"gate": names.up, "up": names.gate})
    if names.gate in (None, names.up):
        for layer in model.layers:
            layer.add_module("nothing", nn.Identity())
        wrong = names.model_copy(update={"act": "nothing"})
    assert hook_difference(model.decoder, list(model.layers), wrong, TOKENS).largest > 1e-3


@pytest.mark.parametrize("target", TARGETS)
def test_gain_one_is_bit_identical_to_no_hooks(target: GainTarget, made: Made) -> None:
    model = made.model
    plan = GainPlan.uniform(target, 1.0, N_LAYERS)
    modules = model.modules("mlp" if target == "MLP" else "attn")
    with torch.inference_mode():
        plain = model.causal(input_ids=TOKENS, use_cache=False).logits
        with ScaleOutput(modules, plan.gains), ReadInput(model.modules("down"), lambda layer, u: None):
            hooked = model.causal(input_ids=TOKENS, use_cache=False).logits
        with ScaleOutput(modules, (2.0,) * N_LAYERS):
            scaled = model.causal(input_ids=TOKENS, use_cache=False).logits
    assert torch.equal(plain, hooked)
    assert not torch.equal(plain, scaled)


@pytest.mark.parametrize("gain", [0.5, 2.0, 1.3])
def test_the_mlps_contribution_to_the_stream_scales_by_the_gain(gain: float, made: Made) -> None:
    """after - before of the first scaled layer; where attention is added at the same time, both sides hold it."""
    plain, doubled, scaled = (streams(made, gain_in(1, "MLP", g))[1] for g in (1.0, 2.0, gain))
    assert torch.equal(plain["before_mlp"], scaled["before_mlp"])
    before = plain["before_mlp"].double()
    added = doubled["after_mlp"].double() - plain["after_mlp"].double()
    rest = torch.zeros_like(added) if made.case.after_attn else contribution_of_attention(made)
    size = plain["after_mlp"].abs() + scaled["after_mlp"].abs() + before.abs() + added.abs() + rest.abs()
    assert ((scaled["after_mlp"].double() - before - rest - gain * (plain["after_mlp"].double() - before - rest)).abs() <= 8 * EPS * size).all()
    assert ((plain["after_mlp"].double() - before - rest - added).abs() <= 8 * EPS * size).all()
    assert added.std() > 1e3 * EPS * size.max()


@pytest.mark.parametrize("gain", [0.5, 2.0, 1.3])
def test_attentions_contribution_to_the_stream_scales_by_the_gain(gain: float, made: Made) -> None:
    parallel = made.case.after_attn is None
    point = "after_mlp" if parallel else "after_attn"
    plain, doubled, scaled = (streams(made, gain_in(1, "ATTN", g))[1] for g in (1.0, 2.0, gain))
    assert torch.equal(plain["before_attn"], scaled["before_attn"])
    before, added = plain["before_attn"].double(), doubled[point].double() - plain[point].double()
    rest = contribution_of_mlp(made) if parallel else torch.zeros_like(added)
    size = plain[point].abs() + scaled[point].abs() + before.abs() + added.abs() + rest.abs()
    assert ((scaled[point].double() - before - rest - gain * (plain[point].double() - before - rest)).abs() <= 8 * EPS * size).all()
    assert ((plain[point].double() - before - rest - added).abs() <= 8 * EPS * size).all()
    assert added.std() > 1e3 * EPS * size.max()


def contribution_of_attention(made: Made) -> torch.Tensor:
    """Of a parallel block, by doubling it: the MLP does not see it."""
    doubled, plain = (streams(made, gain_in(1, "ATTN", gain))[1]["h_out"] for gain in (2.0, 1.0))
    return doubled.double() - plain.double()


def contribution_of_mlp(made: Made) -> torch.Tensor:
    doubled, plain = (streams(made, gain_in(1, "MLP", gain))[1]["h_out"] for gain in (2.0, 1.0))
    return doubled.double() - plain.double()


@pytest.mark.parametrize("target", TARGETS)
def test_a_power_of_two_scales_what_the_module_returns_exactly(target: GainTarget, made: Made) -> None:
    """And nothing between the module and the sum undoes it: the multiplier of a family is all that comes in between."""
    modules = made.model.modules("mlp" if target == "MLP" else "attn")
    found: dict[float, torch.Tensor] = {}
    for gain in (1.0, 0.5):
        with torch.inference_mode(), ScaleOutput(modules, gain_in(1, target, gain).gains):
            handle = modules[1].register_forward_hook(
                lambda _, given, out, at=gain: found.__setitem__(at, (out[0] if isinstance(out, tuple) else out).clone())
            )
            made.model.decoder(input_ids=TOKENS, use_cache=False)
            handle.remove()
    assert torch.equal(found[0.5], 0.5 * found[1.0])
    point = "after_mlp" if target == "MLP" or made.case.after_attn is None else "after_attn"
    plain, halved = (streams(made, gain_in(1, target, gain))[1][point].double() for gain in (1.0, 0.5))
    added = made.case.multiplier * found[1.0].double().view_as(plain)
    before = streams(made, GainPlan.uniform(target, 1.0, N_LAYERS))[1]["h_in"].double()
    summands = before.abs() + added.abs() + (plain - before - added).abs()  # the last: what a parallel block adds beside it
    assert ((plain - halved - added / 2).abs() <= 8 * EPS * (plain.abs() + halved.abs() + summands)).all()


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_changes_before_the_first_scaled_layer(target: GainTarget, made: Made) -> None:
    plain = streams(made, GainPlan.uniform(target, 1.0, N_LAYERS))
    changed = streams(made, GainPlan(target, (1.0, 1.5, 1.5)))
    for name in plain[0]:
        assert torch.equal(plain[0][name], changed[0][name])
    assert torch.equal(plain[1]["h_in"], changed[1]["h_in"])
    if target == "MLP":
        assert torch.equal(plain[1]["before_mlp"], changed[1]["before_mlp"])
    for layer in (1, 2):
        assert not torch.equal(plain[layer]["h_out"], changed[layer]["h_out"])


def test_decoder_and_causal_model_run_the_same_hooks_and_end_in_the_same_state(made: Made) -> None:
    """Phases without likelihoods run the decoder alone, phase 6 the whole model."""
    model = made.model
    plan = GainPlan.uniform("MLP", 1.5, N_LAYERS)
    u: list[dict[int, torch.Tensor]] = [{}, {}]
    given: list[torch.Tensor] = []
    head = model.causal.get_output_embeddings()
    with torch.inference_mode(), ScaleOutput(model.modules("mlp"), plan.gains):
        with ReadInput(model.modules("down"), u[0].__setitem__):
            last = model.decoder(input_ids=TOKENS, use_cache=False).last_hidden_state
        with ReadInput(model.modules("down"), u[1].__setitem__), ReadInput([head], lambda _, h: given.append(h)):
            model.causal(input_ids=TOKENS, use_cache=False)
    assert all(torch.equal(u[0][layer], u[1][layer]) for layer in range(N_LAYERS))
    assert torch.equal(given[0], last)


def test_gain_effect_knows_what_the_gain_scales(made: Made) -> None:
    model, names = made.model, made.model.names
    effect = gain_effect(model.decoder, list(model.layers), names, TOKENS)
    assert effect.leaves_the_stream
    assert effect.follows == (made.case.after_mlp is None)  # a norm on the sum is the one exception
    if effect.follows:
        assert effect.share == pytest.approx(made.case.multiplier, rel=1e-4)
    if names.mlp == "post_feedforward_layernorm":
        assert not gain_effect(model.decoder, list(model.layers), names.model_copy(update={"mlp": "mlp"}), TOKENS).follows
    if made.case.model_type == "bloom":
        inside = gain_effect(model.decoder, list(model.layers), names.model_copy(update={"mlp": "mlp"}), TOKENS)
        assert inside.follows
        assert not inside.leaves_the_stream


def test_phases_zero_to_three_measure_the_family(made: Made, tmp_path: Path) -> None:
    case = made.case
    config = tiny.write_config(
        tmp_path / "c.yaml",
        made.folder,
        pipeline={"seq_len_tokens": 32, "batch_windows": 5},
        datasets__A__n_windows_calibration=14,
        datasets__A__n_windows_rasters=6,
        gains__grid=[1.0, 1.25],
        events__target_rates=[0.02],
        statistics={"bootstrap_reps": 10, "null_draws": 3},
    )
    job = tiny.job_of(config, tmp_path / "runs")
    findings = {finding.subject: finding for finding in validate_env(job)}
    assert findings["hook check"].ok
    assert re.match(rf"{N_LAYERS} layers, largest difference 0 ", findings["hook check"].text)
    assert findings["gain check"].ok == (case.after_mlp is None)
    assert not findings["gain check"].required
    for phase in (calibrate, gain_grid, select_gstar, extract_rasters):
        phase(job)
    calibration = read_record(tiny.run_of(tmp_path / "runs", "S01"))
    assert (calibration["model"]["n_layers"], calibration["model"]["d_ff"]) == (N_LAYERS, case.d_ff)
    with np.load(tiny.run_of(tmp_path / "runs", "S01") / "results" / "calibration_stats.npz") as stats:
        assert stats["mu"].shape == (N_LAYERS, case.d_ff)
        assert int(stats["n_samples"]) == 14 * (32 - job.settings.pipeline.burn_in_tokens)
        assert (stats["sigma"] > 0).all()
    assert read_record(tiny.run_of(tmp_path / "runs", "S03"))["stage_status"] == "complete"


def test_u_reaches_the_collector_window_by_window(made: Made) -> None:
    """Where a block makes one axis of windows and tokens, forward_pass gives both back."""
    alone: list[torch.Tensor] = []
    windows = TOKENS.numpy()
    plan = GainPlan.uniform("MLP", 1.0, N_LAYERS)
    together: dict[int, torch.Tensor] = {}
    forward_pass(made.model, windows, plan=plan, batch_windows=2, on_input=together.__setitem__)
    forward_pass(
        made.model, windows, plan=plan, batch_windows=1, on_input=lambda layer, u: alone.append(u) if layer == 1 else None
    )
    assert [u.shape for u in together.values()] == [torch.Size((2, 32, made.case.d_ff))] * N_LAYERS
    assert torch.allclose(together[1], torch.cat(alone), atol=1e-4)


# --- what is refused


@pytest.mark.parametrize("model_type", EXPERTS)
def test_load_model_refuses_a_mixture_of_experts_and_says_why(model_type: str, tmp_path: Path) -> None:
    count, config = EXPERTS[model_type]
    folder = tiny.save_model(causal_model(model_type, config), tmp_path / "experts")
    (folder / "model.safetensors").unlink()  # refused before any weight is read
    own = GATED.model_copy(update={"down": "mlp.experts"})
    for hooks in (None, own):
        with pytest.raises(UnsupportedModel) as caught:
            tiny.loaded(folder, hooks)
        assert str(caught.value) == (
            f"model type '{model_type}' is a mixture of experts ({count}: 4): its units live in experts, and a token that is not "
            "sent to an expert has no activation there, so that a rate per unit and token is not defined; use a dense model "
            "(spec/12 states the definition that experts would need)"
        )
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("model_type", "count"),
    [
        ("deepseek_v3", "num_local_experts: 256"),
        ("ernie4_5_moe", "num_experts: 64"),
        ("gpt_oss", "num_local_experts: 128"),
        ("dbrx", "moe_num_experts: 4"),
    ],
)
def test_every_name_that_a_config_gives_the_number_of_experts_is_refused(model_type: str, count: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"^model type '{model_type}' is a mixture of experts \\({count}\\)"):
        refuse_experts(AutoConfig.for_model(model_type))


def test_a_model_of_several_text_models_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="'musicgen' holds several text models, expected one decoder"):
        refuse_experts(AutoConfig.for_model("musicgen"))


CODEGEN = {**TOKEN_IDS, "vocab_size": tiny.VOCABULARY, "n_embd": D_MODEL, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}
GPT_NEO = {
    **TOKEN_IDS,
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": D_MODEL,
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global"], 2]],
    "max_position_embeddings": 64,
}
EXAONE = {**LLAMA, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("model_type", "config", "found", "example"),
    [
        (
            "codegen",
            CODEGEN,
            "found h (2 layers); looked in its first layer for attention, attn, fc2, mlp, mlp.c_proj, mlp.dense_4h_to_h, "
            "mlp.down_proj, mlp.fc2, post_attention_layernorm, post_feedforward_layernorm, self_attention, self_attention.dense, "
            "self_attn and found ln_1, attn, attn.attn_dropout, attn.resid_dropout, attn.qkv_proj, attn.out_proj, mlp, mlp.fc_in, "
            "mlp.fc_out, mlp.act, mlp.dropout;",
            "{layers: h, mlp: mlp, attn: self_attn, down: mlp.down_proj} (what Llama calls them)",
        ),
        ("gpt_neo", GPT_NEO, "found h (2 layers);", "{layers: h, mlp: mlp, attn: attn, down: mlp.c_proj} (names that exist here)"),
        (
            "exaone4",
            EXAONE,
            "found layers (2 layers);",
            "{layers: layers, mlp: post_feedforward_layernorm, attn: post_attention_layernorm, down: mlp.down_proj} (names that exist here)",
        ),
    ],
)
def test_load_model_of_an_unknown_type_says_what_is_there_and_how_to_name_it(
    model_type: str, config: dict[str, Any], found: str, example: str, tmp_path: Path
) -> None:
    folder = tiny.save_model(causal_model(model_type, config), tmp_path / model_type)
    with pytest.raises(UnsupportedModel) as caught:
        tiny.loaded(folder)
    message = str(caught.value)
    assert message.startswith(f"no MLP is known for model type '{model_type}' (known: bloom, falcon, gemma, ")
    assert f"looked for a list of layers below {type(causal_model(model_type, config).base_model).__name__} and {found}" in message
    assert f"name its modules in the config, for example models.<ROLE>.hooks: {example}, where mlp and attn are" in message
    assert "the modules whose output is added to the residual stream" in message
    assert "\n" not in message
    assert caught.value.exit_code == 1


def test_load_model_takes_the_names_of_the_config_for_an_unknown_type(tmp_path: Path) -> None:
    """As the message says: what it found, named."""
    folder = tiny.save_model(causal_model("codegen", CODEGEN), tmp_path / "codegen")
    names = {"layers": "h", "mlp": "mlp", "attn": "attn", "down": "mlp.fc_out"}
    model = tiny.loaded(folder, HookNames(**names, up="mlp.fc_in", act="mlp.act"))
    assert (model.n_layers, model.d_ff) == (2, 4 * D_MODEL)
    assert hook_difference(model.decoder, list(model.layers), model.names, TOKENS).largest == 0.0
    assert gain_effect(model.decoder, list(model.layers), model.names, TOKENS).share == pytest.approx(1.0, rel=1e-4)
    assert hook_difference(model.decoder, list(model.layers), HookNames(**names), TOKENS).n_layers == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"act": "mlp.act"}, r"a layer has no module 'mlp\.act' \(it has: self_attn, .*; check models\.<ROLE>\.hooks"),
        ({"gate": "mlp.gate"}, r"a layer has no module 'mlp\.gate' \(it has: self_attn, "),
        ({"up": "unused"}, r"expected 'unused' to run before 'mlp\.down_proj', found that in layer 0 it does not; check models"),
        ({"act": "mlp.up_proj"}, r"u of layer 0 cannot be computed from up 'mlp\.up_proj', act 'mlp\.up_proj' and gate .* shapes"),
        ({"up": "post_attention_layernorm"}, r"u of layer 0 cannot be computed from up 'post_attention_layernorm', act .* size"),
    ],
)
def test_hook_difference_says_which_names_do_not_compute_u(change: dict[str, str], complaint: str) -> None:
    decoder = causal_model("llama", LLAMA).base_model
    for layer in decoder.layers:
        layer.add_module("unused", nn.Identity())
    names = FAMILIES["llama"].model_copy(update=change)
    with pytest.raises(UnsupportedModel, match=complaint):
        hook_difference(decoder, list(decoder.layers), names, TOKENS)


def test_hook_difference_keeps_a_nan_of_a_later_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """max() of python drops a NaN that is not its first value, and the check would pass. NaN on both sides is no difference."""
    decoder = causal_model("llama", LLAMA).base_model
    layers, compute = list(decoder.layers), hook_checks.recomputed_input
    with torch.no_grad():
        layers[0].mlp.down_proj.weight.fill_(float("nan"))
    assert hook_difference(decoder, layers, FAMILIES["llama"], TOKENS).largest < 1e-5
    with torch.no_grad():
        layers[0].mlp.down_proj.weight.fill_(0.1)

    def wrong(layer: nn.Module, *given: Any) -> Any:
        return compute(layer, *given) * (float("nan") if layer is layers[1] else 1.0)

    monkeypatch.setattr(hook_checks, "recomputed_input", wrong)
    assert np.isnan(hook_difference(decoder, layers, FAMILIES["llama"], TOKENS).largest)


@pytest.mark.parametrize("mlp", ["mlp", "post_feedforward_layernorm"])
def test_phase_zero_fails_where_names_of_the_config_put_the_gain_before_a_norm(mlp: str, tmp_path: Path) -> None:
    hooks = {"layers": "layers", "mlp": mlp, "attn": "self_attn", "down": "mlp.down_proj"}
    config = tiny.write_config(
        tmp_path / "c.yaml",
        tiny.save_model(causal_model("olmo2", LLAMA), tmp_path / "olmo2"),
        models={"INSTRUCT": {"hf_id": str(tmp_path / "olmo2"), "hooks": hooks}},
    )
    findings = {finding.subject: finding for finding in validate_env(tiny.job_of(config, tmp_path / "runs"))}
    assert findings["hook check"].text == "the hooks name no up and act to compute u from"
    gain = findings["gain check"]
    assert gain.required
    assert gain.ok == (mlp != "mlp")
    expected = (
        "the output of layer 0 does not follow the gain on 'mlp': a norm follows that module, before or after the sum; before the sum"
        if mlp == "mlp"
        else "the gain scales what 'post_feedforward_layernorm' adds to the residual stream (times 1) and nothing else of layer 0"
    )
    assert gain.text.startswith(expected)


def test_load_model_refuses_a_block_that_computes_without_calling_its_projection(tmp_path: Path) -> None:
    """BLOOM's slow_but_exact adds up slices of the weight: neither u nor the gain would pass the module."""
    config = {**CASES["bloom"].config, "slow_but_exact": True, "pretraining_tp": 2}
    folder = tiny.save_model(causal_model("bloom", config), tmp_path / "slow")
    with pytest.raises(
        UnsupportedModel, match=r"'mlp\.dense_4h_to_h' of layer 0 ran for 0 tokens in a pass over 6, expected each token once: .*slow_but_exact"
    ):
        tiny.loaded(folder)


def test_load_model_refuses_a_module_that_runs_more_than_once(made: Made) -> None:
    from avalanche_llm.model.hook_checks import check_every_token_once

    layers = list(made.model.layers)
    twice = nn.ModuleList([*layers, layers[0]])

    class Looped(nn.Module):
        def forward(self, **options: Any) -> None:
            made.model.decoder(**options)
            made.model.decoder(**options)

    with pytest.raises(UnsupportedModel, match=r"of layer 0 ran for 12 tokens in a pass over 6, expected each token once"):
        check_every_token_once(Looped(), layers, made.model.names, made.model.device)
    with pytest.raises(UnsupportedModel, match="layers 0 and 3 share one module"):
        check_every_token_once(made.model.decoder, list(twice), made.model.names, made.model.device)


@pytest.mark.parametrize("name", ["mlp", "mlp.down_proj", "self_attn"])
def test_find_modules_refuses_a_module_that_two_layers_share(name: str) -> None:
    layers = list(causal_model("llama", LLAMA).base_model.layers)
    layers[2].mlp, layers[2].self_attn = layers[0].mlp, layers[0].self_attn
    with pytest.raises(
        UnsupportedModel,
        match=rf"layers 0 and 2 share one module '{name}': its events and its gain could not be told apart by layer; use a model",
    ):
        find_modules(layers, name)
