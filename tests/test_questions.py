"""ai2_arc rows: both forms of choices, digits and letters, what is refused and how it is named, the prompt, the hash."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from avalanche_llm.errors import DataError
from avalanche_llm.questions import Question, describe_questions, parse_question, questions_sha256, read_questions
from avalanche_llm.settings_sources import ArcData

ROW = {
    "id": "Q1",
    "question": "Which one  swims?",
    "choices": {"text": ["a stone", "a fish", "a cloud"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
QUESTION = Question("Q1", "Which one swims?", ("A", "B", "C"), ("a stone", "a fish", "a cloud"), 1)


def arc(path: Path, **changes: Any) -> ArcData:
    fields: dict[str, Any] = {
        "hf_id": str(path),
        "hf_config": None,
        "split": "test",
        "prompt_template_id": "ARC_MCQ_V1",
        "chat_template": False,
        "n_questions": None,
    }
    return ArcData(**fields | changes)


def labelled(labels: list[Any], key: Any) -> dict[str, Any]:
    texts = [f"choice {place}" for place in range(len(labels))]
    return ROW | {"choices": {"text": texts, "label": labels}, "answerKey": key}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_list(row: dict[str, Any]) -> dict[str, Any]:
    choices = row["choices"]
    pairs = zip(choices["text"], choices["label"], strict=True)
    return row | {"choices": [{"text": text, "label": label} for text, label in pairs]}


def test_parse_question_reads_both_forms_of_choices() -> None:
    assert parse_question(ROW, 0) == parse_question(as_list(ROW), 0) == QUESTION


words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)


@given(
    question=words,
    texts=st.lists(words, min_size=3, max_size=5, unique=True),
    digits=st.booleans(),
    place=st.integers(0, 4),
    twin=st.booleans(),
    listed=st.booleans(),
)
def test_parse_question_round_trip(question: str, texts: list[str], digits: bool, place: int, twin: bool, listed: bool) -> None:
    """Whatever kind the labels are, a key of either kind means the choice at its place."""
    letters, numbers = list("ABCDE")[: len(texts)], [str(number) for number in range(1, len(texts) + 1)]
    labels, others = (numbers, letters) if digits else (letters, numbers)
    place %= len(texts)
    row = {"id": "x", "question": question, "choices": {"text": texts, "label": labels}}
    row["answerKey"] = (others if twin else labels)[place]
    found = parse_question(as_list(row) if listed else row, 0)
    assert found == Question("x", question, tuple(labels), tuple(texts), place)


def test_parse_question_takes_numbers_of_json_as_labels() -> None:
    found = parse_question(labelled([1, 2, 3], 3), 0)
    assert (found.labels, found.answer) == (("1", "2", "3"), 2)


def test_parse_question_prefers_the_label_itself_to_its_twin() -> None:
    assert parse_question(labelled(["B", "1", "A"], "A"), 0).answer == 2


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (labelled(["A", "B"], "A"), "question Q1: expected 3 to 5 choices, found 2; mend or leave out this row"),
        (labelled(list("ABCDEF"), "A"), "question Q1: expected 3 to 5 choices, found 6"),
        (labelled(["A", "B", "B"], "A"), "question Q1: expected distinct labels, found 'A, B, B'"),
        (labelled(["A", "B", "(C)"], "A"), r"question Q1: expected labels of one letter or digit, found '\(C\)'"),
        (labelled(["A", "B", None], "A"), "question Q1: expected labels of one letter or digit, found ''"),
        (labelled(["A", "B", True], "A"), "question Q1: expected labels of one letter or digit, found ''"),
        (labelled(["A", "B", "C"], "D"), "question Q1: expected an answerKey among the labels A, B, C, found 'D'"),
        (labelled(["A", "B", "C"], "4"), "question Q1: expected an answerKey among the labels A, B, C, found '4'"),
        (labelled(["A", "B", "C"], ""), "question Q1: expected an answerKey among the labels A, B, C, found ''"),
        (labelled(["A", "B", "C"], None), "question Q1: expected an answerKey among the labels A, B, C, found None"),
        (ROW | {"question": " \n"}, r"question Q1: expected a question, found ' \\n'"),
        (ROW | {"question": None}, "question Q1: expected a question, found None"),
        (ROW | {"choices": {"text": ["x", " ", "y"], "label": list("ABC")}}, "question Q1: expected a text in every choice, found ' '"),
        (ROW | {"choices": {"text": ["x", "y"], "label": list("ABC")}}, "question Q1: expected choices with as many labels as texts"),
        (ROW | {"choices": {"text": ["x", "y", "z"]}}, "question Q1: expected choices with as many labels as texts"),
        (ROW | {"choices": ["x", "y", "z"]}, r"expected choices .*, found \['x', 'y', 'z'\]"),
        (ROW | {"choices": None}, "question Q1: expected choices .*, found None"),
        (ROW | {"choices": {"text": ["x", "x", "y"], "label": list("ABC")}}, "expected one right choice, found \"its text twice: 'x'\""),
        (ROW | {"id": None}, r"row 7: expected a question with an id, found None \(columns: id, question, choices, answerKey\)"),
        ({"text": "prose"}, r"row 7: expected a question with an id, found None \(columns: text\)"),
    ],
)
def test_parse_question_names_the_question_and_what_was_expected(row: dict[str, Any], complaint: str) -> None:
    if complaint.startswith("expected one right"):
        row = row | {"answerKey": "A"}
    with pytest.raises(DataError, match=complaint):
        parse_question(row, 7)


def test_prompts_are_the_template_to_the_letter() -> None:
    assert QUESTION.prompt == "Question: Which one swims?\nChoices:\nA. a stone\nB. a fish\nC. a cloud\nAnswer:"
    assert QUESTION.cloze_prompt == "Question: Which one swims?\nAnswer:"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("listed", [False, True])
def test_read_questions_gives_the_same_from_every_kind_of_file(suffix: str, listed: bool, tmp_path: Path) -> None:
    rows = [ROW, labelled(list("ABCD"), "3") | {"id": "Q2"}, labelled(list("1234"), "4") | {"id": "Q3"}]
    rows = [as_list(row) for row in rows] if listed else rows
    path = write(tmp_path / "q.jsonl", rows)
    if suffix == ".parquet":
        path = tmp_path / "q.parquet"
        pd.DataFrame(rows).to_parquet(path)
    found = read_questions(arc(path))
    assert [question.question_id for question in found] == ["Q1", "Q2", "Q3"]
    assert [question.answer for question in found] == [1, 2, 3]
    assert found[0] == QUESTION
    assert read_questions(arc(path, n_questions=2)) == found[:2]


def test_read_questions_refuses_too_few_and_repeated(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [ROW, ROW | {"id": "Q2"}, ROW])
    with pytest.raises(DataError, match=r"question Q1: the id appears more than once in .*q\.jsonl"):
        read_questions(arc(path))
    assert len(read_questions(arc(path, n_questions=2))) == 2
    with pytest.raises(DataError, match=r"has 3 questions in split test, 4 needed: set datasets\.ARC_MCQ\.n_questions lower"):
        read_questions(arc(path, n_questions=4))


def test_questions_sha256_sees_everything_that_is_asked() -> None:
    changes: list[dict[str, Any]] = [
        {"id": "Q2"},
        {"question": "Which one flies?"},
        {"answerKey": "C"},
        {"choices": {"text": ["a stone", "a fish", "a cat"], "label": list("ABC")}},
        {"choices": {"text": ["a stone", "a fish", "a cloud"], "label": list("123")}},
    ]
    other = parse_question(ROW | {"id": "Q9"}, 0)
    hashes = [questions_sha256([parse_question(ROW | change, 0), other]) for change in [{}, *changes]]
    hashes += [questions_sha256([other, QUESTION]), questions_sha256([QUESTION])]
    assert len(set(hashes)) == len(hashes)
    assert hashes[0] == questions_sha256([parse_question(as_list(ROW), 0), other])


def test_describe_questions_is_the_record_of_the_data_set(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [ROW])
    described = describe_questions(arc(path, split="validation", chat_template=True), [QUESTION])
    assert (described["role"], described["split"], described["chat_template"]) == ("ARC_MCQ", "validation", True)
    assert (described["n_questions"], described["sha256"]) == (1, questions_sha256([QUESTION]))
    assert described["source_sha256"] == tiny.file_hashes(tmp_path)["q.jsonl"]
    assert describe_questions(arc(Path("allenai/ai2_arc")), [QUESTION])["source_sha256"] is None


def test_the_demo_questions_are_sixty_with_balanced_answers() -> None:
    questions = read_questions(arc(tiny.QUESTIONS))
    assert len(questions) == 60
    assert Counter(len(question.labels) for question in questions) == {3: 4, 4: 52, 5: 4}
    of_four = Counter(question.answer for question in questions if len(question.labels) == 4)
    assert set(of_four.values()) == {13}
    assert len({question.text for question in questions}) == 60
    assert sum(question.labels[0] == "1" for question in questions) == 2
