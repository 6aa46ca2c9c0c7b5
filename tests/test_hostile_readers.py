"""Foreign bytes: yaml, records, npz, parquet and questions that were made to break their reader. Each ends in a message of ours.

What fuzzing found (tests/fuzz) stands here as cases, beside those that were thought of.
"""

import io
import json
import os
import random
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avalanche_llm.canon import load_canon
from avalanche_llm.config import Overrides, canonical_yaml, load_merged, resolve_config, resolve_references
from avalanche_llm.errors import (
    MAX_MESSAGE,
    AvalancheError,
    ConfigError,
    DataError,
    MissingArtifact,
    SchemaError,
    printable,
    reason,
)
from avalanche_llm.events.tail_files import SCHEMA, read_events, table_to_tails
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.io.files import json_bytes, npz, read_frame, read_json, read_npz, read_rows, write_atomically
from avalanche_llm.io.strict_json import parse_json
from avalanche_llm.plain_yaml import MAX_BYTES, MAX_VALUES, read_yaml
from avalanche_llm.questions import parse_question, questions_sha256

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
from targets import QUESTION, RUN_ID, TARGETS, npy, record, zipped  # its folder is no package


def in_file(folder: Path, content: bytes | str, name: str = "own.yaml") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


# --- messages


def test_a_message_is_one_printable_line_of_bounded_length() -> None:
    error = DataError("found 'a\nb\x1b[31m\ud800\u2028é' " + "x" * 10**6 + " end")
    assert str(error).startswith("found 'a\\nb\\x1b[31m\\ud800\\u2028é' xxx")
    assert str(error).endswith("xxx end")
    assert str(error).isprintable()
    assert len(str(error)) < MAX_MESSAGE + 100
    assert printable("déjà vu") == "déjà vu"


def test_reason_is_the_first_line_that_says_something() -> None:
    assert reason(ValueError("\n  too big\nsee the manual")) == "too big"
    assert (
        reason(TypeError("Validation error for field 'n':\n    expected int")) == "Validation error for field 'n': expected int"
    )
    assert reason(StopIteration()) == "StopIteration"


# --- yaml

BOMB = "".join(f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 9) + "]\n" if n else "a0: &a0 [x]\n" for n in range(12))
MERGE_BOMB = "".join(
    f"m{n}: &m{n} {{<<: [" + ", ".join([f"*m{n - 1}"] * 9) + "]}\n" if n else "m0: &m0 {x: 1}\n" for n in range(12)
)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (BOMB, f"more than {MAX_VALUES} values with aliases written out"),
        (MERGE_BOMB, f"more than {MAX_VALUES} values with aliases written out"),
        ("a: &a [*a]", "a value contains itself"),
        ("a: &a {b: {c: *a}}", "a value contains itself"),
        ("a: " + "[" * 100 + "]" * 100, "nested deeper than 32 levels"),
        ("a: [&a0 [], " + ", ".join(f"&a{i} [*a{i - 1}]" for i in range(1, 40)) + "]", "nested deeper than 32 levels"),
        ("a: " + "[" * 2000, "not valid yaml"),
        ("? " * 5000, "not valid yaml"),
        ("a: 1\na: 2\n", "the key 'a' stands twice in one mapping"),
        ("gains: {grid: [1.0], grid: [2.0]}", "the key 'grid' stands twice"),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
        ("a: 2001-02-30", "day is out of range|day 30 must be in range"),
        ("a: " + "9" * 5000, "integer string conversion"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: !own {}", "could not determine a constructor"),
        ("[a]: 1", "unhashable|not valid yaml|plain words"),
        ("a: '\x07'", "special characters are not allowed"),
        (b"a: \xed\xa0\x80", "not valid yaml"),
        (b"\xff\xfe\x00", "not valid yaml"),
        (b"# " + b"x" * MAX_BYTES, "is larger than 262144 bytes; it is not a config"),
    ],
    ids=range(21),
)
def test_read_yaml_refuses_what_was_made_to_break_it(
    text: str | bytes, complaint: str, tmp_path: Path, bounded_memory: None
) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError, match=complaint) as caught:
        resolve_config(in_file(tmp_path, text), load_canon())
    assert str(caught.value).isprintable()
    assert time.process_time() - began < 30


