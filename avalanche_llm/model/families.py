"""The seam for model families: the module names by `config.model_type`. A new family is one line of this table (spec 12).

`mlp` and `attn` name the module whose output is added to the residual stream, `down` the MLP's last projection, whose input is
the measured u. From `up`, `act` and, in a gated MLP, `gate` u is computed a second time, h being the MLP's input:

    u = act(gate(h)) * up(h)        gated; where gate and up are one projection, its first half is the gate
    u = act(up(h))                  plain
"""

from types import MappingProxyType
from typing import Any, Final

import torch
from torch import nn

from avalanche_llm.errors import UnsupportedModel
from avalanche_llm.settings_sources import HookNames

GATED: Final = HookNames(
    layers="layers",
    mlp="mlp",
    attn="self_attn",
    down="mlp.down_proj",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    act="mlp.act_fn",
)
# a norm follows attention and MLP before the sum: a gain put before it would cancel
POST_NORM: Final = GATED.model_copy(update={"mlp": "post_feedforward_layernorm", "attn": "post_attention_layernorm"})
NEOX: Final = HookNames(
    layers="layers", mlp="mlp", attn="attention", down="mlp.dense_4h_to_h", up="mlp.dense_h_to_4h", act="mlp.act"
)

FAMILIES: Final = MappingProxyType(
    {
        # its modules return residual + out, so the projections before that sum are scaled
        "bloom": HookNames(
            layers="h",
            mlp="mlp.dense_4h_to_h",
            attn="self_attention.dense",
            down="mlp.dense_4h_to_h",
            up="mlp.dense_h_to_4h",
            act="mlp.gelu_impl",
        ),
        "falcon": NEOX.model_copy(update={"layers": "h", "attn": "self_attention"}),
        "gemma": GATED,
        "gemma2": POST_NORM,
        "gemma3": POST_NORM.model_copy(update={"layers": "language_model.layers"}),
        "gemma3_text": POST_NORM,
        "gpt2": HookNames(layers="h", mlp="mlp", attn="attn", down="mlp.c_proj", up="mlp.c_fc", act="mlp.act"),
        "gpt_neox": NEOX,
        "granite": GATED,
        "llama": GATED,
        "mistral": GATED,
        "olmo": GATED,
        "olmo2": POST_NORM,
        "olmo3": POST_NORM,
        # a layer holds the two projections itself
        "opt": HookNames(layers="decoder.layers", mlp="fc2", attn="self_attn", down="fc2", up="fc1", act="activation_fn"),
        "phi": GATED.model_copy(update={"down": "mlp.fc2", "gate": None, "up": "mlp.fc1", "act": "mlp.activation_fn"}),
        "phi3": GATED.model_copy(
            update={"gate": "mlp.gate_up_proj", "up": "mlp.gate_up_proj", "act": "mlp.activation_fn"}
        ),
        "qwen2": GATED,
        "qwen3": GATED,
        "smollm3": GATED,
        "stablelm": GATED,
    }
)

EXPERT_COUNTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""What the config of a mixture of experts calls their number."""


def refuse_experts(config: Any) -> None:
    """Raise UnsupportedModel for a mixture of experts: u is not defined for a unit whose expert a token is not sent to."""
    try:
        text = config.get_text_config()
    except ValueError as error:
        raise UnsupportedModel(
            f"model type {config.model_type!r} holds several text models, expected one decoder; use a decoder by itself"
        ) from error
    of_mlp = getattr(text, "ffn_config", None)  # DBRX keeps it there
    for name in EXPERT_COUNTS:
        found = getattr(text, name, None) or getattr(of_mlp, name, None)
        if found:
            raise UnsupportedModel(
                f"model type {config.model_type!r} is a mixture of experts ({name}: {found}): its units live in "
                "experts, and a token that is not sent to an expert has no activation there, so that a rate per unit and token "
                "is not defined; use a dense model (spec/12 states the definition that experts would need)"
            )


def hook_names(config: Any, decoder: nn.Module, configured: HookNames | None) -> HookNames:
    """The names from the config if it gives them, else from the table.

    Raises UnsupportedModel for an unknown type, saying what was looked for, what is there and how to name the modules.
    """
    names = configured or FAMILIES.get(config.model_type)
    if names is None:
        raise UnsupportedModel(_unknown(config.model_type, decoder))
    return names


def follows_positions(config: Any) -> bool:
    """Whether attention takes positions and a mask of every pair of tokens as they are given.

    Not where a bias for distance is computed from the mask (ALiBi), nor in a kernel that knows causal masks only; of a family
    that is not in the table it is not known.
    """
    text = config.get_text_config()
    implementation = getattr(text, "_attn_implementation", None)
    return (
        config.model_type in FAMILIES
        and config.model_type != "bloom"
        and not getattr(text, "alibi", False)
        and implementation in ("eager", "sdpa")
    )


def find_layers(decoder: nn.Module, names: HookNames) -> list[nn.Module]:
    """The decoder's layers in order. Raises UnsupportedModel if `names.layers` leads to no list of modules."""
    layers = _submodule(decoder, names.layers, "decoder")
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise UnsupportedModel(f"expected a list of layers at {names.layers!r}, found {type(layers).__name__}")
    return list(layers)


