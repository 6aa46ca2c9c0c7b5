"""Log-probabilities of the choices of a question: its labels, and its full answers, after the same prompt (spec 17).

A continuation c[0 .. n-1] after a prompt scores, in nats,

    log p(c[0] | prompt) + sum_{j >= 1} log p(c[j] | prompt, c[0 .. j-1])      softmax in float32, sum in float64

One forward over a batch of prompts gives every first token, and with it every label of a single token. The other tokens take
a second, short forward: one row a continuation, on a copy of the keys and values of its prompt. Rows are padded on the right;
what is padded is masked, and positions are those of the unpadded text.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from avalanche_llm.errors import ConfigError, DataError
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.hooks import ScaleOutput
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.questions import Question

Ids = tuple[int, ...]
_PADDING: Final = 0  # any token will do: no unpadded position sees it


@dataclass(frozen=True)
class EncodedQuestion:
    """Token ids of a question: its prompt, and what follows the prompt for each label and for each full answer."""

    question_id: str
    prompt: Ids
    labels: tuple[Ids, ...]
    answers: tuple[Ids, ...]

    @property
    def continuations(self) -> tuple[Ids, ...]:
        return (*self.labels, *self.answers)


@dataclass(frozen=True)
class ChoiceScores:
    """Log-probability of every choice of one question, in nats: of its label, and of its full answer."""

    label: Float64[np.ndarray, " choice"]
    answer: Float64[np.ndarray, " choice"]


def encode_questions(model: LoadedModel, questions: Sequence[Question], *, chat_template: bool) -> list[EncodedQuestion]:
    """Every question as token ids; with `chat_template` the prompt is the user's turn and the choice begins the reply.

    Raises ConfigError where the tokenizer has no chat template, DataError where a question does not split into prompt and
    choice, or is longer than the model reads.
    """
    tokenizer = model.tokenizer
    if chat_template and not tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {model.identity['id']} has no chat template; set datasets.ARC_MCQ.chat_template to false"
        )
    encoded = [_encode(tokenizer, question, chat_template) for question in questions]
    _check_length(model, encoded)
    return encoded


def score_choices(
    model: LoadedModel,
    questions: Sequence[EncodedQuestion],
    *,
    plan: GainPlan,
    batch_questions: int,
    advance: Callable[[int], None] = lambda n_questions: None,
) -> list[ChoiceScores]:
    """Score every choice of every question at the gains of `plan`. Raises DataError if a score is NaN or infinite."""
    scale = ScaleOutput(model.modules("mlp" if plan.target == "MLP" else "attn"), plan.gains)
    scores: list[ChoiceScores] = []
    with torch.inference_mode(), scale:
        for first in range(0, len(questions), batch_questions):
            batch = questions[first : first + batch_questions]
            logprobs = iter(_continuation_logprobs(model, batch).cpu().numpy())
            for question in batch:
                label, answer = (np.array([next(logprobs) for _ in kind]) for kind in (question.labels, question.answers))
                if not np.isfinite([label, answer]).all():
                    raise DataError(
                        f"question {question.question_id}: log-probabilities became NaN or infinite at gain "
                        f"{max(plan.gains, key=lambda gain: abs(gain - 1))}; use --dtype fp32 or leave that gain out"
                    )
                scores.append(ChoiceScores(label, answer))
            advance(len(batch))
    return scores


def _continuation_logprobs(model: LoadedModel, batch: Sequence[EncodedQuestion]) -> Float64[torch.Tensor, " continuation"]:
    """One number a continuation, question by question, labels before answers."""
    prompts, mask = _padded((question.prompt for question in batch), model.device)
    lengths = mask.sum(dim=1)
    cache = DynamicCache(config=model.causal.config)
    first_token = _first_token_logprobs(model, prompts, mask, cache)
    asked = [(place, ids) for place, question in enumerate(batch) for ids in question.continuations]
    total = torch.stack([first_token[place, ids[0]] for place, ids in asked]).to(torch.float64)
    longer = [row for row, (_, ids) in enumerate(asked) if len(ids) > 1]
    if not longer:
        return total
    of = torch.tensor([asked[row][0] for row in longer], device=model.device)
    cache.batch_select_indices(of)
    inputs, given = _padded((asked[row][1][:-1] for row in longer), model.device)
    logits = model.causal(
        input_ids=inputs,
        attention_mask=torch.cat((mask[of], given), dim=1),
        position_ids=lengths[of, None] + torch.arange(inputs.shape[1], device=model.device),
        past_key_values=cache,
        use_cache=True,
    ).logits
    for row, row_logits in zip(longer, logits, strict=True):  # one at a time: float32 logits of all rows are large
        rest = torch.tensor(asked[row][1][1:], device=model.device)
        total[row] -= cross_entropy(row_logits[: len(rest)].to(torch.float32), rest, reduction="none").sum(dtype=torch.float64)
    return total


def _first_token_logprobs(
    model: LoadedModel, prompts: Int64[torch.Tensor, "batch token"], mask: Int64[torch.Tensor, "batch token"], cache: Any
) -> Float[torch.Tensor, "batch vocabulary"]:
    """log softmax after the last token of each prompt; `cache` is filled. The head sees the last tokens only."""
    last = mask.sum(dim=1) - 1
    kept = torch.unique(last)
    positions = torch.arange(prompts.shape[1], device=model.device).expand_as(prompts)
    logits = model.causal(
        input_ids=prompts,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=kept,
    ).logits
    of_each = logits[torch.arange(len(last), device=model.device), torch.searchsorted(kept, last)]
    return torch.log_softmax(of_each.to(torch.float32), dim=-1)


def _padded(rows: Iterable[Ids], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids padded on the right to one length, and 1 where an id is not padding: [row, token] each."""
    listed = list(rows)
    width = max(map(len, listed))
    ids = torch.tensor([[*row, *[_PADDING] * (width - len(row))] for row in listed], device=device)
    given = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in listed], device=device)
    return ids, given