def test_read_yaml_keeps_aliases_and_merge_keys_that_are_meant(tmp_path: Path) -> None:
    path = in_file(tmp_path, "a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_read_yaml_opens_no_pipe_and_no_device(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "pipe.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    own = in_file(tmp_path, f"extends: {path if kind == 'pipe' else '/dev/zero'}\n")
    with pytest.raises(ConfigError, match="is no regular file; write the config to one"):
        load_merged(own)


def test_load_merged_of_files_that_include_the_next_one_twice_stops_early(tmp_path: Path) -> None:
    for n in range(8):
        in_file(tmp_path, f"include: [{n + 1}.yaml, {n + 1}.yaml, {n + 1}.yaml]\n", f"{n}.yaml")
    in_file(tmp_path, "x: 1\n", "8.yaml")
    with pytest.raises(ConfigError, match="more than 64 files are extended and included in all"):
        load_merged(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ('"\\ud800"', r"config\.a: text must be printable|not valid yaml"),
        ('"x\\0y"', r"config\.a: text must be printable, .* found 'x\\x00y'"),
        ('"x\\ny"', r"config\.a: text must be printable, .* found 'x\\ny'"),
        ("2024-01-01", r"config\.a: expected text, a number, true, false or null, found a date; quote it"),
        ("!!binary aGk=", r"config\.a: expected text, .* found a bytes"),
        ("!!set {x}", r"config\.a: expected text, .* found a set"),
        ("9223372036854775808", r"config\.a: the whole number does not fit 64 bits"),
        ("0x" + "f" * 9000, r"config\.a: the whole number does not fit 64 bits"),
    ],
)
def test_resolve_config_refuses_values_that_no_config_needs(value: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        resolve_config(in_file(tmp_path, f"a: {value}\n"), load_canon())


@pytest.mark.parametrize("text", ["x\0y", "\udcff", "two\nlines"])
def test_resolve_config_refuses_such_values_of_the_command_line_too(text: str, config: Path) -> None:
    with pytest.raises(ConfigError, match="command line.*text must be printable"):
        resolve_config(config, load_canon(), Overrides(model_id=text))


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), st.binary(max_size=4))
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4))
)


@given(st.dictionaries(st.text(max_size=8), values, max_size=5))
@settings(max_examples=60)
def test_resolve_references_of_anything_is_canonical_yaml_or_a_config_error(value: dict[str, Any]) -> None:
    try:
        canonical = canonical_yaml(resolve_references(value, load_canon()))
    except ConfigError as error:
        assert str(error).isprintable()
        return
    assert canonical_yaml(yaml.safe_load(canonical)) == canonical  # it reads back as itself


# --- records and json


def write_record(folder: Path, data: bytes) -> Path:
    place = folder / RUN_ID
    place.mkdir(exist_ok=True)
    (place / "run_record.json").write_bytes(data)
    return place


def test_read_record_reads_the_record_that_the_cases_below_change(tmp_path: Path) -> None:
    assert read_record(write_record(tmp_path, json_bytes(record()))) == record()


