"""What is fuzzed: five readers of foreign bytes, each with seeds that are valid, and the one rule they must keep.

A target takes any bytes and either succeeds or raises an AvalancheError. Anything else that leaves it is a finding; those that were
found are kept as cases in tests/test_hostile_readers.py. The first byte of an input chooses how the rest is used: as the whole
file, or as a change to a valid one, so that what lies behind the first checks is reached too.
"""

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avalanche_llm.canon import load_canon
from avalanche_llm.config import ResolvedConfig, canonical_yaml, merge, resolve_config, resolve_references
from avalanche_llm.events.tail_files import SCHEMA, read_events
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.io.files import read_npz
from avalanche_llm.io.schema_validate import validate_run_record
from avalanche_llm.plain_yaml import read_yaml
from avalanche_llm.questions import parse_question, questions_sha256
from avalanche_llm.settings import parse_settings

REPO: Final = Path(__file__).resolve().parents[2]
RUN_ID: Final = "RUN_S01_0123456789ab"
PATCH: Final = struct.Struct("<HB")
SHAPES: Final = {"mu": 2, "n": 0}


@dataclass(frozen=True)
class Target:
    """One reader: `run` feeds it, `seeds` are inputs that it accepts or nearly accepts."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


@lru_cache(maxsize=1)
def folder() -> Path:
    """One scratch folder a process, with the valid files that an input may change."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-")) / RUN_ID
    path.mkdir()
    (path / "good.yaml").write_bytes(canonical_yaml(good_config()))
    return path


