"""Phase 8: the same runs give the same archive anywhere, it can be checked with sha256sum, and nothing changed gets into it."""

import hashlib
import os
import random
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from functools import partial
from pathlib import Path

import pytest
import small_runs
import tiny
import yaml

from avalanche_llm.errors import DeterminismError, EnvironmentProblem, MissingArtifact, SchemaError
from avalanche_llm.io import hashing
from avalanche_llm.io.artifacts import RECORD_NAME, index_by_path, read_record
from avalanche_llm.io.files import write_atomically
from avalanche_llm.phases import release as phase
from avalanche_llm.phases.release import release
from avalanche_llm.release.archive import unpacked, write_archive
from avalanche_llm.release.manifest import (
    MANIFEST,
    PACK,
    SOURCE,
    Member,
    check_name,
    manifest_bytes,
    pack_members,
    read_manifest,
    run_members,
)

IN_ANOTHER_PROCESS = """
import os, sys
from pathlib import Path
os.umask(0o077)
sys.path.insert(0, sys.argv[1])
import small_runs
from avalanche_llm.phases.release import release
print(release(small_runs.job_on(Path(sys.argv[2]))))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_runs.every_run(tmp_path_factory.mktemp("small") / "runs")


@pytest.fixture(scope="module")
def released(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a release of a copy of the runs, beside a run that the paper does not rest on."""
    copy = tiny.copied(runs, tmp_path_factory.mktemp("released") / "runs")
    small_runs.begun_run(small_runs.job_on(copy, data_a=tiny.SHIPPED["B"]), small_runs.PAPER_AND_ABOVE[0]).complete()
    return copy / release(small_runs.job_on(copy))


def archive_of(folder: Path) -> Path:
    return folder / "results" / "release.zip"


def member(folder: Path, name: str, data: bytes) -> Member:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Member(name, path, hashlib.sha256(data).hexdigest())


# --- the same bytes


def test_release_twice_is_byte_identical_whatever_surrounds_it(runs: Path, released: Path, tmp_path: Path) -> None:
    other = tiny.copied(runs, tmp_path / "deep" / "er" / "elsewhere")
    for number, path in enumerate(sorted(other.rglob("*"))):
        os.utime(path, (1e9 + number, 1e9 + number))
        path.chmod(0o700 if path.is_dir() else 0o640)
    found = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tiny.REPO / "tests"), str(other)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tiny.REPO), "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    again = other / found.stdout.split()[-1]
    assert again != released
    assert tiny.file_hashes(again / "results") == tiny.file_hashes(released / "results")


def test_archive_holds_nothing_of_the_time_or_the_machine(released: Path) -> None:
    with zipfile.ZipFile(archive_of(released)) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert names == [MANIFEST, *sorted(names[1:])]
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.external_attr >> 16 for entry in entries} == {stat.S_IFREG | 0o644}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {name.split("/")[0] for name in names} == {MANIFEST, "pack", "runs"}
    assert all(check_name(name) == name for name in names)


def test_write_archive_holds_no_member_in_memory(tmp_path: Path) -> None:
    size = 64 * 2**20
    large = member(tmp_path, "large.bin", bytes(size))
    with (tmp_path / "out.zip").open("wb") as file:
        tracemalloc.start()
        write_archive(file, [large], b"")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < size / 8
    assert (tmp_path / "out.zip").stat().st_size > size


# --- what is in it


def test_archive_is_checked_by_sha256sum(released: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive_of(released)) as archive:
        archive.extractall(tmp_path)
    command = ["sha256sum", "--check", "--strict", "--quiet", MANIFEST]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout == ""
    assert (tmp_path / MANIFEST).read_bytes() == (released / "results" / MANIFEST).read_bytes()
    listed = read_manifest((tmp_path / MANIFEST).read_bytes())
    assert list(listed) == sorted(listed)
    assert listed.keys() | {MANIFEST} == tiny.file_hashes(tmp_path).keys()
    tiny.flip_a_byte(tmp_path / "pack" / "LICENSE")
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (1, "pack/LICENSE: FAILED\n")


def test_archive_holds_every_run_below_the_paper_and_no_more(runs: Path, released: Path) -> None:
    listed = read_manifest((released / "results" / MANIFEST).read_bytes())
    held = {name.removeprefix("runs/"): sha256 for name, sha256 in listed.items() if name.startswith("runs/")}
    assert len(list(released.parent.glob("RUN_S01_*"))) == 2
    expected = {}
    for stage in small_runs.PAPER_AND_ABOVE:
        folder = released.parent / tiny.run_of(runs, stage.tag).name
        record = read_record(folder)
        expected |= {f"{folder.name}/{relative}": entry["sha256"] for relative, entry in index_by_path(record).items()}
        expected |= {f"{folder.name}/{name}": hashing.sha256_file(folder / name) for name in (RECORD_NAME, "config_resolved.yaml")}
    assert held == expected