@pytest.mark.parametrize(
    ("changed", "by", "complaint"),
    [
        ('"complete"', '"complete", "stage_status": "started"', "the key 'stage_status' stands twice"),
        ('"active_s": 1.0', '"active_s": NaN', "NaN is no JSON number"),
        ('"active_s": 1.0', '"active_s": -Infinity', "-Infinity is no JSON number"),
        ('"active_s": 1.0', '"active_s": 1e999', "the number 1e999 is beyond a float"),
        ('"bytes": 3', '"bytes": 9223372036854775808', "does not fit 64 bits"),
        ('"bytes": 3', '"bytes": ' + "9" * 5000, "cannot be read as a run record"),
        ('"bytes": 3', '"bytes": -1', "artifact_index/0/bytes"),
        ('"id": "m"', '"id": "\\ud800"', "surrogates not allowed"),
        ('"g": 1.0', '"g": ' + "[" * 500 + "]" * 500, "nested deeper than 64 levels"),
        ('"results/a.npz"', '"../../etc/passwd"', "artifact_index/0/relative_path|artifacts/a"),
        ('"results/a.npz"', '"/etc/passwd"', "artifact_index/0/relative_path|artifacts/a"),
        ('"results/a.npz"', '"results/../../x"', "artifact_index/0/relative_path|artifacts/a"),
        ('"PHASE1_CALIBRATE"', '"PHASE1; rm"', "phase_id"),
        (f'"{RUN_ID}"', '"../RUN_S01_0123456789ab"', "run_id"),
    ],
)
def test_read_record_refuses_json_with_two_meanings_and_values_out_of_form(
    changed: str, by: str, complaint: str, tmp_path: Path
) -> None:
    text = json.dumps(record())
    assert changed in text
    with pytest.raises(SchemaError, match=complaint) as caught:
        read_record(write_record(tmp_path, text.replace(changed, by).encode("utf-8", "surrogatepass")))
    assert str(caught.value).isprintable()


def test_read_record_opens_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run_record.json")
    with pytest.raises(SchemaError, match="is no file; it cannot be read as a run record"):
        read_record(tmp_path)


@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**62), 2**62),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(st.characters(codec="utf-8")),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
        ),
        max_leaves=20,
    )
)
def test_parse_json_reads_back_whatever_json_bytes_writes(value: Any) -> None:
    assert parse_json(json_bytes(value)) == value


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[]", "a mapping was expected, found list"),
        (b"{}", "it has no 'selections'"),
        (b'{"selections": 5}', "selections must be a list of rows with gstar, status"),
        (b'{"selections": [{"gstar": 1}]}', "selections must be a list of rows with gstar, status"),
        (b'{"selections": [NaN]}', "NaN is no JSON number"),
        (b"\xff", "not the json that was expected"),
    ],
)
def test_read_rows_refuses_what_is_no_table_of_rows(content: bytes, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match=complaint):
        read_rows(in_file(tmp_path, content, "gstar.json"), "selections", "gstar", "status")
    with pytest.raises(MissingArtifact, match=r"absent\.json is not the json that was expected"):
        read_json(tmp_path / "absent.json")


# --- npz


