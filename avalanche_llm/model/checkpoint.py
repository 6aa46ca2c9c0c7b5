"""What a local checkpoint declares against what it holds, before anything of the declared size is allocated (spec 12).

transformers builds the model that config.json describes and fills what the weights lack at random: a config that asks for more or
wider layers than the weights have would first cost all of that time and memory, and be refused only then.
"""

from math import prod
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open

from avalanche_llm.errors import DeterminismError, UnsupportedModel

MARGIN: Final = 16
"""A packed checkpoint holds fewer numbers than the model has; nothing packs more into one."""


def check_declared(config: Any, folder: Path) -> None:
    """Raise DeterminismError if the config has more layers than there are tensors, or a matrix MARGIN times larger than all."""
    shapes = [shape for path in sorted(folder.glob("*.safetensors")) for shape in _shapes(path)]
    if not shapes:
        return  # the loader says what is missing
    text = config.get_text_config()
    there = sum(map(prod, shapes))
    layers, hidden = _whole(text, "num_hidden_layers"), _whole(text, "hidden_size")
    heads = max(_whole(text, "num_attention_heads"), _whole(text, "num_key_value_heads"))
    largest = hidden * max(1, _whole(text, "vocab_size"), _whole(text, "intermediate_size"), heads * _whole(text, "head_dim"))
    if layers > len(shapes) or largest > MARGIN * there:
        raise DeterminismError(
            f"{folder}: config.json declares {layers} layers and a matrix of {largest} numbers, the weights hold {len(shapes)} "
            f"tensors with {there} numbers in all; the checkpoint is incomplete or not its config's"
        )


def refuse_foreign_kernels(config: Any) -> None:
    """Raise UnsupportedModel where config.json names a hub repository as its attention: that would be code of others."""
    named = str(getattr(config, "_attn_implementation", None))
    if "/" in named:
        raise UnsupportedModel(f"config.json takes its attention from {named!r}, which is code of others; remove the entry")


def _shapes(path: Path) -> list[list[int]]:
    with safe_open(path, framework="pt") as file:
        return [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118  # a reader, not a mapping


def _whole(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else 0
