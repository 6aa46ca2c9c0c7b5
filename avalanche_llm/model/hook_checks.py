"""Are the named modules what the definitions need? Three answers from the model itself (spec 12).

- each of them runs once for every token of a pass;
- u at the down projection is what gate, up and act compute;
- what the MLP adds is scaled by the gain, nothing else: with h(g) the output of a layer whose MLP has gain g, and m(1) what the
  named module returns at gain 1,

    h(2) - h(1) = c m(1),    h(1) - c m(1) is not zero

for one number c (the multiplier of a family that has one). The first fails where a norm follows the module, before or after the
sum; the second where the module returns the residual stream along with what it adds.
"""

from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import nn

from avalanche_llm.errors import AvalancheError, UnsupportedModel, reason
from avalanche_llm.model.families import find_modules, recomputed_input
from avalanche_llm.model.hooks import ReadInput, ReadOutput, ScaleOutput
from avalanche_llm.settings_sources import HookNames

PROBE: Final = (2, 3)
"""Windows and tokens of the pass that counts."""
ROUNDINGS: Final = 8
"""Units in the last place that a sum of the stream and what is added may be off."""
OFF_SHARE: Final = 0.01
"""Few elements may be off by more: where large summands cancel, the sum's last place says little."""


@dataclass(frozen=True)
class HookDifference:
    """Largest |u read - u computed| over the layers that could be compared; NaN where one of them is."""

    n_layers: int
    largest: float


@dataclass(frozen=True)
class GainEffect:
    """share: c; the flags say whether the output follows the gain, and whether anything is left without the MLP."""

    share: float
    follows: bool
    leaves_the_stream: bool


def check_every_token_once(decoder: nn.Module, layers: list[nn.Module], names: HookNames, device: torch.device) -> None:
    """Raise UnsupportedModel if a named module is left out, called again, or given a part of the tokens."""
    named = [name for name in (names.mlp, names.attn, names.down) for _ in layers]
    modules = [module for name in (names.mlp, names.attn, names.down) for module in find_modules(layers, name)]
    seen = [0] * len(modules)

    def count(place: int, output: torch.Tensor) -> None:
        seen[place] += output.shape[:-1].numel()

    with torch.inference_mode(), ReadOutput(modules, count):
        decoder(input_ids=torch.zeros(PROBE, dtype=torch.long, device=device), use_cache=False)
    expected = prod(PROBE)
    for place, (name, found) in enumerate(zip(named, seen, strict=True)):
        if found != expected:
            raise UnsupportedModel(
                f"{name!r} of layer {place % len(layers)} ran for {found} tokens in a pass over {expected}, expected each token "
                "once: the block computes without calling it (BLOOM does with slow_but_exact: true), calls it repeatedly or "
                "routes tokens past it; name another module in models.<ROLE>.hooks"
            )


def hook_difference(
    decoder: nn.Module, layers: list[nn.Module], names: HookNames, ids: Int64[torch.Tensor, "batch token"]
) -> HookDifference:
    """Compare what is read at every layer's down projection with what its gate, up and act give for the MLP's input.

    Values that are NaN or infinite on both sides alike do not differ: the passes name the windows that hold them. Raises
    UnsupportedModel where the three are not there, do not run before the down projection, or do not fit one another.
    """
    hidden: dict[int, torch.Tensor] = {}
    differences: list[float] = []

    def compare(layer: int, u: torch.Tensor) -> None:
        if layer not in hidden:
            raise UnsupportedModel(
                f"expected {names.up!r} to run before {names.down!r}, found that in layer {layer} it does not; "
                "check models.<ROLE>.hooks"
            )
        try:
            expected = recomputed_input(layers[layer], names, hidden.pop(layer))  # one layer at a time: memory
            if expected is not None:
                alike = torch.isclose(u, expected, rtol=0.0, atol=0.0, equal_nan=True)  # also where both overflow: read rightly
                differences.append(float((u - expected).masked_fill(alike, 0.0).abs().max()))
        except (AvalancheError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # named by a config, a module raises whatever it does on an input that is not its own
            raise UnsupportedModel(
                f"u of layer {layer} cannot be computed from up {names.up!r}, act {names.act!r} and gate {names.gate!r}: "
                f"{reason(error)}; check models.<ROLE>.hooks"
            ) from error

    readable = [] if names.up is None else find_modules(layers, names.up)
    downs = find_modules(layers, names.down) if readable else []
    with torch.inference_mode(), ReadInput(readable, hidden.__setitem__), ReadInput(downs, compare):
        decoder(input_ids=ids, use_cache=False)
    return HookDifference(len(differences), float(np.max(differences, initial=0.0)))  # unlike max(), it keeps a NaN


def gain_effect(
    decoder: nn.Module, layers: list[nn.Module], names: HookNames, ids: Int64[torch.Tensor, "batch token"]
) -> GainEffect:
    """Double what the first layer's MLP adds and look at the layer's output."""
    mlp = layers[0].get_submodule(names.mlp)
    outputs: list[torch.Tensor] = []
    added: list[torch.Tensor] = []
    for gain in (1.0, 2.0):
        with (
            torch.inference_mode(),
            ReadOutput([mlp], lambda _, output: added.append(output.to(torch.float64))),  # before the gain, as it comes first
            ScaleOutput([mlp], [gain]),
            ReadOutput(layers[:1], lambda _, output: outputs.append(output.to(torch.float64))),
        ):
            decoder(input_ids=ids, use_cache=False)
    return _effect(outputs[0], outputs[1], added[0].view_as(outputs[0]), torch.finfo(next(decoder.parameters()).dtype).eps)


def _effect(
    plain: Float64[torch.Tensor, "batch token model"],
    doubled: Float64[torch.Tensor, "batch token model"],
    added: Float64[torch.Tensor, "batch token model"],
    eps: float,
) -> GainEffect:
    change = doubled - plain
    share = float((change * added).sum() / added.square().sum())
    rounding = ROUNDINGS * eps * (plain.abs() + doubled.abs())
    off = (change - share * added).abs() > rounding
    return GainEffect(
        share,
        follows=bool((change.abs() > rounding).any()) and off.to(torch.float64).mean().item() < OFF_SHARE,
        leaves_the_stream=bool(((plain - share * added).abs() > rounding).any()),
    )
