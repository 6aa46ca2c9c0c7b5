"""From hidden states to logits as the causal model goes, for chosen positions: the decoder is not run again.

A family may cap or scale its logits after the head, so the model's own code computes them, given what its decoder returned.
Logits of every position of a batch would be the largest tensor there is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch.nn.functional import cross_entropy

from avalanche_llm.errors import UnsupportedModel
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.model.shape import LOGITS_AT_ONCE, SOFTMAX_AT_ONCE


def decoded(model: LoadedModel, **inputs: Any) -> Any:
    """What the decoder returns, `last_hidden_state` [batch, token, d_model] among it; `logits` takes it.

    Raises UnsupportedModel for a model without a language-model head.
    """
    causal: Any = model.causal
    if causal.get_output_embeddings() is None:
        raise UnsupportedModel(f"{type(causal).__name__} has no language-model head: next tokens cannot be scored")
    return causal.get_decoder()(**inputs)


def logits(
    model: LoadedModel, output: Any, hidden: Float[torch.Tensor, "position d_model"]
) -> Float[torch.Tensor, "position vocabulary"]:
    """The logits of some positions of what `decoded` returned. Raises UnsupportedModel if the model does not use that."""
    given = copy(output)
    given["last_hidden_state"] = hidden[None]
    causal: Any = model.causal
    places = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
    with _returning(causal.get_decoder(), given) as calls:
        found: torch.Tensor = causal(input_ids=places, use_cache=False).logits
    if len(calls) != 1:
        raise UnsupportedModel(
            f"expected {type(causal).__name__} to call its decoder once, found {len(calls)} calls: next tokens cannot be scored"
        )
    return found[0]


def logprobs(
    model: LoadedModel,
    output: Any,
    hidden: Float[torch.Tensor, "position d_model"],
    ids: Int64[torch.Tensor, " position"],
    dtype: torch.dtype,
) -> Float[torch.Tensor, " position"]:
    """log softmax(logits of position i)[ids[i]] in nats, the softmax in `dtype`."""

    def of_slice(given: torch.Tensor, following: torch.Tensor) -> list[torch.Tensor]:  # its logits go before the next ones come
        found = logits(model, output, given)
        parts = zip(torch.split(found, SOFTMAX_AT_ONCE), torch.split(following, SOFTMAX_AT_ONCE), strict=True)
        return [cross_entropy(part.to(dtype), of_part, reduction="none") for part, of_part in parts]

    slices = zip(torch.split(hidden, LOGITS_AT_ONCE), torch.split(ids, LOGITS_AT_ONCE), strict=True)
    return -torch.cat([found for of_one in slices for found in of_slice(*of_one)])


@contextmanager
def _returning(module: Any, output: Any) -> Iterator[list[Any]]:
    """Let `module` return `output` whatever it is given; what it was given, call by call."""
    own, calls = vars(module).get("forward"), []

    def forward(*arguments: Any, **keywords: Any) -> Any:
        calls.append(arguments)
        return output

    module.forward = forward
    try:
        yield calls
    finally:
        del module.forward
        if own is not None:
            module.forward = own