def patched(base: bytes, patches: bytes) -> bytes:
    """`base` with single bytes replaced: every three bytes of `patches` are a place (little endian, wrapping) and a value."""
    changed = bytearray(base)
    for place, value in PATCH.iter_unpack(patches[: len(patches) // PATCH.size * PATCH.size]):
        changed[place % len(changed)] = value
    return bytes(changed)


WORDS: Final = (
    *(
        "",
        " ",
        "A",
        "B",
        "C",
        "1",
        "2",
        "id",
        "question",
        "choices",
        "text",
        "label",
        "answerKey",
        "model",
        "run",
        "hf_id",
        "grid",
    ),
    *("gains", "datasets", "events", "statistics", "pipeline", "determinism", "extends", "include", "CANON.", "CANON.CONST.EPS"),
    *("RUN_S01_0123456789ab", "complete", "PHASE1_CALIBRATE", "0" * 64, "../x", "results/a.npz", "timings", "artifact_index"),
    *(
        "dependencies",
        "hashes",
        "dataset",
        "conditions",
        "artifacts",
        "x\0y",
        "\ud800",
        "a\nb",
        "\u2028",
        "é",
        "\x1b[31m",
        "9" * 5000,
    ),
)
NUMBERS: Final = (0, 1, -1, 2, 3, 65535, 2**31, 2**63, 10**400, 0.5, 1e308, float("inf"), float("nan"), -0.0)


def value_of(stream: io.BytesIO, depth: int = 0) -> Any:
    """Any bytes as one json-like value: a byte of kind, then what it needs; the end of the stream is None."""
    kind = (stream.read(1) or b"\0")[0]
    small = kind >> 3
    match kind & 7:
        case 0:
            return (None, True, False)[small % 3]
        case 1:
            return NUMBERS[small % len(NUMBERS)]
        case 2 | 3:
            return WORDS[(stream.read(1) or b"\0")[0] % len(WORDS)]
        case 4:
            return stream.read(small).decode("latin-1")
        case 5 if depth < 40:
            return [value_of(stream, depth + 1) for _ in range(small % 8)]
        case 6 | 7 if depth < 40:
            return {str(value_of(stream, 99)): value_of(stream, depth + 1) for _ in range(small % 8)}
        case _:
            return small


def mapping_of(data: bytes) -> dict[str, Any]:
    """Any bytes as one mapping."""
    return dict(value_of(io.BytesIO(b"\x36" + data)))


def fuzz_config(data: bytes) -> None:
    """Mode 0: a config file, read, resolved and validated; 1: a file over a valid config; 2: values over a valid config."""
    mode, text = (data[0] if data else 0) % 3, data[1:]
    path = folder() / "own.yaml"
    if mode == 0:
        path.write_bytes(text)
        parse_settings(resolve_config(path, load_canon()).values)
        return
    if mode == 1:
        path.write_bytes(text)
        above = read_yaml(path)
    else:
        above = mapping_of(text)
    changes = ResolvedConfig.of(resolve_references(above, load_canon())).values  # its bytes alone: the rest is always the same
    parse_settings(merge(good_config(), changes))


@lru_cache(maxsize=1)
def good_config() -> dict[str, Any]:
    """The demo's config, which inputs change."""
    return dict(resolve_config(REPO / "configs" / "demo.yaml", load_canon()).values)


def config_seeds() -> list[bytes]:
    """Whole files and overlays that use every feature of the resolver."""
    overlays = [
        "include: [good.yaml]\n",
        "gains: {grid: [0.9, 1.0, 1.1]}\n",
        "events: {eps: CANON.CONST.EPS, target_rates: CANON.CONST.TARGET_LAYER_RATES}\n",
        "run: &r {device: cpu, dtype: fp32}\nother: *r\n",
        "models: {INSTRUCT: {hf_id: a/b, hooks: {layers: layers, mlp: mlp, attn: attn, down: mlp.down}}, BASE: null}\n",
        "pipeline: {<<: {seq_len_tokens: 64}, burn_in_tokens: 0x3, batch_windows: 1_0}\n",
        'datasets: {A: {split: "tr\\u0061in", text_column: !!str text, window_pool_factor: 2}}\n',
        "determinism: {seed: 1:30, strict: true}\nbudgets: {gpu_hours_max: 1e400}\nx: 2001-02-30\ny: !!binary aGk=\n",
    ]
    (folder() / "own.yaml").unlink(missing_ok=True)
    whole = (folder() / "good.yaml").read_bytes()
    return [
        b"\0" + whole,
        *(b"\1" + text.encode() for text in overlays),
        *(b"\0" + text.encode() for text in overlays),
        b"\2\x02\x0c\x0e\x02\x10\x0d\x09",
    ]


def fuzz_record(data: bytes) -> None:
    """Mode 0: the file; 1: text that replaces the value of one section of a valid record; 2: a value that does."""
    mode, text = (data[0] if data else 0) % 3, data[1:]
    if mode:
        good = record()
        section = list(good)[text[0] % len(good)] if text else "model"
        value = text[1:] if mode == 1 else json.dumps(value_of(io.BytesIO(text[1:]))).encode()
        rest = json.dumps({key: item for key, item in good.items() if key != section}).encode()
        text = b'{"' + section.encode() + b'": ' + value + b", " + rest[1:]
    (folder() / "run_record.json").write_bytes(text)
    validate_run_record(read_record(folder()))


def record_seeds() -> list[bytes]:
    """A valid record, and changes to its sections."""
    sections = enumerate(record().values())
    return [b"\0" + json.dumps(record()).encode(), *(bytes([1, place]) + json.dumps(value).encode() for place, value in sections)]


def record() -> dict[str, Any]:
    """The record of a complete run, small."""
    digest, utc = "0" * 64, "2026-01-01T00:00:00.000000+00:00"
    entry = {"relative_path": "results/a.npz", "sha256": digest, "bytes": 3, "created_utc": utc}
    return {
        "project_id": "avalanche_llm",
        "pack_version": "1",
        "run_id": RUN_ID,
        "phase_id": "PHASE1_CALIBRATE",
        "stage_status": "complete",
        "created_utc": utc,
        "completed_utc": utc,
        "model": {"role": "INSTRUCT", "id": "m", "device": "cpu", "dtype": "fp32"},
        "dataset": {"A": {"role": "A", "id": "d", "sha256": digest}},
        "conditions": [{"g": 1.0}],
        "dependencies": [{"run_id": RUN_ID, "phase_id": "PHASE1_CALIBRATE", "config_sha256": digest, "record_sha256": digest}],
        "artifacts": {"a": "results/a.npz"},
        "artifact_index": [entry],
        "hashes": {"config_sha256": digest, "scope_sha256": digest, "dataset_slice_sha256": {}, "code_version": "0"},
        "versions": {"python": "3", "torch": "2", "transformers": "5"},
        "determinism": {"seed": 1, "strict": False, "flags": {}, "unavailable": []},
        "timings": {"active_s": 1.0},
    }


def fuzz_npz(data: bytes) -> None:
    """Mode 0: the file; 1: patches to a valid one; 2: the bytes of an array member in a sound zip; 3: its header alone."""
    mode, rest = (data[0] if data else 0) % 4, data[1:]
    if mode == 1:
        rest = patched(npz_base(), rest)
    elif mode == 2:
        rest = zipped(rest)
    elif mode == 3:
        rest = zipped(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(rest) % 65536) + rest[:65535] + b"\0" * 48)
    path = folder() / "a.npz"
    path.write_bytes(rest)
    read_npz(path, SHAPES)


def zipped(member: bytes) -> bytes:
    """A zip with this member as `mu.npy` and a good `n.npy`."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("mu.npy", member)
        archive.writestr("n.npy", npy(np.array(7)))
    return sink.getvalue()


def npy(array: np.ndarray) -> bytes:
    """An array as numpy's file format."""
    sink = io.BytesIO()
    np.lib.format.write_array(sink, array, allow_pickle=array.dtype.hasobject)
    return sink.getvalue()


@lru_cache(maxsize=1)
def npz_base() -> bytes:
    """A small valid file with one deflated and one large-looking member."""
    sink = io.BytesIO()
    np.savez_compressed(sink, mu=np.arange(6.0).reshape(2, 3), n=np.array(7))
    return sink.getvalue()


def npz_seeds() -> list[bytes]:
    """Every mode."""
    good = npy(np.arange(6.0).reshape(2, 3))
    headers = [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }\n",
        b"{'descr': '<f8', 'fortran_order': True, 'shape': (1000000000000, 3), }\n",
        b"{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (2,), }\n",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
        b"{'descr': '<U9', 'fortran_order': False, 'shape': (), }\n",
    ]
    return [
        b"\0" + npz_base(),
        b"\1" + PATCH.pack(3, 9),
        b"\2" + good,
        b"\2" + npy(np.array([{}], dtype=object)),
        b"\0" + good,
        *(b"\3" + header for header in headers),
    ]


