"""From hidden states to logits as the causal model goes, for chosen positions: the decoder is not run again.

A family may cap or scale its logits after the head, so the model's own code computes them, given what its decoder returned.
Logits of every position of a batch would be the largest tensor there is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, Final

import torch
from jaxtyping import Float, Int64
from torch.nn.functional import cross_entropy

from avalanche_llm.errors import UnsupportedModel
from avalanche_llm.model.loader import LoadedModel

AT_ONCE: Final = 256
"""Positions whose logits are there together: with fewer, the matrix product would lose speed."""
SOFTMAX_AT_ONCE: Final = 64
"""Positions of them, a whole number of times, that are there in the precision of the softmax."""


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
    """The logits of some positions of what `decoded` returned."""
    given = copy(output)
    given["last_hidden_state"] = hidden[None]
    causal: Any = model.causal
    places = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
    with _returning(causal.get_decoder(), given):
        found: torch.Tensor = causal(input_ids=places, use_cache=False).logits
    return found[0]


def logprobs(
    model: LoadedModel,
    output: Any,
    hidden: Float[torch.Tensor, "position d_model"],
    ids: Int64[torch.Tensor, " position"],
    dtype: torch.dtype,
) -> Float[torch.Tensor, " position"]:
    """log softmax(logits of position i)[ids[i]] in nats, the softmax in `dtype`."""
    whole = (logits(model, output, given) for given in torch.split(hidden, AT_ONCE))
    parts = (part for found in whole for part in torch.split(found, SOFTMAX_AT_ONCE))
    following = torch.split(ids, SOFTMAX_AT_ONCE)
    return -torch.cat([cross_entropy(part.to(dtype), of, reduction="none") for part, of in zip(parts, following, strict=True)])


@contextmanager
def _returning(module: Any, output: Any) -> Iterator[None]:
    """Let `module` return `output` whatever it is given."""
    own = vars(module).get("forward")
    module.forward = lambda *arguments, **keywords: output
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
