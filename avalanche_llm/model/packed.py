"""Prompts with what may follow each, as rows of one forward pass: a tree a row (SpecInfer, Miao et al. 2024; spec 17).

    row        the prompt, then each of its continuations without the last token, which predicts nothing; padded on the right
    position   that of the text by itself: every continuation goes on where the prompt ends
    attention  a token sees the prompt and what comes before it in its own continuation
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Int64

Ids = tuple[int, ...]
Row = tuple[Ids, tuple[Ids, ...]]
"""A prompt and the continuations that stand beside each other after it."""
PROMPT: Final = 0
PADDING: Final = -1


def row_length(row: Row) -> int:
    """Tokens of a row that is not padded."""
    prompt, continuations = row
    return len(prompt) + sum(len(ids) - 1 for ids in continuations)


@dataclass(frozen=True)
class Packed:
    """Rows side by side. branch: PROMPT, PADDING, or the place of the continuation in its row, from 1."""

    ids: Int64[np.ndarray, "row token"]
    position: Int64[np.ndarray, "row token"]
    branch: Int64[np.ndarray, "row token"]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Packed":
        """The rows, padded to the longest."""
        shape = len(rows), max(map(row_length, rows))
        ids, position, branch = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, PADDING)
        for place, (prompt, continuations) in enumerate(rows):
            end = 0
            for number, tokens in enumerate((prompt, *(continuation[:-1] for continuation in continuations))):
                here = np.s_[place, end : end + len(tokens)]
                ids[here], branch[here] = tokens, number
                position[here] = np.arange(len(tokens)) + (len(prompt) if number else 0)
                end += len(tokens)
        return cls(ids, position, branch)

    @property
    def unpadded(self) -> Bool[np.ndarray, "row token"]:
        return self.branch != PADDING

    @property
    def of_continuations(self) -> Bool[np.ndarray, "row token"]:
        """Where a continuation's token predicts its next one: row after row, in the order of the continuations."""
        return self.branch > PROMPT

    def attention(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """What is added to the attention scores [row, 1, token that looks, token seen]: 0, or the lowest number for unseen."""
        branch = torch.from_numpy(self.branch).to(device)
        looks, seen = branch[:, :, None], branch[:, None, :]
        before = torch.ones(branch.shape[1:] * 2, dtype=torch.bool, device=device).tril()
        sees = before & ((seen == PROMPT) | ((seen == looks) & (seen != PADDING)))
        return torch.where(sees, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]
