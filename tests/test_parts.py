"""Part files of a run that was cut off: a changed byte in one is met before it can become a number."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import small_runs
import tiny

from avalanche_llm.events.tail_files import SCHEMA, read_events
from avalanche_llm.io.artifacts import Run
from avalanche_llm.phases.parts import is_kept, keep, kept_or_made, part_path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return small_runs.job_on(tmp_path / "runs").begin("PHASE1_CALIBRATE")


def table(n: int, seed: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    columns = [draw.integers(0, 9, n) if pa.types.is_integer(field.type) else draw.random(n) for field in SCHEMA]
    return pa.table([pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def test_a_part_with_any_changed_byte_is_not_kept(run: Run) -> None:
    made = table(50, seed=1)
    path = keep(run, "gain_1.0", made)
    assert is_kept(run, "gain_1.0")
    assert read_events(path).equals(made)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        assert not is_kept(run, "gain_1.0"), f"byte {place}"
    path.write_bytes(whole)
    assert is_kept(run, "gain_1.0")


@pytest.mark.parametrize("digest", [None, b"", b"\xff", b"0" * 64])
def test_a_part_without_its_hash_is_not_kept(digest: bytes | None, run: Run) -> None:
    path = keep(run, "gain_1.0", table(50, seed=1))
    beside = path.with_name(path.name + ".sha256")
    beside.unlink()
    if digest is not None:
        beside.write_bytes(digest)
    assert not is_kept(run, "gain_1.0")


def test_a_damaged_part_is_made_again(run: Run) -> None:
    first, second = table(20, seed=1), table(20, seed=2)
    assert kept_or_made(run, "gain_1.0", lambda: first).equals(first)
    assert kept_or_made(run, "gain_1.0", lambda: second).equals(first)
    tiny.flip_a_byte(part_path(run, "gain_1.0"))
    assert kept_or_made(run, "gain_1.0", lambda: second).equals(second)
