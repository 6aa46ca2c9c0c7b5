"""Rows of an ai2_arc-like data set in, multiple-choice questions and their prompts out (SCIENCE section 5; spec 17).

A row has `id`, `question`, `answerKey` and `choices`, the latter as {"text": [...], "label": [...]} or as a list of
{"text": ..., "label": ...}. ARC_MCQ_V1 prints a question as

    Question: {question}
    Choices:
    A. {text}
    B. {text}
    Answer:

without a line break at the end; its cloze form leaves the choices out. Runs of white space inside a text count as one
space, so that each stands on its line.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

from avalanche_llm.datasets import load_rows, source_sha256
from avalanche_llm.errors import DataError
from avalanche_llm.resources import local
from avalanche_llm.settings_sources import ArcData

ROLE: Final = "ARC_MCQ"
MIN_CHOICES: Final = 3
MAX_CHOICES: Final = 5
_TWIN_LABELS: Final[Mapping[str, str]] = MappingProxyType(
    {letter: str(place) for place, letter in enumerate("ABCDE", start=1)}
    | {str(place): letter for place, letter in enumerate("ABCDE", start=1)}
)
"""ai2_arc labels some questions 1 to 5 and others A to E, and an answer key may be of the other kind."""


@dataclass(frozen=True)
class Question:
    """One question; `answer` is the place of the right choice among `labels` and `texts`."""

    question_id: str
    text: str
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    answer: int

    @property
    def prompt(self) -> str:
        """The question as ARC_MCQ_V1."""
        choices = (f"{label}. {text}" for label, text in zip(self.labels, self.texts, strict=True))
        return "\n".join((f"Question: {self.text}", "Choices:", *choices, "Answer:"))

    @property
    def cloze_prompt(self) -> str:
        """The question alone: what a full answer scores after it owes nothing to reading the choices."""
        return f"Question: {self.text}\nAnswer:"


def read_questions(data: ArcData) -> tuple[Question, ...]:
    """The first `n_questions` of a data set in stored order, or all of them.

    Raises DataError for a row that is not of the schema, a repeated id, and a data set with too few questions.
    """
    rows = islice(load_rows(data.hf_id, data.hf_config, data.split), data.n_questions)
    questions = tuple(parse_question(row, index) for index, row in enumerate(rows))
    if len(questions) < (data.n_questions or 1):
        raise DataError(
            f"data set {data.hf_id} has {len(questions)} questions in split {data.split}, {data.n_questions or 'at least 1'} "
            "needed: set datasets.ARC_MCQ.n_questions lower, or to null for all"
        )
    repeated = _repeated(question.question_id for question in questions)
    if repeated:
        raise DataError(f"question {repeated}: the id appears more than once in {data.hf_id}; answers are paired by question")
    return questions


def parse_question(row: Mapping[str, Any], index: int) -> Question:
    """One row as a question. DataError names the question (or the row, where it has no id) and what was expected."""
    question_id, columns = row.get("id"), ", ".join(map(str, row))
    if not isinstance(question_id, str) or not question_id.strip() or not _is_text(question_id):
        raise DataError(f"row {index}: expected a question with an id, found {question_id!r} (columns: {columns})")
    labels, texts = _choices(row.get("choices"), question_id)
    _demand(MIN_CHOICES <= len(labels) <= MAX_CHOICES, question_id, f"{MIN_CHOICES} to {MAX_CHOICES} choices", len(labels))
    for label in labels:
        _demand(len(label) == 1 and label.isascii() and label.isalnum(), question_id, "labels of one letter or digit", label)
    _demand(not _repeated(labels), question_id, "distinct labels", ", ".join(labels))
    answer = labels.index(_answer_label(row.get("answerKey"), labels, question_id))
    _demand(texts.count(texts[answer]) == 1, question_id, "one right choice", f"its text twice: {texts[answer]!r}")
    return Question(question_id, _line(row.get("question"), question_id, "question"), labels, texts, answer)


def questions_sha256(questions: Sequence[Question]) -> str:
    """Hash over the ordered questions as they are asked: id, text, labels, choices, place of the answer."""
    digest = hashlib.sha256()
    for question in questions:
        fields = [question.question_id, question.text, question.labels, question.texts, question.answer]
        digest.update(json.dumps(fields, ensure_ascii=False).encode() + b"\0")
    return digest.hexdigest()


def describe_questions(data: ArcData, questions: Sequence[Question]) -> dict[str, Any]:
    """The data set's entry in a run record."""
    path = local(data.hf_id)
    return {
        "role": ROLE,
        "id": data.hf_id,
        "config": data.hf_config,
        "split": data.split,
        "source_sha256": source_sha256(path) if path.exists() else None,
        "prompt_template_id": data.prompt_template_id,
        "chat_template": data.chat_template,
        "n_questions": len(questions),
        "sha256": questions_sha256(questions),
    }


def _choices(choices: object, question_id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels and texts from either form."""
    if isinstance(choices, Mapping):
        labels, texts = choices.get("label"), choices.get("text")
    elif isinstance(choices, list) and all(isinstance(choice, Mapping) for choice in choices):
        labels, texts = ([choice.get(key) for choice in choices] for key in ("label", "text"))
    else:
        labels, texts = None, None
    if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
        expected = "choices with as many labels as texts, {text: [..], label: [..]} or a list of {text, label}"
        raise DataError(f"question {question_id}: expected {expected}, found {choices!r}")
    return tuple(_label(label) for label in labels), tuple(_line(text, question_id, "text in every choice") for text in texts)


def _answer_label(key: object, labels: Sequence[str], question_id: str) -> str:
    """The label that the key means: itself, or its twin (3 for C) where only that one is there."""
    found = _label(key)
    label = found if found in labels else _TWIN_LABELS.get(found, "")
    _demand(label in labels, question_id, f"an answerKey among the labels {', '.join(labels)}", key)
    return label


def _label(value: object) -> str:
    """json may hold a label as a number."""
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _line(value: object, question_id: str, what: str) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    _demand(bool(text) and _is_text(text), question_id, f"a {what}", value)
    return text


def _is_text(value: str) -> bool:
    """Half a surrogate pair is no character: neither a hash nor a tokenizer can take it."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _demand(holds: bool, question_id: str, expected: str, found: object) -> None:
    if not holds:
        raise DataError(f"question {question_id}: expected {expected}, found {found!r}; mend or leave out this row")


def _repeated(names: Iterable[str]) -> str:
    """The first name that appears more than once; empty where there is none."""
    return next((name for name, times in Counter(names).items() if times > 1), "")