def header(shape: str, descr: str = "'<f8'", fortran: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def deflated(member: bytes, **changes: Any) -> bytes:
    """A zip whose directory says something else of `mu.npy` than is there."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mu.npy", member)
        for name, value in changes.items():
            setattr(archive.filelist[0], name, value)
    return sink.getvalue()


NPZ = {
    "larger than the data": (zipped(header("(1000, 1000)") + b"\0" * 48), "header declares float64 of shape .1000, 1000."),
    "a terabyte": (zipped(header("(500000, 500000)") + b"\0" * 48), "which is not what is there"),
    "beyond any machine": (zipped(header(f"({10**30}, {10**30})")), "which is not what is there|not the npz"),
    "negative": (zipped(header("(-1, 3)") + b"\0" * 48), "which is not what is there"),
    "two negatives": (zipped(header("(-2, -3)") + b"\0" * 48), "which is not what is there"),
    "smaller than the data": (zipped(header("(1, 3)") + b"\0" * 48), "which is not what is there"),
    "a terabyte in the directory": (
        deflated(header("(500000, 500000)"), file_size=2 * 10**12 + 80),
        "claims 2000000000080 bytes packed in",
    ),
    "pickled objects": (zipped(npy(np.array([[{}]], dtype=object))), "declares object"),
    "a record": (zipped(header("(2, 1)", "[('a', '<i4')]") + b"\0" * 8), r"declares \[\('a', '<i4'\)\]"),
    "times": (zipped(header("(1, 1)", "'<M8[s]'") + b"\0" * 8), "declares datetime64"),
    "an unknown type": (zipped(header("(1, 1)", "'<q99'") + b"\0" * 8), "not the npz"),
    "code for a shape": (zipped(header("__import__('os').getpid()")), "not the npz"),
    "an open bracket": (zipped(header("(((((")), "not the npz"),
    "deep brackets": (zipped(header("(" * 400 + ")" * 400)), "not the npz"),
    "npy, no zip": (npy(np.zeros((2, 3))), "not the npz"),
    "npy version 9": (zipped(b"\x93NUMPY\x09\x00" + b"\0" * 50), "npy version"),
    "no npy inside": (zipped(b"plain text that is long enough"), "not the npz"),
}


@pytest.mark.parametrize("name", NPZ)
def test_read_npz_believes_no_header(name: str, tmp_path: Path, bounded_memory: None) -> None:
    content, complaint = NPZ[name]
    with pytest.raises(MissingArtifact, match=complaint) as caught:
        read_npz(in_file(tmp_path, content, "a.npz"), {"mu": 2})
    assert str(caught.value).isprintable()


def test_read_npz_refuses_encrypted_members_other_methods_and_two_of_one_name(tmp_path: Path) -> None:
    good = npy(np.zeros((2, 3)))
    locked = bytearray(zipped(good))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(MissingArtifact, match="is encrypted or packed by a method other than deflate"):
        read_npz(in_file(tmp_path, bytes(locked), "a.npz"), {"mu": 2})
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("mu.npy", good)
    with pytest.raises(MissingArtifact, match="is encrypted or packed by a method other than deflate"):
        read_npz(in_file(tmp_path, sink.getvalue(), "a.npz"), {"mu": 2})
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("mu.npy", good)
        archive.writestr("mu.npy", good)
    with pytest.raises(MissingArtifact, match="two members of the zip have one name"):
        read_npz(in_file(tmp_path, sink.getvalue(), "a.npz"), {"mu": 2})


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array([["a", "bé"]]),
        np.zeros((0, 3), bool),
        np.ones((2, 2), np.float16),
    ],
)
def test_read_npz_gives_back_every_kind_that_is_written(array: np.ndarray, tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.npz", npz({"mu": array}))
    found = read_npz(tmp_path / "a.npz", {"mu": 2})["mu"]
    assert found.dtype == array.dtype
    assert (found == array).all()
    assert found.flags.writeable


# --- parquet


def table_bytes(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


EVENTS = pa.table([pa.array([1] * 5).cast(field.type) for field in SCHEMA], schema=SCHEMA)
INVALID_NAME = table_bytes(EVENTS).replace(b"token", b"tok\xffn")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not the parquet table"),
        (b"PAR1" + b"\0" * 40 + b"PAR1", "not the parquet table"),
        (table_bytes(EVENTS)[:-9], "not the parquet table"),
        (table_bytes(EVENTS.drop_columns(["z"])), "expected the columns gain_id int16, .* z float; found"),
        (table_bytes(EVENTS.set_column(6, "z", pa.array(["x"] * 5))), "expected the columns .*; found .* z string"),
        (table_bytes(EVENTS.select(list(reversed(SCHEMA.names)))), "expected the columns"),
        (INVALID_NAME, "not the parquet table"),
        (table_bytes(pa.table({"a": np.zeros(4_000_000, np.int8)})), "claims 4000000 rows in"),
    ],
    ids=range(8),
)
def test_read_parquet_refuses_another_table(content: bytes, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match=complaint) as caught:
        read_events(in_file(tmp_path, content, "a.parquet"))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("column", "values"), [("unit", [1, 2, 3, 4, None]), ("layer", [0, 1, -1, 2, 2]), ("seq_id", [None] * 5)]
)
def test_read_events_refuses_places_that_cannot_be(column: str, values: list[int | None], tmp_path: Path) -> None:
    place = SCHEMA.get_field_index(column)
    table = EVENTS.set_column(place, SCHEMA.field(place), pa.array(values, SCHEMA.field(place).type))
    with pytest.raises(MissingArtifact, match=f"column {column} holds nulls or negative places"):
        read_events(in_file(tmp_path, table_bytes(table), "a.parquet"))
    with pytest.raises(MissingArtifact, match="an event lies in layer 1, the model has 1"):
        table_to_tails(EVENTS, n_layers=1)


def test_read_parquet_adds_no_column_for_a_folder_named_like_a_partition(tmp_path: Path) -> None:
    folder = tmp_path / "layer=9"
    folder.mkdir()
    path = in_file(folder, table_bytes(EVENTS), "a.parquet")
    assert read_events(path).equals(EVENTS)
    assert read_frame(path, ["layer"])["layer"].tolist() == [1] * 5


def test_read_frame_names_the_column_that_is_not_there_and_refuses_text_that_is_none(tmp_path: Path) -> None:
    path = in_file(tmp_path, table_bytes(EVENTS), "a.parquet")
    with pytest.raises(MissingArtifact, match="it has no column 'b_tot', only gain_id, g, "):
        read_frame(path, ["b_tot"])
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 2)), pa.py_buffer(b"\xff\xfe")])
    with pytest.raises(MissingArtifact, match="not the parquet table"):
        read_frame(in_file(tmp_path, table_bytes(pa.table({"a": text})), "a.parquet"))


@pytest.mark.parametrize("target", ["npz", "parquet", "record"])
def test_single_bytes_changed_at_random_end_in_a_message_or_in_a_table(target: str) -> None:
    """The fuzz targets themselves, 300 seeded inputs each: what goes round and round in `make fuzz` goes once here."""
    rng = random.Random(7)
    seeds = TARGETS[target].seeds()
    for _ in range(300):
        seed = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 8)):
            seed[rng.randrange(len(seed))] = rng.randrange(256)
        run_target(TARGETS[target].run, bytes(seed))


@given(st.sampled_from(["config", "questions"]), st.binary(min_size=1, max_size=80))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_read_or_refused_with_a_message(target: str, data: bytes) -> None:
    run_target(TARGETS[target].run, data)


def run_target(run: Callable[[bytes], None], data: bytes) -> None:
    try:
        run(data)
    except AvalancheError as error:
        assert str(error).isprintable()


# --- questions


@pytest.mark.parametrize("value", ["\ud800", "x\0y\ud800", "\udfff" * 3])
@pytest.mark.parametrize("field", ["id", "question", "answerKey"])
def test_parse_question_refuses_half_a_surrogate_pair(field: str, value: str) -> None:
    with pytest.raises(DataError, match="question") as caught:
        parse_question(QUESTION | {field: value}, 0)
    assert str(caught.value).isprintable()


cells = st.recursive(
    st.one_of(scalars, st.sampled_from(["A", "B", "C", 1, 2])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["text", "label", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.fixed_dictionaries({}, optional={"id": cells, "question": cells, "choices": cells, "answerKey": cells}))
@settings(max_examples=100)
def test_parse_question_of_any_row_is_a_question_or_a_data_error(row: dict[str, Any]) -> None:
    try:
        question = parse_question(QUESTION | row, 0)
    except DataError as error:
        assert str(error).isprintable()
        return
    assert len(questions_sha256([question])) == 64
    question.prompt.encode("utf-8")


def test_the_valid_inputs_that_cases_and_fuzzing_start_from_are_accepted() -> None:
    assert parse_question(QUESTION, 0).answer == 1
    for name in ("config", "record", "npz", "parquet", "questions"):
        TARGETS[name].run(TARGETS[name].seeds()[0])