def fuzz_parquet(data: bytes) -> None:
    """Mode 0: the file; else patches to one of the valid ones, counted from its end, where the footer is."""
    mode, rest = (data[0] if data else 0) % 4, data[1:]
    bases = parquet_bases()
    text = rest if mode == 0 else patched(bases[(mode - 1) % len(bases)][::-1], rest)[::-1]
    path = folder() / "a.parquet"
    path.write_bytes(text)
    read_events(path).to_pandas()


@lru_cache(maxsize=1)
def parquet_bases() -> list[bytes]:
    """An events table with zstd, the same uncompressed in several row groups, and one of other types."""
    rows = 40
    columns = [pa.array([1 + place % 3 for place in range(rows)]).cast(field.type) for field in SCHEMA]
    events = pa.table(columns, schema=SCHEMA)
    other = pa.table({"a": ["x", None], "b": [[1, 2], []], "c": [{"d": 1.0}, None]})
    bases = []
    for table, options in (
        (events, {"compression": "zstd"}),
        (events, {"compression": "none", "row_group_size": 16}),
        (other, {}),
    ):
        sink = io.BytesIO()
        pq.write_table(table, sink, **options)
        bases.append(sink.getvalue())
    return bases


def parquet_seeds() -> list[bytes]:
    """Whole files and patches of each base."""
    whole = [b"\0" + base for base in parquet_bases()]
    return [*whole, *(bytes([mode]) + PATCH.pack(place, 7) for mode in (1, 2, 3) for place in (9, 40, 200))]


def fuzz_questions(data: bytes) -> None:
    """Mode 0: a json list of rows; 1: a value in place of one field of a valid row; 2: any row. Parsed, hashed, printed."""
    mode, rest = (data[0] if data else 0) % 3, data[1:]
    if mode == 0:
        try:
            read = json.loads(rest)
        except (ValueError, RecursionError):
            return
        rows = [row for row in (read if isinstance(read, list) else [read]) if isinstance(row, dict)]
    elif mode == 1:
        rows = [QUESTION | {list(QUESTION)[rest[0] % 4] if rest else "id": value_of(io.BytesIO(rest[1:]))}]
    else:
        rows = [mapping_of(rest)]
    questions = [parse_question(row, index) for index, row in enumerate(rows)]
    questions_sha256(questions)
    for question in questions:
        question.prompt.encode("utf-8")
        question.cloze_prompt.encode("utf-8")


QUESTION: Final = {
    "id": "Q1",
    "question": "Which one swims?",
    "choices": {"text": ["a stone", "a fish", "a cloud"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}


def question_seeds() -> list[bytes]:
    """Both forms of choices, digits for letters, several rows, and changes to a valid row."""
    listed = [{"text": "x", "label": 1}, {"text": "y", "label": 2}, {"text": "\ud800", "label": "3"}]
    changes = [{"id": "Q\n2"}, {"answerKey": 2.0}, {"question": "\0 é"}, {"choices": {"text": "abc", "label": ["A"]}}]
    rows = [QUESTION, QUESTION | {"choices": listed, "answerKey": "3"}, *(QUESTION | change for change in changes)]
    values = [bytes([1, place, kind]) + b"\2\3\4\x16\x0a" * 6 for place in range(4) for kind in (1, 2, 0x25, 0x1D, 0x16)]
    return [*(b"\0" + json.dumps(one).encode() for one in (*rows, rows)), *values, b"\2" + b"\2\7\2\2" * 9]


TARGETS: Final = MappingProxyType(
    {
        "config": Target(fuzz_config, config_seeds),
        "record": Target(fuzz_record, record_seeds),
        "npz": Target(fuzz_npz, npz_seeds),
        "parquet": Target(fuzz_parquet, parquet_seeds),
        "questions": Target(fuzz_questions, question_seeds),
    }
)
