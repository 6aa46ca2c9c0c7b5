"""The seam for model families: the module names by `config.model_type`. A new family is one line of this table (spec 12)."""

from types import MappingProxyType
from typing import Final

import torch
from torch import nn

from avalanche_llm.errors import UnsupportedModel
from avalanche_llm.settings import HookNames

GATED: Final = HookNames(
    layers="layers",
    mlp="mlp",
    attn="self_attn",
    down="mlp.down_proj",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    act="mlp.act_fn",
)

FAMILIES: Final = MappingProxyType({"llama": GATED, "qwen2": GATED, "qwen3": GATED, "mistral": GATED, "smollm3": GATED})


def hook_names(model_type: str, configured: HookNames | None) -> HookNames:
    """The names from the config if it gives them, else from the table.

    Raises UnsupportedModel for an unknown type, saying what is known and how to name the modules.
    """
    names = configured or FAMILIES.get(model_type)
    if names is None:
        raise UnsupportedModel(
            f"no MLP is known for model type {model_type!r} (known: {', '.join(sorted(FAMILIES))}); "
            "name its modules in the config under models.<ROLE>.hooks: layers, mlp, attn, down (see spec/12)"
        )
    return names


def find_layers(decoder: nn.Module, names: HookNames) -> list[nn.Module]:
    """The decoder's layers in order. Raises UnsupportedModel if `names.layers` leads to no list of modules."""
    layers = _submodule(decoder, names.layers, "decoder")
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise UnsupportedModel(f"expected a list of layers at {names.layers!r}, found {type(layers).__name__}")
    return list(layers)


def find_modules(layers: list[nn.Module], name: str) -> list[nn.Module]:
    """The submodule `name` of every layer. Raises UnsupportedModel naming the layer that has none, or shares one."""
    modules = [_submodule(layer, name, f"layer {index}") for index, layer in enumerate(layers)]
    if len({id(module) for module in modules}) != len(modules):
        raise UnsupportedModel(f"layers share one module {name!r}: its events could not be told apart by layer")
    return modules


def input_width(down: nn.Module) -> int:
    """d_ff: the number of inputs of the MLP's last projection."""
    width = getattr(down, "in_features", None)
    if not isinstance(width, int):
        raise UnsupportedModel(f"expected the down projection to be a linear layer, found {type(down).__name__}")
    return width


def recomputed_input(layer: nn.Module, names: HookNames, hidden: torch.Tensor) -> torch.Tensor | None:
    """act(gate(h)) * up(h) for the MLP input `hidden` (.., d_model), or None where the family has no gate and up."""
    if names.gate is None or names.up is None or names.act is None:
        return None
    gate, up, act = (layer.get_submodule(name) for name in (names.gate, names.up, names.act))
    product: torch.Tensor = act(gate(hidden)) * up(hidden)
    return product


def _submodule(module: nn.Module, name: str, where: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(child for child, _ in module.named_children())
        raise UnsupportedModel(f"{where} has no module {name!r} (it has: {children}); check models.<ROLE>.hooks") from error
