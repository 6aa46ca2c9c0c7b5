"""Which tokens a measurement sees: reading, windows, disjoint slices, hashes, and what cannot be read."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from transformers import AutoTokenizer

from avalanche_llm import datasets
from avalanche_llm.datasets import SliceRequest, TokenSlice, read_texts, source_sha256, token_slices, token_windows
from avalanche_llm.errors import DataError, EnvironmentProblem
from avalanche_llm.settings_sources import TextData

LINES = ["One line.", "", "   ", "Second líne, with é.", "A third one"]
KEPT = ["One line.\n", "Second líne, with é.\n", "A third one\n"]
A, B = SliceRequest("A_CALIBRATION", 6), SliceRequest("A_RASTERS", 5)


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(model_folder)


def data(hf_id: str | Path = tiny.SHIPPED["A"], **changes: Any) -> TextData:
    fields: dict[str, Any] = {"hf_config": None, "split": "train", "text_column": "text", "window_pool_factor": 3}
    return TextData(hf_id=str(hf_id), **(fields | changes))


def slices(tokenizer: Any, text: TextData, *requests: SliceRequest, seed: int = 7, pool_cap: int = 500) -> list[TokenSlice]:
    return token_slices(text, requests, tokenizer, seq_len=32, seed=seed, pool_cap=pool_cap)


def stream_of(tokenizer: Any, text: Path) -> list[int]:
    """Every token of a text, line by line, read without the code under test."""
    lines = [line + "\n" for line in text.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [token for ids in tokenizer(lines, add_special_tokens=False)["input_ids"] for token in ids]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet", "folder"])
def test_read_texts_gives_the_same_texts_from_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{kind}"
    rows = [json.dumps({"text": line, "id": 1}) for line in LINES]
    if kind == "txt":
        path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    elif kind == "jsonl":
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    elif kind == "parquet":
        pq.write_table(pa.table({"id": range(len(LINES)), "text": LINES}), path)
    else:
        path.mkdir()
        (path / "b.txt").write_text("\n".join(LINES[2:]), encoding="utf-8")
        (path / "a.txt").write_text("\n".join(LINES[:2]), encoding="utf-8")
        (path / "README.md").write_text("left out", encoding="utf-8")
    assert list(read_texts(data(path))) == KEPT


def test_read_texts_reads_another_column_and_ends_each_text_in_one_line_break(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"body": "with\\n"}\n{"body": "two\\nlines"}\n', encoding="utf-8")
    assert list(read_texts(data(path, text_column="body"))) == ["with\n", "two\nlines\n"]
    with pytest.raises(DataError, match=r"has no text column 'text' \(columns: body\); set text_column"):
        list(read_texts(data(path)))


def test_read_texts_of_the_shipped_text_is_its_lines() -> None:
    expected = [line + "\n" for line in tiny.TEXT.read_text(encoding="utf-8").split("\n") if line.strip()]
    assert list(read_texts(data())) == expected


@pytest.mark.parametrize("name", ["a[1].txt", "b*.txt", "c?.txt", "d{x,y}.txt"])
def test_read_texts_takes_the_file_of_that_name_and_no_pattern(name: str, tmp_path: Path) -> None:
    for each in (name, "a1.txt", "b2.txt", "cc.txt", "dx.txt"):
        (tmp_path / each).write_text(f"the text of {each}\n", encoding="utf-8")
    assert list(read_texts(data(tmp_path / name))) == [f"the text of {name}\n"]


def test_token_windows_are_the_token_stream_cut_in_order(tokenizer: Any) -> None:
    windows = token_windows(data(), tokenizer, seq_len=32, at_most=40)
    assert windows.shape == (40, 32)
    assert windows.reshape(-1).tolist() == stream_of(tokenizer, tiny.TEXT)[: 40 * 32]


def test_token_windows_drops_the_last_incomplete_one(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("A few words that make some tokens, but not many.\n" * 3, encoding="utf-8")
    stream = stream_of(tokenizer, path)
    windows = token_windows(data(path), tokenizer, seq_len=10, at_most=1000)
    assert windows.reshape(-1).tolist() == stream[: len(stream) // 10 * 10]
    assert len(stream) % 10  # there was something to drop


def test_token_windows_reads_no_more_text_than_it_needs(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def counted(text: TextData) -> Iterator[str]:
        nonlocal read
        for line in read_texts(text):
            read += 1
            yield line

    monkeypatch.setattr(datasets, "read_texts", counted)
    token_windows(data(), tokenizer, seq_len=32, at_most=2)
    assert read == datasets.TEXTS_PER_BATCH


def test_token_slices_are_disjoint_sorted_and_within_their_pool(tokenizer: Any) -> None:
    first, second = slices(tokenizer, data(), A, B)
    assert (first.role, len(first.windows)) == ("A_CALIBRATION", 6)
    assert (second.role, len(second.windows)) == ("A_RASTERS", 5)
    assert not set(first.chunk_index) & set(second.chunk_index)
    for found, pool in ((first, 6 * 3), (second, 5 * 3)):
        assert (np.diff(found.chunk_index) > 0).all()
        assert found.chunk_index.max() < pool
        stream = token_windows(data(), tokenizer, seq_len=32, at_most=pool)
        assert (found.windows == stream[found.chunk_index]).all()


def test_token_slices_draws_by_the_published_rule(tokenizer: Any) -> None:
    (found,) = slices(tokenizer, data(), A)
    key = "7|data/jargon.txt,None,train|32|A_CALIBRATION"
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")
    expected = np.random.Generator(np.random.PCG64(seed)).choice(18, size=6, replace=False)
    assert found.chunk_index.tolist() == sorted(expected.tolist())


def test_token_slices_caps_the_pool(tokenizer: Any) -> None:
    (found,) = slices(tokenizer, data(window_pool_factor=50), A, pool_cap=8)
    assert found.chunk_index.max() < 8
    (whole,) = slices(tokenizer, data(window_pool_factor=50), A, pool_cap=2)  # never fewer than the slice itself
    assert whole.chunk_index.tolist() == list(range(6))


def test_token_slices_takes_the_first_slice_whatever_is_drawn_after_it(tokenizer: Any) -> None:
    assert slices(tokenizer, data(), A)[0].sha256 == slices(tokenizer, data(), A, B)[0].sha256


@pytest.mark.parametrize("change", ["seed", "role", "id", "split", "config"])
def test_token_slices_draws_other_windows_when_its_key_changes(change: str, tokenizer: Any, tmp_path: Path) -> None:
    plain = slices(tokenizer, data(), A)[0].chunk_index.tolist()
    text, request, seed = data(), A, 7
    if change == "seed":
        seed = 8
    elif change == "role":
        request = replace(A, role="B_EVAL")
    elif change == "id":
        (tmp_path / "copy.txt").write_bytes(tiny.TEXT.read_bytes())
        text = data(tmp_path / "copy.txt")
    else:
        text = data(**({"split": "validation"} if change == "split" else {"hf_config": "other"}))
    assert slices(tokenizer, text, request, seed=seed)[0].chunk_index.tolist() != plain


def test_token_slices_without_windows_left_says_how_many_there_are_and_what_to_do(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("Just enough text to fill a handful of windows and no more than that.\n" * 12, encoding="utf-8")
    n_windows = len(stream_of(tokenizer, path)) // 32
    assert n_windows > 6
    with pytest.raises(
        DataError, match=rf"short\.txt has {n_windows - 6} windows of 32 tokens left for A_RASTERS, {n_windows} are needed"
    ) as caught:
        slices(tokenizer, data(path), A, replace(B, n_windows=n_windows))
    assert caught.value.exit_code == 2
    found = slices(tokenizer, data(path), A, replace(B, n_windows=n_windows - 6))  # and exactly enough is enough
    assert sorted(np.concatenate([one.chunk_index for one in found])) == list(range(n_windows))


@pytest.mark.parametrize("text", ["", "\n\n  \n", "Too short.\n"])
def test_token_windows_of_a_text_without_one_window_is_a_data_error(text: str, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"empty\.txt gives \d+ tokens, not one window of 32; use a longer text"):
        token_windows(data(tmp_path / "empty.txt"), tokenizer, seq_len=32, at_most=4)


def test_slice_hash_sees_role_chunk_and_tokens() -> None:
    plain = TokenSlice("A_CALIBRATION", np.arange(6).reshape(2, 3), np.array([4, 9]))
    digest = hashlib.sha256()
    for index, row in ((4, [0, 1, 2]), (9, [3, 4, 5])):
        digest.update(f"A_CALIBRATION\0{index}\0".encode() + np.array(row, "<i8").tobytes())
    assert plain.sha256 == digest.hexdigest()
    others = [
        replace(plain, role="A_RASTERS"),
        replace(plain, chunk_index=np.array([4, 8])),
        replace(plain, windows=np.array([[0, 1, 2], [3, 4, 6]])),
        replace(plain, windows=plain.windows[::-1]),
    ]
    assert len({plain.sha256, *(other.sha256 for other in others)}) == 5


def test_describe_names_source_and_hashes(tokenizer: Any) -> None:
    (found,) = slices(tokenizer, data(), A)
    entry = found.describe(data())
    assert entry["source_sha256"] == source_sha256(tiny.TEXT) == hashlib.sha256(tiny.TEXT.read_bytes()).hexdigest()
    assert entry["sha256"] == found.sha256
    assert (entry["role"], entry["n_windows"], entry["seq_len_tokens"]) == ("A_CALIBRATION", 6, 32)
    json.dumps(entry)  # it goes into the record


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("missing.txt", None, r"data file .*missing\.txt does not exist"),
        ("data.csv", b"text\nx\n", r"data\.csv must be, or hold, files of one kind \(\.txt, \.jsonl, \.parquet\); found \.csv"),
        ("broken.jsonl", b'{"text": "fine"}\n{"text": broken}\n', r"data set '.*broken\.jsonl' cannot be read: "),
        ("broken.parquet", b"PAR1 and nothing else", r"data set '.*broken\.parquet' cannot be read: "),
        ("latin.txt", "déjà vu\n".encode("latin-1"), r"data set '.*latin\.txt' cannot be read: "),
    ],
)
def test_read_texts_of_what_cannot_be_read_is_an_error_of_one_line(
    name: str, content: bytes | None, complaint: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, EnvironmentProblem), match=complaint) as caught:
        list(read_texts(data(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_the_hash_of_a_folder_is_of_the_files_that_are_read(tmp_path: Path) -> None:
    """What lies deeper is no data: a change there is not one of the data set, and a large tree need not be hashed."""
    (tmp_path / "below").mkdir()
    (tmp_path / "a.txt").write_text("one\n")
    before = source_sha256(tmp_path)
    (tmp_path / "below" / "b.txt").write_text("two\n")
    assert list(read_texts(data(tmp_path))) == ["one\n"]
    assert source_sha256(tmp_path) == before
    (tmp_path / "b.txt").write_text("two\n")
    assert source_sha256(tmp_path) != before


def test_read_texts_of_a_folder_with_two_kinds_or_none_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none"):
        list(read_texts(data(tmp_path)))
    (tmp_path / "a.txt").write_bytes(b"x\n")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "x"}\n')
    with pytest.raises(DataError, match=r"found \.jsonl, \.txt"):
        list(read_texts(data(tmp_path)))


def test_read_texts_of_a_hub_id_that_cannot_be_reached_is_an_environment_problem() -> None:
    """HF_HUB_OFFLINE is on in the tests, so nothing leaves the machine."""
    with pytest.raises(EnvironmentProblem, match=r"data set 'nobody/nothing' cannot be read: "):
        list(read_texts(data("nobody/nothing")))
