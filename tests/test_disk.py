"""Disks as they are: full, read-only, another file system than the rest, and artifacts larger than one would hold in memory.

The small disks are real: a tmpfs mounted for the test.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import small_runs
import tiny

from avalanche_llm.cli import main
from avalanche_llm.errors import EnvironmentProblem
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.io.jsonl import EventLog
from avalanche_llm.phases.calibrate import calibrate
from avalanche_llm.phases.gain_grid import gain_grid
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.select_gstar import select_gstar

Mount = Callable[[Path, str], None]
FULL = "No space left on device"
BIG = """
import resource, sys
from pathlib import Path
from avalanche_llm.io.store import RunStore
from avalanche_llm.phases.job import JobRequest
from avalanche_llm.release.chain import require_intact
from avalanche_llm.stages import stages
job = JobRequest(Path(sys.argv[1]), runs_dir=Path(sys.argv[2])).job()
run = job.begin("PHASE1_CALIBRATE")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
block = bytes(range(256)) * 4096
def write(file):
    for _ in range(300):
        file.write(block)
for name in run.stage.artifacts:
    run.save(name, write)
run.complete()
require_intact(RunStore(job.store.root), [run.run_id])
for name in run.stage.artifacts:
    job.upstream("PHASE1_CALIBRATE").artifact(name)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mount a tmpfs of a size on a folder; unmounted at the end."""
    mounted: list[Path] = []

    def one(folder: Path, size: str) -> None:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a file system may not be mounted here")
        mounted.append(folder)

    yield one
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def only_left(disk: Path, free: int) -> Iterator[None]:
    """All but `free` bytes of the disk are taken by another's file."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - free)))
    try:
        yield
    finally:
        filler.unlink()


PHASES: list[tuple[str, Callable[[Job], str]]] = [("S01", calibrate), ("S02", gain_grid), ("S02B", select_gstar)]


@pytest.mark.parametrize("place", range(len(PHASES)), ids=[tag for tag, _ in PHASES])
def test_a_full_disk_leaves_nothing_partial_and_space_lets_the_run_end_with_the_same_bytes(
    place: int, pipeline: Path, config: Path, tmp_path: Path, mount: Mount
) -> None:
    """Free space grows from nothing to enough; what is under a final name at any moment is what belongs there."""
    disk = tmp_path / "disk"
    mount(disk, "16m")
    tag, phase = PHASES[place]
    expected = tiny.file_hashes(tiny.run_of(pipeline, tag))
    for earlier, _ in PHASES[:place]:
        source = tiny.run_of(pipeline, earlier)
        shutil.copytree(source, disk / "runs" / source.name)
    job, stopped = tiny.job_of(config, disk / "runs", allow_resume=True), 0
    for free in (0, 4096, 16384, 40960, 65536, 131072, 8 * 2**20):
        with only_left(disk, free):
            try:
                phase(job)
                break
            except EnvironmentProblem as error:
                assert FULL in str(error)
                stopped += 1
        for folder in (disk / "runs").glob(f"RUN_{tag}_*"):
            assert read_record(folder)["stage_status"] == "started"
            for relative, digest in tiny.file_hashes(folder).items():
                if relative.split("/")[0] not in ("run_record.json", "logs", "cache"):
                    assert expected[relative] == digest
    assert stopped >= 2
    folder = tiny.run_of(disk / "runs", tag)
    assert tiny.result_hashes(folder) == tiny.result_hashes(tiny.run_of(pipeline, tag))
    assert {line["event_type"] for line in tiny.events_of(folder)} >= {"start", "end"}
    assert not [*folder.rglob(".part-*"), *(disk / "runs").glob(".new-*")]


def test_a_runs_folder_on_another_file_system_gives_the_same_bytes(
    pipeline: Path, config: Path, tmp_path: Path, mount: Mount
) -> None:
    """Temporary files lie beside what they become: nothing is renamed from one file system to another."""
    disk = tmp_path / "disk"
    mount(disk, "16m")
    assert disk.stat().st_dev != tmp_path.stat().st_dev
    select = tiny.run_of(pipeline, "S02B")
    for tag in ("S01", "S02"):
        shutil.copytree(tiny.run_of(pipeline, tag), disk / tiny.run_of(pipeline, tag).name)
    assert main(["phase2_select_gstar", "--config", str(config), "--runs_dir", str(disk)]) == 0
    assert tiny.result_hashes(disk / select.name) == tiny.result_hashes(select)


@pytest.mark.parametrize("begun", [False, True], ids=["nothing begun", "a run to resume"])
def test_a_read_only_runs_folder_is_exit_one_and_named(
    begun: bool, tmp_path: Path, mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    mount(disk, "16m")
    if begun:
        small_runs.job_on(disk).begin("PHASE1_CALIBRATE").release()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = tiny.file_hashes(disk)
    config = tiny.REPO / "configs" / "demo.yaml"
    assert main(["phase1_calibrate", "--config", str(config), "--runs_dir", str(disk), "--allow_resume"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(disk) in line
    assert "Read-only file system" in line
    assert tiny.file_hashes(disk) == before


def test_a_dagster_home_on_a_full_disk_is_one_error_line(
    config: Path, tmp_path: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    mount(home, "16k")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert main(["phase1_calibrate", "--config", str(config), "--runs_dir", str(tmp_path / "runs")]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: DAGSTER_HOME {home} cannot be written: ")


def test_a_line_of_the_log_that_was_cut_short_goes_before_the_next(tmp_path: Path, mount: Mount) -> None:
    disk = tmp_path / "disk"
    mount(disk, "8k")
    log = EventLog(disk / "events.jsonl", "RUN_S01_0123456789ab")
    log.write("start", {})
    with pytest.raises(EnvironmentProblem, match=FULL):
        log.write("config_resolved", {"padding": "x" * 20_000})
    assert not log.path.read_text().endswith("\n")  # the disk took a part of it
    log.mend()
    log.write("end", {})
    (disk / "logs").mkdir()
    log.path.rename(disk / "logs" / "events.jsonl")
    assert [line["event_type"] for line in tiny.events_of(disk)] == ["start", "end"]


def test_artifacts_of_300_mib_are_written_hashed_and_verified_in_little_memory(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 2 * 2**30:
        pytest.skip("less than 2 GiB free")
    command = [sys.executable, "-c", BIG, str(tiny.REPO / "configs" / "demo.yaml"), str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=tiny.REPO, capture_output=True, text=True, check=True)
    run = tiny.run_of(tmp_path / "runs", "S01")
    assert [path.stat().st_size for path in (run / "results").iterdir()] == [300 * 2**20] * 2
    assert int(done.stdout.split()[-1]) * 1024 < 64 * 2**20
    shutil.rmtree(tmp_path / "runs")