def test_release_names_only_the_paper_as_what_it_read(released: Path) -> None:
    record = read_record(released)
    assert [one["phase_id"] for one in record["dependencies"]] == ["PHASE7_PAPER_EXPORT"]
    assert record["artifacts"].keys() == {"manifest", "release_zip"}


def test_pack_holds_what_each_pattern_names_and_no_other_text() -> None:
    names = {one.name.removeprefix("pack/") for one in pack_members()}
    for pattern in (*SOURCE, *PACK):
        there = {path.relative_to(tiny.REPO).as_posix() for path in tiny.REPO.glob(pattern)}
        assert there, f"{pattern} names nothing any more"
        assert there <= names
    assert {name.split("/")[1] for name in names if name.startswith("data/")} == {"README.md", "jargon.txt", "devil.txt", "arc_demo.jsonl"}
    source = [path for package in ("avalanche_llm", "avalanche_dagster") for path in (tiny.REPO / package).rglob("*") if path.is_file()]
    assert {path.relative_to(tiny.REPO).as_posix() for path in source if path.suffix != ".pyc"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("models/", "runs/"))]


def test_pack_holds_the_data_that_the_demo_config_names() -> None:
    datasets = yaml.safe_load((tiny.REPO / "configs" / "demo.yaml").read_text())["datasets"]
    names = {one.name for one in pack_members()}
    local = [entry["hf_id"] for entry in datasets.values() if entry.get("hf_id", "").startswith("data/")]
    assert len(local) >= 2
    assert {f"pack/{path}" for path in local} <= names