def _encode(tokenizer: Any, question: Question, chat_template: bool) -> EncodedQuestion:
    prompt, space, start = question.prompt, " ", _first_special(tokenizer)
    if chat_template:
        turn = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        space, start = "", ()  # the template ends where the reply begins, and writes its own special tokens

    def ids_of(text: str) -> Ids:
        return (*start, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    ids = ids_of(prompt)

    def after(choice: str) -> Ids:
        whole = ids_of(prompt + space + choice)
        if whole[: len(ids)] != ids or len(whole) == len(ids):
            raise DataError(
                f"question {question.question_id}: expected the tokens of the prompt to stay as they are when {space + choice!r} "
                "follows; this tokenizer joins the two, so that the choice has no tokens of its own; leave the question out "
                "or set datasets.ARC_MCQ.chat_template the other way"
            )
        return whole[len(ids) :]

    return EncodedQuestion(question.question_id, ids, *(tuple(map(after, kind)) for kind in (question.labels, question.texts)))


def _first_special(tokenizer: Any) -> Ids:
    """The beginning-of-text token, where this tokenizer puts one before a text."""
    start = tokenizer.bos_token_id
    return (start,) if start is not None and tokenizer("")["input_ids"][:1] == [start] else ()


def _check_length(model: LoadedModel, questions: Sequence[EncodedQuestion]) -> None:
    """Padding counts: within a sliding window of attention it would take the place of text."""
    config = model.causal.config
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
    limit = min((found for found in limits if found), default=None)
    longest = max(questions, key=lambda question: len(question.prompt))
    needed = len(longest.prompt) + max(len(ids) for question in questions for ids in question.continuations)
    if limit is not None and needed > limit:
        raise DataError(
            f"question {longest.question_id}: prompt and longest choice take up to {needed} tokens, the model reads {limit}; "
            "leave long questions out or use a model with a longer context"
        )
