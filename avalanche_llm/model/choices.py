"""Log-probabilities of what may follow a prompt: the labels and the full answers of a question's choices (spec 17).

A continuation c[0 .. n-1] after a prompt scores, in nats,

    log p(c[0] | prompt) + sum_{j >= 1} log p(c[j] | prompt, c[0 .. j-1])      softmax and sum in float64

(a softmax over 50,000 tokens in float32 is off by up to 2e-5). One forward over a batch of prompts gives every first token,
and with it every label of a single token. The other tokens take a second, short forward: one row a continuation, on a copy of
the keys and values of its prompt. Rows are padded on the right; what is padded is masked, and positions are those of the
unpadded text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from transformers import DynamicCache

from avalanche_llm.errors import ConfigError, DataError
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.progress import Advance
from avalanche_llm.questions import Question

Ids = tuple[int, ...]
_PADDING: Final = 0  # any token will do: no unpadded position sees it


@dataclass(frozen=True)
class Prompted:
    """The prompt of a question and what may follow it, as token ids."""

    question_id: str
    prompt: Ids
    continuations: tuple[Ids, ...]


@dataclass(frozen=True)
class EncodedQuestions:
    """Every question in both forms: its choices listed, followed by each label and each answer; and cloze, by each answer."""

    listed: tuple[Prompted, ...]
    cloze: tuple[Prompted, ...]


def encode_questions(model: LoadedModel, questions: Sequence[Question], *, chat_template: bool) -> EncodedQuestions:
    """Questions as token ids; with `chat_template` the prompt is the user's turn and the choice begins the reply.

    Raises ConfigError where the tokenizer has no chat template, DataError where a question does not split into prompt and
    choice, is longer than the model reads, or has a token that it does not embed (a chat template may).
    """
    tokenizer = model.tokenizer
    if chat_template and not tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {model.identity['id']} has no chat template; set datasets.ARC_MCQ.chat_template to false"
        )
    encode = partial(_encode, tokenizer, chat_template)
    encoded = EncodedQuestions(
        tuple(encode(question.question_id, question.prompt, (*question.labels, *question.texts)) for question in questions),
        tuple(encode(question.question_id, question.cloze_prompt, question.texts) for question in questions),
    )
    asked = (*encoded.listed, *encoded.cloze)
    _check_length(model, asked)
    ids = (token for question in asked for row in (question.prompt, *question.continuations) for token in row)
    model.check_token_ids(np.fromiter(ids, np.int64))
    return encoded


def score_choices(
    model: LoadedModel,
    questions: Sequence[Prompted],
    *,
    plan: GainPlan,
    batch_tokens: int,
    advance: Advance = lambda n_questions: None,
) -> list[Float64[np.ndarray, " continuation"]]:
    """The score of every continuation of every question at the gains of `plan`. DataError if one is NaN or infinite.

    A batch holds prompts of about one length, at most `batch_tokens` tokens of them with what is padded, and at least one.
    """
    scores: dict[int, np.ndarray] = {}
    with torch.inference_mode(), model.scaled(plan):
        for places in _batches(questions, batch_tokens):
            batch = [questions[place] for place in places]
            ends = np.cumsum([len(question.continuations) for question in batch])
            for place, found in zip(places, np.split(_logprobs(model, batch).cpu().numpy(), ends[:-1]), strict=True):
                if not np.isfinite(found).all():
                    raise DataError(
                        f"question {questions[place].question_id}: log-probabilities became NaN or infinite at gain "
                        f"{plan.furthest}; use --dtype fp32 or leave that gain out"
                    )
                scores[place] = found
            advance(len(batch))
    return [scores[place] for place in range(len(questions))]


def _batches(questions: Sequence[Prompted], batch_tokens: int) -> Iterator[list[int]]:
    """Places of the questions, longest prompts first, so that the first batch is the largest that memory must hold."""
    places = sorted(range(len(questions)), key=lambda place: -len(questions[place].prompt))
    while places:
        n_prompts = max(1, batch_tokens // len(questions[places[0]].prompt))
        yield places[:n_prompts]
        places = places[n_prompts:]


def _logprobs(model: LoadedModel, batch: Sequence[Prompted]) -> Float64[torch.Tensor, " continuation"]:
    """One number a continuation, question by question."""
    prompts, mask = _padded((question.prompt for question in batch), model.device)
    lengths = mask.sum(dim=1)
    cache = DynamicCache(config=model.causal.config)
    first_token = _first_token_logprobs(model, prompts, mask, cache)
    asked = [(place, ids) for place, question in enumerate(batch) for ids in question.continuations]
    total = torch.stack([first_token[place, ids[0]] for place, ids in asked])
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
    for row, row_logits in zip(longer, logits, strict=True):  # one at a time: float64 logits of all rows are large
        rest = torch.tensor(asked[row][1][1:], device=model.device)
        each = torch.log_softmax(row_logits[: len(rest)].to(torch.float64), dim=-1).gather(1, rest[:, None])
        total[row] += each.sum()
    return total


def _first_token_logprobs(
    model: LoadedModel, prompts: Int64[torch.Tensor, "batch token"], mask: Int64[torch.Tensor, "batch token"], cache: Any
) -> Float64[torch.Tensor, "batch vocabulary"]:
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
    return torch.log_softmax(of_each.to(torch.float64), dim=-1)


def _padded(rows: Iterable[Ids], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids padded on the right to one length, and 1 where an id is not padding: [row, token] each."""
    listed = list(rows)
    width = max(map(len, listed))
    ids = torch.tensor([[*row, *[_PADDING] * (width - len(row))] for row in listed], device=device)
    given = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in listed], device=device)
    return ids, given


def _encode(tokenizer: Any, chat_template: bool, question_id: str, prompt: str, choices: Sequence[str]) -> Prompted:
    space, start = " ", _first_special(tokenizer)
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
                f"question {question_id}: expected the tokens of the prompt to stay as they are when {space + choice!r} "
                "follows; this tokenizer joins the two, so that the choice has no tokens of its own; leave the question out "
                "or set datasets.ARC_MCQ.chat_template the other way"
            )
        return whole[len(ids) :]

    return Prompted(question_id, ids, tuple(map(after, choices)))


def _first_special(tokenizer: Any) -> Ids:
    """The beginning-of-text token, where this tokenizer puts one before a text."""
    start = tokenizer.bos_token_id
    # before a text that is not empty: of an empty one the first token may be what ends it
    return (start,) if start is not None and tokenizer("a")["input_ids"][:1] == [start] else ()


def _check_length(model: LoadedModel, questions: Sequence[Prompted]) -> None:
    """Padding counts: within a sliding window of attention it would take the place of text."""
    whole: Any = model.causal.config
    config = whole.get_text_config()
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
    limit = min((found for found in limits if found), default=None)
    longest = max(questions, key=lambda question: len(question.prompt))
    needed = len(longest.prompt) + max(len(ids) for question in questions for ids in question.continuations)
    if limit is not None and needed > limit:
        raise DataError(
            f"question {longest.question_id}: prompt and longest choice take up to {needed} tokens, the model reads {limit}; "
            "leave long questions out or use a model with a longer context"
        )