def test_pack_of_a_wheel_is_what_it_carries(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    for name in (
        "avalanche_llm/cli.py",
        "avalanche_llm/__pycache__/cli.pyc",
        "avalanche_llm/_pack/spec/00_CANONICAL.md",
        "avalanche_llm/_pack/configs/demo.yaml",
        "avalanche_dagster/jobs.py",
        "tests/test_of_another_distribution.py",
        "README.md",
    ):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(name)
    names = [one.name for one in pack_members(site / "avalanche_llm")]
    assert names == [
        "pack/avalanche_dagster/jobs.py",
        "pack/avalanche_llm/cli.py",
        "pack/configs/demo.yaml",
        "pack/spec/00_CANONICAL.md",
    ]


# --- what it refuses


@pytest.mark.parametrize("tag", ["S01", "S04", "S07"])
def test_release_refuses_a_changed_run_and_writes_nothing(tag: str, runs: Path, tmp_path: Path) -> None:
    copy = tiny.copied(runs, tmp_path / "runs")
    folder = tiny.run_of(copy, tag)
    changed = sorted((folder / "results").iterdir())[0]
    tiny.flip_a_byte(changed)
    before = tiny.file_hashes(copy)
    with pytest.raises(MissingArtifact, match=f"{folder.name} is changed: results/{changed.name} changed since it was recorded .*; rebuild {folder.name}"):
        release(small_runs.job_on(copy))
    assert tiny.file_hashes(copy) == before
    assert not list(copy.glob("RUN_S08_*"))


def test_release_refuses_a_chain_with_a_gap(runs: Path, tmp_path: Path) -> None:
    copy = tiny.copied(runs, tmp_path / "runs")
    gap = tiny.run_of(copy, "S03")
    gap.rename(tmp_path / gap.name)
    with pytest.raises(MissingArtifact, match=f"is incomplete: rests on {gap.name}, which is not there"):
        release(small_runs.job_on(copy))
    with pytest.raises(MissingArtifact, match="run phase7_paper_export first"):
        release(small_runs.job_on(tmp_path / "empty"))
    assert not list(copy.glob("RUN_S08_*"))
    assert not (tmp_path / "empty").exists()


def test_write_archive_refuses_a_member_that_changed_since_it_was_listed(tmp_path: Path) -> None:
    one = member(tmp_path, "a.txt", b"first")
    one.path.write_bytes(b"other")
    with (tmp_path / "out.zip").open("wb") as file, pytest.raises(MissingArtifact, match=r"a\.txt changed while it was archived"):
        write_archive(file, [one], manifest_bytes([one]))
    one.path.unlink()
    out = tmp_path / "out.zip"
    with pytest.raises(MissingArtifact, match=r"a\.txt cannot be read any more \(No such file or directory\)"):
        write_atomically(out, partial(write_archive, members=[one], manifest=manifest_bytes([one])))


def test_resumed_release_refuses_another_pack(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tiny.copied(runs, tmp_path / "runs")

    def full(*arguments: object, **named: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(phase, "write_archive", full)
        with pytest.raises(Exception, match="disk full"):
            release(small_runs.job_on(copy))
    resumed = small_runs.job_on(copy, allow_resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(phase, "pack_members", lambda: [member(tmp_path, "pack/README.md", b"another")])
        with pytest.raises(DeterminismError, match="was begun over another pack"):
            release(resumed)
    folder = copy / release(resumed)
    with zipfile.ZipFile(archive_of(folder)) as archive:
        assert archive.read(MANIFEST) == (folder / "results" / MANIFEST).read_bytes()


def test_release_says_when_runs_were_made_by_other_code(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tiny.copied(runs, tmp_path / "runs")
    release(small_runs.job_on(tiny.copied(runs, tmp_path / "same")))
    assert "was made by" not in caplog.text
    monkeypatch.setattr(phase, "code_version", lambda: "9.9.9+src.0123456789ab")
    release(small_runs.job_on(copy))
    assert caplog.text.count("the pack holds the source of 9.9.9+src.0123456789ab") == len(small_runs.PAPER_AND_ABOVE)


def test_release_says_which_folders_of_the_machine_any_of_its_runs_tells(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "demo.yaml"
    demo = str(tiny.REPO / "configs" / "demo.yaml")
    folder = tmp_path / "runs"
    for place, phases in (("/scratch/me", small_runs.PAPER_AND_ABOVE[:1]), ("runs", small_runs.PAPER_AND_ABOVE[1:])):
        config.write_text(yaml.safe_dump({"extends": demo, "paths": {"runs_dir": place}}))
        job = tiny.job_of(config, folder)
        for stage in phases:
            small_runs.begun_run(job, stage).complete()
    release(job)  # whose own config tells nothing
    assert caplog.text.count("the release tells a folder of this machine, paths.runs_dir: /scratch/me;") == 1


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../b", "a//b", "./a", "a\\b", "a\nb", "a\x7f", ".", ""])
def test_check_name_refuses_what_leaves_the_folder_or_confuses_sha256sum(name: str) -> None:
    with pytest.raises(SchemaError, match="cannot be a path in a release"):
        check_name(name)


@pytest.mark.parametrize(
    "line", ["", "0123  a", f"{'0' * 64} a", f"{'0' * 64}  ", f"{'0' * 64}  ../a", f"{'0' * 64}  a\n{'1' * 64}  a", f"{'A' * 64}  a"]
)
def test_read_manifest_refuses_other_lines(line: str) -> None:
    good = f"{'0' * 64}  pack/LICENSE\n"
    assert read_manifest(good.encode()) == {"pack/LICENSE": "0" * 64}
    with pytest.raises(SchemaError):
        read_manifest(f"{good}{line}\n".encode())


def test_unpacked_refuses_names_that_leave_the_folder_and_what_is_no_zip(tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("../../escaped.txt", "out")
    with pytest.raises(SchemaError, match="cannot be a path in a release"), unpacked(bad):
        pass
    assert not list(tmp_path.rglob("escaped.txt"))
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("a", "a file")
        archive.writestr("a/b", "a file below it")
    with pytest.raises(SchemaError, match="a file under the name of a folder"), unpacked(bad):
        pass
    bad.write_bytes(b"no zip")
    with pytest.raises(SchemaError, match="is not a zip that can be read"), unpacked(bad):
        pass


def test_unpacked_of_a_zip_with_changed_bytes_is_its_members_or_a_schema_error(tmp_path: Path) -> None:
    good, bad, draw, refused = tmp_path / "good.zip", tmp_path / "bad.zip", random.Random(0), 0
    with zipfile.ZipFile(good, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pack/a.txt", b"hello" * 300)
        archive.writestr("b.txt", draw.randbytes(50))
    for _ in range(300):
        data = bytearray(good.read_bytes())
        for _ in range(draw.choice([1, 1, 2, 4])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        bad.write_bytes(data)
        try:
            with unpacked(bad) as folder:
                assert folder.is_dir()
        except SchemaError:
            refused += 1
    assert 100 < refused < 300


def test_unpacked_lets_errors_of_its_user_through(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as archive:
        archive.writestr("a", "a file")
    with pytest.raises(NotImplementedError, match="of the user"), unpacked(tmp_path / "good.zip"):
        raise NotImplementedError("of the user")
    with pytest.raises(EnvironmentProblem, match=r"none\.zip cannot be unpacked to .*: No such file"), unpacked(tmp_path / "none.zip"):
        pass


def test_run_members_are_refused_for_an_incomplete_run(tmp_path: Path) -> None:
    job = small_runs.job_on(tmp_path / "runs")
    run = small_runs.begun_run(job, small_runs.PAPER_AND_ABOVE[0])
    run.release()
    with pytest.raises(MissingArtifact, match="is incomplete"):
        run_members(job.store, [run.run_id])
