"""Both kinds of run id."""

import hashlib
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import pytest

from avalanche_llm.errors import UsageError
from avalanche_llm.io.store import RunStore
from avalanche_llm.phases.job import JobRequest
from avalanche_llm.run_id import candidate_run_ids, check_run_id, content_run_id
from avalanche_llm.stages import stages

STAGE = stages()["PHASE1_CALIBRATE"]


def begin_many(config: Path, runs: Path, n: int) -> list[str]:
    """n runs with timestamp ids, begun as fast as can be."""
    job = JobRequest(config, runs_dir=runs, run_id_mode="timestamp_counter").job()
    ids = []
    for _ in range(n):
        run = job.store.begin(STAGE, job.config, mode=job.run_id_mode)
        run.release()
        ids.append(run.run_id)
    return ids


def test_content_run_id_is_the_hash_of_config_bytes_and_tag() -> None:
    assert content_run_id("S01", b"a: 1\n") == "RUN_S01_" + hashlib.sha256(b"a: 1\nS01").hexdigest()[:12]


def test_content_run_id_differs_by_tag_and_by_config() -> None:
    assert len({content_run_id(tag, data) for tag in ("S01", "S02", "S02B") for data in (b"a: 1\n", b"a: 2\n")}) == 6


def test_candidate_run_ids_offers_one_content_id_and_many_counters() -> None:
    assert list(candidate_run_ids("content_hash", "S01", b"x")) == [content_run_id("S01", b"x")]
    first, second = islice(candidate_run_ids("timestamp_counter", "S06ARC", b"x"), 2)
    assert re.fullmatch(r"RUN_S06ARC_\d{8}T\d{6}Z_0000", first)
    assert second == first[:-4] + "0001"


@pytest.mark.usefixtures("unannotated")
def test_candidate_run_ids_refuses_another_mode() -> None:
    with pytest.raises(UsageError, match="run_id_mode must be one of content_hash, timestamp_counter, found 'latest'"):
        next(candidate_run_ids("latest", "S01", b"x"))  # type: ignore[arg-type]  # what a launchpad may send


@pytest.mark.parametrize("run_id", ["RUN_S01_0123456789ab", "RUN_S06ARC_20260102T030405Z_0007"])
def test_check_run_id_returns_an_honest_id(run_id: str) -> None:
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id",
    ["", "RUN_S01", "../RUN_S01_0123456789ab", "RUN_S01_0123456789ab/..", "RUN_S01_0123456789AB", "RUN_S01_0123456789ab\n"],
)
def test_check_run_id_refuses_what_could_name_another_folder(run_id: str) -> None:
    with pytest.raises(UsageError, match="is not a run id"):
        check_run_id(run_id)


def test_timestamp_ids_never_collide_within_a_process(config: Path, tmp_path: Path) -> None:
    ids = begin_many(config, tmp_path / "runs", 20)
    assert len(set(ids)) == 20
    assert {folder.name for folder in (tmp_path / "runs").iterdir()} == set(ids)


def test_timestamp_ids_never_collide_among_eight_processes(config: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("spawn")) as pool:  # a Pool may hang when it is terminated
        found = list(pool.map(begin_many, [config] * 8, [runs] * 8, [5] * 8))
    ids = [run_id for of_one in found for run_id in of_one]
    assert len(ids) == len(set(ids)) == 40
    assert {folder.name for folder in runs.iterdir()} == set(ids)  # and no staging folder is left
    for run_id in ids:
        assert RunStore(runs).state(run_id) == "incomplete"
