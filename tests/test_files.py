"""Files that are whole or not there, bytes that depend on content alone, hashes that depend on bytes alone."""

import errno
import io
import os
import shutil
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avalanche_llm.errors import EnvironmentProblem, MissingArtifact
from avalanche_llm.io import files
from avalanche_llm.io.files import (
    Writer,
    json_bytes,
    npz,
    parquet,
    parquet_of,
    raw,
    read_npz,
    read_row_groups,
    write_atomically,
)
from avalanche_llm.io.hashing import code_version, sha256_bytes, sha256_file, sha256_tree
from avalanche_llm.io.jsonl import EventLog

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def written(writer: Writer) -> bytes:
    with tempfile.TemporaryFile() as file:
        writer(file)
        file.seek(0)
        return file.read()


def test_write_atomically_makes_the_folder_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, raw(b"one"))
    write_atomically(path, raw(b"two"))
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_write_atomically_keeps_the_old_file_when_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomically_on_a_full_disk_keeps_the_old_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*file: No space left on device; free space"):
        write_atomically(path, raw(b"new"))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomically_below_a_regular_file_is_an_environment_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentProblem, match="cannot write"):
        write_atomically(tmp_path / "file" / "below", raw(b""))


def test_event_log_on_a_full_disk_is_an_environment_problem() -> None:
    """/dev/full answers every write as a full disk does."""
    with pytest.raises(EnvironmentProblem, match="No space left on device"):
        EventLog(Path("/dev/full"), "RUN_S01_0123456789ab").write("start", {})


def test_npz_gives_the_same_bytes_at_another_time() -> None:
    arrays = {"mu": np.arange(6.0).reshape(2, 3), "n": np.array(7)}
    first = written(npz(arrays))
    time.sleep(2.1)  # the time stamp of a zip member has a grain of two seconds
    assert written(npz(arrays)) == first


def test_read_npz_reads_what_npz_wrote(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.npz", npz({"mu": np.arange(6.0).reshape(2, 3), "n": np.array(7)}))
    found = read_npz(tmp_path / "a.npz", {"mu": 2, "n": 0})
    assert (found["mu"] == np.arange(6.0).reshape(2, 3)).all()
    assert found["n"] == 7


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not the npz that was expected"),
        (b"no zip at all", "not the npz that was expected"),
        (written(npz({"mu": np.zeros((4, 4))}))[:-30], "not the npz that was expected"),
        (written(npz({"other": np.zeros((4, 4))})), "not the npz that was expected"),
        (written(lambda file: np.savez(file, mu=np.array([{}], dtype=object))), "not the npz that was expected"),
        (written(npz({"mu": np.zeros(4)})), "array mu must have 2 axes, found 1"),
    ],
)
def test_read_npz_refuses_another_file(content: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(MissingArtifact, match=complaint):
        read_npz(tmp_path / "a.npz", {"mu": 2})


def test_parquet_gives_the_same_bytes_and_names_no_library_of_ours() -> None:
    frame = pd.DataFrame({"g": [0.9, 1.0], "name": ["a", "b"]})
    first = written(parquet(pa.Table.from_pandas(frame, preserve_index=False)))
    assert written(parquet(pa.Table.from_pandas(frame.copy(), preserve_index=False))) == first
    table = pq.read_table(io.BytesIO(first))
    assert table.schema.metadata is None
    assert table.to_pandas().equals(frame)
    assert pq.ParquetFile(io.BytesIO(first)).metadata.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize("sizes", [[], [0], [3], [2, 2, 0, 9], [4], [4, 1], [8, 4]])
def test_parquet_of_tables_is_the_parquet_of_all_and_reads_back_by_row_group(
    sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ROW_GROUP", 4)
    schema = pa.schema([("n", pa.int32()), ("name", pa.string())])
    ends = np.cumsum([0, *sizes])
    tables = [pa.table([pa.array(range(a, b), pa.int32()), pa.array(["x"] * (b - a))], schema=schema) for a, b in pairwise(ends)]
    whole = pa.concat_tables([schema.empty_table(), *tables])
    path = tmp_path / "a.parquet"
    path.write_bytes(written(parquet_of(schema, iter(tables))))
    expected = io.BytesIO()
    pq.write_table(whole, expected, compression="zstd", row_group_size=4)
    assert path.read_bytes() == expected.getvalue()
    groups = list(read_row_groups(path, schema))
    assert max(map(len, groups)) <= 4
    assert pa.concat_tables(groups).equals(whole)


def test_parquet_keeps_no_dictionary_of_measured_values() -> None:
    table = pa.table({"z": np.array([1.5, 1.5], np.float32), "tau": [2.0, 2.0]})
    for whole, dictionaries in ((table, [False, True]), (table.drop_columns("z"), [True])):
        one, streamed = written(parquet(whole)), written(parquet_of(whole.schema, [whole]))
        assert one == streamed
        group = pq.ParquetFile(io.BytesIO(one)).metadata.row_group(0)
        assert ["RLE_DICTIONARY" in group.column(place).encodings for place in range(group.num_columns)] == dictionaries
        assert pq.read_table(io.BytesIO(one)).equals(whole)


def test_parquet_of_makes_the_row_groups_that_parquet_makes() -> None:
    table = pa.table({"n": np.zeros(2**20 + 1, np.int8)})
    assert written(parquet_of(table.schema, [table.slice(0, 9), table.slice(9)])) == written(parquet(table))


def test_json_bytes_is_readable_and_refuses_nan() -> None:
    assert json_bytes({"b": "é", "a": [1]}) == '{\n  "b": "é",\n  "a": [\n    1\n  ]\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_bytes({"b_tot": float("nan")})


def test_sha256_of_a_known_message(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "abc") == ABC


def test_sha256_tree_depends_on_names_and_content_alone(tmp_path: Path) -> None:
    suffixes = frozenset({".json", ".safetensors"})
    first = tmp_path / "first"
    (first / "sub").mkdir(parents=True)
    (first / "config.json").write_bytes(b"{}")
    (first / "sub" / "model.safetensors").write_bytes(b"weights")
    before = sha256_tree(first, suffixes)
    second = tmp_path / "elsewhere"
    shutil.copytree(first, second)
    os.utime(second / "config.json", (1, 1))
    (second / "notes.log").write_bytes(b"left out")
    assert sha256_tree(second, suffixes) == before
    (second / "config.json").rename(second / "other.json")
    assert sha256_tree(second, suffixes) != before
    (second / "other.json").rename(second / "config.json")
    (second / "sub" / "model.safetensors").write_bytes(b"weightS")
    assert sha256_tree(second, suffixes) != before


def test_code_version_is_version_and_source_hash() -> None:
    version, _, source = code_version().partition("+src.")
    assert version == "0.1.0"
    assert len(source) == 12