def find_modules(layers: list[nn.Module], name: str) -> list[nn.Module]:
    """The submodule `name` of every layer. Raises UnsupportedModel naming the layer that has none, or shares one."""
    modules = [_submodule(layer, name, f"layer {index}") for index, layer in enumerate(layers)]
    first: dict[int, int] = {}
    for index, module in enumerate(modules):
        if first.setdefault(id(module), index) != index:
            raise UnsupportedModel(
                f"layers {first[id(module)]} and {index} share one module {name!r}: its events and its gain could not be told "
                "apart by layer; use a model whose layers have modules of their own"
            )
    return modules


def input_width(down: nn.Module) -> int:
    """d_ff: the number of inputs of the MLP's last projection, a linear layer (which transformers' Conv1D of GPT-2 is)."""
    width = getattr(down, "in_features", getattr(down, "nx", None))
    if not isinstance(width, int):
        raise UnsupportedModel(f"expected the down projection to be a linear layer, found {type(down).__name__}")
    return width


def recomputed_input(layer: nn.Module, names: HookNames, hidden: torch.Tensor) -> torch.Tensor | None:
    """u from the MLP input `hidden` (.., d_model), or None where the names do not say how it is computed.

    Raises UnsupportedModel where the layer has no module of that name.
    """
    if names.up is None or names.act is None:
        return None
    act = _submodule(layer, names.act, "a layer")
    up: torch.Tensor = _submodule(layer, names.up, "a layer")(hidden)
    if names.gate is None:
        plain: torch.Tensor = act(up)
        return plain
    gate: torch.Tensor = _submodule(layer, names.gate, "a layer")(hidden)
    if names.gate == names.up:
        gate, up = up.chunk(2, dim=-1)
    product: torch.Tensor = act(gate) * up
    return product


def _submodule(module: nn.Module, name: str, where: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        raise UnsupportedModel(
            f"{where} has no module {name!r} (it has: {', '.join(_names(module))}); check models.<ROLE>.hooks"
        ) from error


def _names(module: nn.Module) -> list[str]:
    """The dotted names below a module, without what lies inside lists."""
    return [name for name, _ in module.named_modules() if name and not any(part.isdigit() for part in name.split("."))]


def _unknown(model_type: str, decoder: nn.Module) -> str:
    lists = [(name, found) for name, found in decoder.named_modules() if isinstance(found, nn.ModuleList) and len(found)]
    layers, longest = max(lists, key=lambda item: len(item[1]), default=("layers", nn.ModuleList([nn.Module()])))
    inside = _names(longest[0])
    # the norms are asked for first: the other names of such a family are Llama's
    fitting = (names for names in (POST_NORM, *FAMILIES.values()) if {names.mlp, names.attn, names.down} <= {*inside})
    like = next(fitting, None)
    example = like or GATED
    wanted = sorted({name for names in FAMILIES.values() for name in (names.mlp, names.attn, names.down)})
    return (
        f"no MLP is known for model type {model_type!r} (known: {', '.join(FAMILIES)}); looked for a list of layers below "
        f"{type(decoder).__name__} and found {f'{layers} ({len(longest)} layers)' if lists else 'none'}; looked in its first "
        f"layer for {', '.join(wanted)} and found {', '.join(inside) or 'nothing'}; name its modules in the config, for example "
        f"models.<ROLE>.hooks: {{layers: {layers}, mlp: {example.mlp}, attn: {example.attn}, down: {example.down}}} "
        f"({'names that exist here' if like else 'what Llama calls them'}), where mlp and attn are the modules whose output is "
        "added to the residual stream (the norm after the MLP, if there is one) and down is the MLP's last projection; then run "
        "phase0_validate_env, which tries them (spec/12)"
    )
