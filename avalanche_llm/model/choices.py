"""Log-probabilities of what may follow a prompt: the labels and the full answers of a question's choices (spec 17).

A continuation c[0 .. n-1] after a prompt scores, in nats,

    log p(c[0] | prompt) + sum_{j >= 1} log p(c[j] | prompt, c[0 .. j-1])      softmax and sum in float64

(a softmax over 50,000 tokens in float32 is off by up to 2e-5). One forward over a batch gives all of them: every prompt once,
followed by all of its continuations beside each other (`packed`). Where a family takes its positions from the mask, each
continuation of more than one token is a row of its own, with its prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from avalanche_llm.errors import ConfigError, DataError
from avalanche_llm.model.families import follows_positions
from avalanche_llm.model.gain import GainPlan
from avalanche_llm.model.head import decoded, logits, logprobs
from avalanche_llm.model.loader import LoadedModel
from avalanche_llm.model.packed import Ids, Packed, Row, row_length
from avalanche_llm.progress import Advance
from avalanche_llm.questions import Question


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

    A batch holds rows of about one length, at most `batch_tokens` tokens of them with what is padded, and at least one question.
    """
    scores: dict[int, np.ndarray] = {}
    rows = [_rows(question, share_a_row=follows_positions(model.causal.config)) for question in questions]
    with torch.inference_mode(), model.scaled(plan):
        for places in _batches(rows, batch_tokens):
            batch = [questions[place] for place in places]
            ends = np.cumsum([len(question.continuations) for question in batch])
            found = _logprobs(model, batch, [rows[place] for place in places]).cpu().numpy()
            for place, of_question in zip(places, np.split(found, ends[:-1]), strict=True):
                if not np.isfinite(of_question).all():
                    raise DataError(
                        f"question {questions[place].question_id}: log-probabilities became NaN or infinite at gain "
                        f"{plan.furthest}; use --dtype fp32 or leave that gain out"
                    )
                scores[place] = of_question
            advance(len(batch))
    return [scores[place] for place in range(len(questions))]


def _rows(question: Prompted, *, share_a_row: bool) -> list[Row]:
    """What the model reads of a question: all continuations of more than a token in one row, or each in one of its own."""
    longer = tuple(ids for ids in question.continuations if len(ids) > 1)
    return [(question.prompt, of_row) for of_row in ([longer] if share_a_row or not longer else [(ids,) for ids in longer])]


def _batches(rows: Sequence[Sequence[Row]], batch_tokens: int) -> Iterator[list[int]]:
    """Places of the questions, longest rows first, so that the first batch is the largest that memory must hold."""
    longest = [max(map(row_length, of_question)) for of_question in rows]
    places = sorted(range(len(rows)), key=lambda place: -longest[place])
    while places:
        n_tokens = longest[places[0]] * np.cumsum([len(rows[place]) for place in places])
        n_questions = max(1, int(np.searchsorted(n_tokens, batch_tokens, side="right")))
        yield places[:n_questions]
        places = places[n_questions:]


def _logprobs(
    model: LoadedModel, batch: Sequence[Prompted], rows: Sequence[Sequence[Row]]
) -> Float64[torch.Tensor, " continuation"]:
    """One number a continuation, question by question."""
    listed = [row for of_question in rows for row in of_question]
    packed, alone = Packed.of(listed), all(len(continuations) < 2 for _, continuations in listed)
    ids, position, given = (torch.from_numpy(of).to(model.device) for of in (packed.ids, packed.position, packed.unpadded))
    seen = given.to(torch.int64) if alone else packed.attention(next(model.causal.parameters()).dtype, model.device)
    output = decoded(model, input_ids=ids, attention_mask=seen, position_ids=position, use_cache=False)
    first_row = np.cumsum([0, *map(len, rows[:-1])])
    last_token = [len(question.prompt) - 1 for question in batch]
    after_prompt = logits(model, output, output.last_hidden_state[first_row, last_token])
    first_token = torch.log_softmax(after_prompt.to(torch.float64), dim=-1)
    asked = [(place, tokens) for place, question in enumerate(batch) for tokens in question.continuations]
    total = torch.stack([first_token[place, tokens[0]] for place, tokens in asked])
    longer = [(place, tokens[1:]) for place, (_, tokens) in enumerate(asked) if len(tokens) > 1]
    if longer:
        expected = torch.tensor([token for _, rest in longer for token in rest], device=model.device)
        hidden = output.last_hidden_state[torch.from_numpy(packed.of_continuations).to(model.device)]
        each = logprobs(model, output, hidden, expected, torch.float64)
        for (place, _), of_one in zip(longer, torch.split(each, [len(rest) for _, rest in longer]), strict=True):
            total[place] += of_one.sum()
    return total


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
