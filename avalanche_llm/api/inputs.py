"""What a caller hands to `measure`, as the phases want it: settings, module names, windows of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from avalanche_llm.api.raster import canonical
from avalanche_llm.config import merge
from avalanche_llm.datasets import ended, windows_of
from avalanche_llm.errors import DataError
from avalanche_llm.settings import Settings, SpikeDef, parse_settings
from avalanche_llm.settings_sources import HookNames


def settings_from(
    gains: Sequence[float],
    target_rates: Sequence[float] | None,
    spike_defs: Sequence[SpikeDef] | None,
    seq_len: int | None,
    burn_in: int | None,
    batch_windows: int | None,
    seed: int | None,
) -> Settings:
    """The canonical settings with the options on top, validated as a config is. Raises ConfigError, naming the key."""
    canon = canonical()
    given: dict[str, dict[str, Any]] = {
        "pipeline": {"seq_len_tokens": seq_len, "burn_in_tokens": burn_in, "batch_windows": batch_windows},
        "events": {"target_rates": target_rates, "spike_defs": spike_defs},
        "determinism": {"seed": seed},
        "gains": {"grid": sorted({canon.gains.baseline, *map(float, gains)})},
    }
    chosen = {section: {key: value for key, value in keys.items() if value is not None} for section, keys in given.items()}
    return parse_settings(merge(canon.model_dump(), chosen))


def settings_with_batch(settings: Settings, batch_windows: int | None) -> Settings:
    """The same settings with another number of windows a forward pass, which no result depends on."""
    if batch_windows is None:
        return settings
    return parse_settings(merge(settings.model_dump(), {"pipeline": {"batch_windows": batch_windows}}))


def hooks_from(hooks: HookNames | Mapping[str, str] | None) -> HookNames | None:
    """Module names, given as such or as a mapping. Raises ConfigError for names that are none, as for those of a config."""
    if hooks is None or isinstance(hooks, HookNames):
        return hooks
    canon = canonical()
    named = {"models": {canon.run.model_role: {"hooks": dict(hooks)}}}
    return parse_settings(merge(canon.model_dump(), named)).model.hooks


def windows_from(texts: Any, tokenizer: Any, settings: Settings) -> Int64[np.ndarray, "seq token"]:
    """Windows of token ids from texts, or as given. Raises DataError for what is neither."""
    seq_len = settings.pipeline.seq_len_tokens
    if isinstance(texts, str) or (isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)):
        if tokenizer is None:
            raise DataError("texts need a tokenizer: pass the model's, or pass windows of token ids [seq, token]")
        return windows_of(ended([texts] if isinstance(texts, str) else texts), tokenizer, seq_len=seq_len, source="the text")
    try:
        windows = np.asarray(texts)
    except ValueError as error:
        raise DataError(
            "expected texts, or windows of token ids of one length, found ragged ones: cut them to seq_len"
        ) from error
    if windows.dtype.kind not in "iu" or windows.ndim != 2 or 0 in windows.shape:
        raise DataError(
            "expected a text, a list of texts, or whole numbers [seq, token], "
            f"found {windows.dtype} values of shape {windows.shape}"
        )
    if windows.shape[1] != seq_len:
        raise DataError(f"expected windows of {seq_len} tokens, found {windows.shape[1]}: pass seq_len={windows.shape[1]}")
    return windows.astype(np.int64)
