"""The sizes of a decoder from its config.json alone, for an estimate before anything heavy is imported (spec 12).

Weights of a layer, biases and norms left out (h heads of width w, k of them with keys and values):

    attention    d w (2 h + 2 k)
    MLP          3 d d_ff gated, 2 d d_ff plain

transformers' own configs would bring torch, so the names that families give their sizes, and what they leave out, stand here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from avalanche_llm.io.strict_json import parse_json
from avalanche_llm.resources import local
from avalanche_llm.settings_sources import ModelChoice

NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "n_layers": ("num_hidden_layers", "n_layer"),
    "d_model": ("hidden_size", "n_embd", "n_embed"),
    "d_ff": ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"),
    "n_heads": ("num_attention_heads", "n_head"),
    "vocab": ("vocab_size",),
}
LOGITS_AT_ONCE: Final = 256
"""Positions whose logits are there together: with fewer, the matrix product would lose speed."""
SOFTMAX_AT_ONCE: Final = 32
"""Positions of them, a whole number of times, that are there in the precision of the softmax."""
PLAIN: Final = frozenset({"bloom", "falcon", "gpt2", "gpt_neox", "opt", "phi"})
"""Model types without a gate in the MLP; every other one is taken for gated."""
FOURFOLD: Final = frozenset({"bloom", "falcon", "gpt2"})
"""Model types whose d_ff is 4 d_model unless the config says more."""
GEMMA3_TEXT: Final[Mapping[str, int]] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
}
"""What the nested text_config of gemma3 leaves out where it is the default of transformers."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder; head_dim is w, n_kv_heads is k. FLOPs as in `avalanche_llm.cost`."""

    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    gated: bool

    @property
    def layer_weights(self) -> int:
        """Weights of all layers."""
        attention = self.d_model * self.head_dim * 2 * (self.n_heads + self.n_kv_heads)
        return self.n_layers * (attention + (3 if self.gated else 2) * self.d_model * self.d_ff)

    @property
    def all_weights(self) -> int:
        """With the embedding; a head that does not share it is left out."""
        return self.layer_weights + self.vocab * self.d_model

    def flops(self, n_tokens: int, seq_len: int) -> float:
        """FLOPs of a forward pass over `n_tokens` tokens in windows of `seq_len`, without the head."""
        return n_tokens * (2.0 * self.layer_weights + 4.0 * self.n_layers * self.n_heads * self.head_dim * seq_len)

    def head_flops(self, n_tokens: int) -> float:
        """FLOPs of the logits of `n_tokens` tokens."""
        return n_tokens * 2.0 * self.vocab * self.d_model


@dataclass(frozen=True)
class UnknownShape:
    """Why the sizes of a model are not known."""

    reason: str


def model_shape(choice: ModelChoice) -> ModelShape | UnknownShape:
    """Sizes of a local model, or of a hub model whose config.json is cached. Never raises on what the file holds."""
    path = _config_json(choice)
    if path is None:
        return UnknownShape("the model's config.json is not on this machine")
    try:
        config = parse_json(path.read_bytes())
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        return UnknownShape("the model's config.json is not one json object")
    return _shape(config)


def _config_json(choice: ModelChoice) -> Path | None:
    path = local(choice.hf_id) / "config.json"
    if path.is_file():
        return path
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        known = choice.hf_id.count("/") == 1
        cached = try_to_load_from_cache(choice.hf_id, "config.json", revision=choice.revision) if known else None
    except HFValidationError:  # a path such as ./absent
        return None
    return Path(cached) if isinstance(cached, str) else None


def _shape(config: dict[str, Any]) -> ModelShape | UnknownShape:
    model_type, text = str(config.get("model_type")), config.get("text_config", config)
    if not isinstance(text, dict):
        return UnknownShape("text_config in the model's config.json is no json object")
    if model_type == "gemma3":
        text = {**GEMMA3_TEXT, **text}
    sizes: dict[str, Any] = {size: next((text[name] for name in names if text.get(name)), None) for size, names in NAMES.items()}
    if sizes["d_ff"] is None and model_type in FOURFOLD and isinstance(sizes["d_model"], int):
        sizes["d_ff"] = 4 * sizes["d_model"]
    heads, d_model = sizes["n_heads"], sizes["d_model"]
    if isinstance(heads, int) and isinstance(d_model, int):
        sizes["n_kv_heads"] = _kv_heads(text, heads, model_type)
        sizes["head_dim"] = text.get("head_dim") or d_model // heads
    wrong = [size for size, value in sizes.items() if type(value) is not int or value < 1]
    if wrong:
        looked_for = "; ".join(" or ".join(NAMES.get(size, (size,))) for size in wrong)
        return UnknownShape(f"the model's config.json gives no positive whole number for {looked_for}")
    return ModelShape(**sizes, gated=model_type not in PLAIN)


def _kv_heads(text: dict[str, Any], heads: int, model_type: str) -> Any:
    """Falcon says it in its own way: a number in the new architecture, else one head for all or one each."""
    if model_type != "falcon":
        return text.get("num_key_value_heads") or heads
    if text.get("new_decoder_architecture"):
        return text.get("num_kv_heads") or heads
    return 1 if text.get("multi_query", True) else heads
