"""The intervention: g = 1 is the plain model, the contribution to the residual stream scales by exactly g, hooks come off."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from avalanche_llm.errors import DataError
from avalanche_llm.model.forward import forward_pass
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.hooks import ReadInput, ScaleOutput
from avalanche_llm.model.loader import LoadedModel

Trace = list[dict[str, torch.Tensor]]
TOKENS = torch.arange(96).reshape(2, 48) % tiny.VOCABULARY
TARGETS = ("MLP", "ATTN")


@pytest.fixture(scope="module")
def model(model_folder: Path) -> LoadedModel:
    return tiny.loaded(model_folder)


def scaled(model: LoadedModel, plan: GainPlan) -> ScaleOutput:
    return ScaleOutput(model.modules("mlp" if plan.target == "MLP" else "attn"), plan.gains)


def n_hooks(model: LoadedModel) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.causal.modules())


@contextmanager
def tracing(model: LoadedModel) -> Iterator[Trace]:
    """h_in, h_mid and h_out of every layer, and what attention and MLP add in between, as the residual stream sees it."""
    trace: Trace = [{} for _ in model.layers]
    handles = []

    def keep(layer: int, name: str, of_output: bool) -> Any:
        def hook(module: Any, arguments: Any, keywords: Any, output: Any = None) -> None:
            value = output if of_output else (arguments[0] if arguments else keywords["hidden_states"])
            trace[layer][name] = (value[0] if isinstance(value, tuple) else value).clone()

        return hook

    for index, layer in enumerate(model.layers):
        handles += [
            layer.register_forward_pre_hook(keep(index, "h_in", False), with_kwargs=True),
            layer.self_attn.register_forward_hook(keep(index, "attn", True), with_kwargs=True),
            layer.post_attention_layernorm.register_forward_pre_hook(keep(index, "h_mid", False), with_kwargs=True),
            layer.mlp.register_forward_hook(keep(index, "mlp", True), with_kwargs=True),
            layer.register_forward_hook(keep(index, "h_out", True), with_kwargs=True),
        ]
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def traced(model: LoadedModel, plan: GainPlan) -> Trace:
    with torch.inference_mode(), scaled(model, plan), tracing(model) as trace:  # tracing hooks run after those of the plan
        model.decoder(input_ids=TOKENS, use_cache=False)
    return trace


def test_tracing_sees_the_residual_stream(model: LoadedModel) -> None:
    for layer in traced(model, GainPlan.uniform("MLP", 1.0, model.n_layers)):
        assert torch.equal(layer["h_in"] + layer["attn"], layer["h_mid"])
        assert torch.equal(layer["h_mid"] + layer["mlp"], layer["h_out"])


@pytest.mark.parametrize("target", TARGETS)
def test_scale_output_at_one_is_bit_identical_to_no_hooks(target: Any, model: LoadedModel) -> None:
    seen = []
    with torch.inference_mode():
        plain = model.causal(input_ids=TOKENS, use_cache=False).logits
        with (
            scaled(model, GainPlan.uniform(target, 1.0, model.n_layers)),
            ReadInput(model.modules("down"), lambda i, u: seen.append(i)),
        ):
            assert n_hooks(model) == tiny.N_LAYERS  # those that read; a gain of one hooks nothing
            hooked = model.causal(input_ids=TOKENS, use_cache=False).logits
    assert seen == list(range(tiny.N_LAYERS))
    assert torch.equal(plain, hooked)


@pytest.mark.parametrize("gain", [0.5, 2.0, 0.7, 1.15, 3.0])
@pytest.mark.parametrize("target", TARGETS)
def test_scale_output_scales_what_the_module_adds_by_exactly_the_gain(target: Any, gain: float, model: LoadedModel) -> None:
    """In every layer: what is added is g times what the same module gives for the same input, and nothing else changes."""
    trace = traced(model, GainPlan.uniform(target, gain, model.n_layers))
    for module, layer in zip(model.layers, trace, strict=True):
        with torch.inference_mode():
            mlp = module.mlp(module.post_attention_layernorm(layer["h_mid"]))
        if target == "MLP":
            assert torch.equal(layer["mlp"], mlp * gain)
            assert torch.equal(layer["h_mid"], layer["h_in"] + layer["attn"])
        else:
            assert torch.equal(layer["mlp"], mlp)
            assert torch.equal(layer["h_mid"], layer["h_in"] + layer["attn"])
        assert torch.equal(layer["h_out"], layer["h_mid"] + layer["mlp"])
        before, after = (layer["h_mid"], layer["h_out"]) if target == "MLP" else (layer["h_in"], layer["h_mid"])
        added = layer["mlp"] if target == "MLP" else layer["attn"]
        rounding = 2 * torch.finfo(torch.float32).eps * (before.abs() + after.abs())
        assert ((after - before - added).abs() <= rounding).all()


@pytest.mark.parametrize("gain", [0.25, 0.5, 2.0, 4.0, 0.7, 1.3])
@pytest.mark.parametrize("target", TARGETS)
def test_scale_output_in_one_layer_scales_its_contribution_by_the_gain(target: Any, gain: float, model: LoadedModel) -> None:
    """The same input reaches the scaled layer, so contributions compare bit by bit: exactly g for a power of two, and
    within the rounding of one product otherwise."""
    last = model.n_layers - 1
    plain = traced(model, GainPlan.uniform(target, 1.0, model.n_layers))
    changed = traced(model, GainPlan(target, (1.0,) * last + (gain,)))
    name = "mlp" if target == "MLP" else "attn"
    exact = plain[last][name].to(torch.float64) * gain
    if gain in (0.25, 0.5, 2.0, 4.0):
        assert torch.equal(changed[last][name].to(torch.float64), exact)
    assert ((changed[last][name] - exact).abs() <= exact.abs() * torch.finfo(torch.float32).eps).all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("first", range(tiny.N_LAYERS))
def test_scale_output_changes_nothing_before_the_first_scaled_layer(target: Any, first: int, model: LoadedModel) -> None:
    plain = traced(model, GainPlan.uniform(target, 1.0, model.n_layers))
    changed = traced(model, GainPlan(target, tuple(1.5 if layer >= first else 1.0 for layer in range(model.n_layers))))
    for layer in range(first):
        for name in plain[layer]:
            assert torch.equal(plain[layer][name], changed[layer][name])
    assert torch.equal(plain[first]["h_in"], changed[first]["h_in"])
    if target == "MLP":
        assert torch.equal(plain[first]["h_mid"], changed[first]["h_mid"])
    assert not torch.equal(plain[first]["h_out"], changed[first]["h_out"])


def test_gain_changes_what_later_layers_see_but_not_the_first_input_of_a_down_projection(model: LoadedModel) -> None:
    """u of layer 0 comes before any scaled MLP; u of layer 1 does not."""
    u: dict[float, dict[int, torch.Tensor]] = {1.0: {}, 2.0: {}}
    for gain, found in u.items():
        plan = GainPlan.uniform("MLP", gain, model.n_layers)
        with torch.inference_mode(), scaled(model, plan), ReadInput(model.modules("down"), found.__setitem__):
            model.decoder(input_ids=TOKENS, use_cache=False)
    assert torch.equal(u[1.0][0], u[2.0][0])
    assert not torch.equal(u[1.0][1], u[2.0][1])


def test_no_weight_is_edited(model: LoadedModel) -> None:
    before = {name: tensor.clone() for name, tensor in model.causal.state_dict().items()}
    traced(model, GainPlan.uniform("MLP", 1.7, model.n_layers))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.causal.state_dict().items())


@pytest.mark.parametrize("target", TARGETS)
def test_hooks_come_off_after_use_and_after_an_exception(target: Any, model: LoadedModel) -> None:
    plan = GainPlan.uniform(target, 2.0, model.n_layers)
    plain = model.decoder(input_ids=TOKENS, use_cache=False).last_hidden_state
    assert n_hooks(model) == 0
    with scaled(model, plan), ReadInput(model.modules("down"), lambda layer, u: None):
        assert n_hooks(model) == 2 * tiny.N_LAYERS
    assert n_hooks(model) == 0

    def fail(layer: int, u: torch.Tensor) -> None:
        if layer == 1:
            raise ZeroDivisionError("in the middle of a pass")

    with pytest.raises(ZeroDivisionError, match="in the middle"), scaled(model, plan), ReadInput(model.modules("down"), fail):
        model.decoder(input_ids=TOKENS, use_cache=False)
    assert n_hooks(model) == 0
    assert torch.equal(model.decoder(input_ids=TOKENS, use_cache=False).last_hidden_state, plain)


def test_forward_pass_takes_its_hooks_off_when_a_callback_fails(model: LoadedModel) -> None:
    def fail(layer: int, u: torch.Tensor) -> None:
        raise ZeroDivisionError("no")

    with pytest.raises(ZeroDivisionError):
        forward_pass(model, TOKENS.numpy(), plan=GainPlan.uniform("MLP", 2.0, model.n_layers), batch_windows=1, on_input=fail)
    assert n_hooks(model) == 0


@pytest.mark.parametrize("batch_windows", [1, 2, 3, 5, 8])
def test_forward_pass_runs_every_window_once_in_order(batch_windows: int, model: LoadedModel) -> None:
    windows = np.arange(5 * 8).reshape(5, 8) % tiny.VOCABULARY
    firsts, done, calls, u = [], [], [], []
    handle = model.decoder.register_forward_pre_hook(lambda module, arguments: calls.append(1))
    report = forward_pass(
        model,
        windows,
        plan=GainPlan.uniform("MLP", 1.0, model.n_layers),
        batch_windows=batch_windows,
        on_input=lambda layer, tensor: u.append(tensor.shape[0]) if layer == 0 else None,
        on_batch=firsts.append,
        advance=done.append,
    )
    handle.remove()
    assert firsts == list(range(0, 5, batch_windows))
    assert sum(u) == sum(done) == report.n_windows == 5
    assert len(calls) == report.n_batches == -(-5 // batch_windows)


def test_forward_pass_ends_with_the_last_u_unless_likelihoods_are_wanted(model: LoadedModel) -> None:
    windows, plan = np.arange(16).reshape(2, 8), GainPlan.uniform("MLP", 1.1, model.n_layers)
    calls, seen = [], []
    handles = [module.register_forward_hook(lambda *_, at=at: calls.append(at)) for at, module in enumerate(model.modules("down"))]
    for predict_from in (None, 1):
        forward_pass(
            model, windows, plan=plan, batch_windows=2, on_input=lambda layer, u: seen.append(layer), predict_from=predict_from
        )
    for handle in handles:
        handle.remove()
    assert seen == [*range(model.n_layers)] * 2
    assert calls == [*range(model.n_layers - 1), *range(model.n_layers)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_forward_pass_sees_a_last_u_that_is_not_finite(model: LoadedModel, value: float) -> None:
    def spoil(module: torch.nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        spoilt = arguments[0].clone()
        spoilt[1, 2, 3] = value
        return (spoilt,)

    handle = model.modules("down")[-1].register_forward_pre_hook(spoil)
    plan = GainPlan.uniform("MLP", 1.0, model.n_layers)
    with pytest.raises(DataError, match=r"became NaN or infinite at gain 1\.0 in windows 0 to 1"):
        forward_pass(model, np.arange(32).reshape(4, 8), plan=plan, batch_windows=2, on_input=lambda layer, u: None)
    handle.remove()


def test_forward_pass_stops_when_activations_become_infinite_and_names_the_windows(model: LoadedModel) -> None:
    windows = np.arange(3 * 8).reshape(3, 8)
    with pytest.raises(DataError, match=r"became NaN or infinite at gain 1e\+38 in windows 0 to 1; use --dtype fp32") as caught:
        forward_pass(
            model, windows, plan=GainPlan.uniform("MLP", 1e38, model.n_layers), batch_windows=2, on_input=lambda layer, u: None
        )
    assert caught.value.exit_code == 2
    assert n_hooks(model) == 0


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan"), float("inf")])
def test_gain_plan_refuses_what_is_no_positive_number(gain: float) -> None:
    with pytest.raises(ValueError, match="gains must be positive numbers"):
        GainPlan.uniform("MLP", gain, 3)


@given(st.integers(1, 40))
def test_gain_plan_bands_are_thirds_that_cover_every_layer_once(n_layers: int) -> None:
    bands = [np.array(GainPlan.band("MLP", 2.0, n_layers, band).gains) == 2.0 for band in ("EARLY", "MID", "LATE")]
    assert (sum(band.astype(int) for band in bands) == 1).all()
    sizes = [int(band.sum()) for band in bands]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
    order = np.concatenate([np.flatnonzero(band) for band in bands])
    assert order.tolist() == list(range(n_layers))
