"""A real Postgres as the instance's storage, with deploy/dagster.postgres.yaml: four runs at once, all on record.

The server is the test's own: in a temporary folder, on a loopback port, run by a user without rights (Postgres refuses root).
Skipped where its programs are missing: on PATH, or below /usr/lib/postgresql.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest
import tiny
from started import free_port, started, wait_until

pytest.importorskip("dagster_postgres")
FOUND = [shutil.which("initdb"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
PROGRAMS = next((Path(path).parent for path in reversed(FOUND) if path), None)
OWNER = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
pytestmark = pytest.mark.skipif(PROGRAMS is None, reason="no Postgres programs (initdb, postgres) on this machine")
RUNS = 4


def unprivileged(*command: str) -> list[str]:
    if os.geteuid() != 0:
        return list(command)
    return ["setpriv", "--reuid", OWNER, "--regid", OWNER, "--clear-groups", *command]


@pytest.fixture(scope="module")
def database() -> Iterator[dict[str, str]]:
    """The environment that names an empty database of our own."""
    assert PROGRAMS is not None
    folder = Path(tempfile.mkdtemp(prefix="avalanche_pg_"))
    port, password = free_port(), secrets.token_hex(16)
    try:
        (folder / "password").write_text(password, encoding="utf-8")
        for path in (folder, folder / "password"):
            shutil.chown(path, OWNER)
        data = folder / "data"
        initdb = [str(PROGRAMS / "initdb"), "-D", str(data), "-U", "avalanche", "-A", "scram-sha-256", "--pwfile", str(folder / "password")]
        subprocess.run(unprivileged(*initdb), check=True, capture_output=True, cwd=folder)
        serve = [str(PROGRAMS / "postgres"), "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", str(folder)]
        ready = [str(PROGRAMS / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
        with started(unprivileged(*serve), folder / "log", cwd=folder) as server:
            wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "Postgres", 60, server)
            yield {
                "DAGSTER_PG_HOST": "127.0.0.1",
                "DAGSTER_PG_PORT": str(port),
                "DAGSTER_PG_USERNAME": "avalanche",
                "DAGSTER_PG_PASSWORD": password,
                "DAGSTER_PG_DB": "postgres",
            }
    finally:
        shutil.rmtree(folder)


def test_four_runs_at_once_are_all_recorded(
    database: dict[str, str], config: Path, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copyfile(tiny.REPO / "deploy" / "dagster.postgres.yaml", home / "dagster.yaml")
    for name, value in (database | {"DAGSTER_HOME": str(home), "DAGSTER_SHARED_DIR": str(tmp_path / "shared")}).items():
        monkeypatch.setenv(name, value)
    set_up = [sys.executable, "-m", "dagster", "instance", "concurrency", "set", "gpu", str(RUNS)]
    subprocess.run(set_up, check=True, capture_output=True, cwd=tiny.REPO)  # once, as docs/platform.md says: it makes the tables
    command = [sys.executable, "-m", "avalanche_llm", "phase1_calibrate", "--config", str(config), "--runs_dir"]
    with ExitStack() as stack:
        runs = [(tmp_path / f"runs{index}", tmp_path / f"log{index}") for index in range(RUNS)]
        under_way = [stack.enter_context(started([*command, str(folder)], log, cwd=tiny.REPO)) for folder, log in runs]
        for process, (_, log) in zip(under_way, runs, strict=True):
            assert process.wait(300) == 0, log.read_text(encoding="utf-8")[-2000:]
    expected = tiny.result_hashes(tiny.run_of(pipeline, "S01"))
    for index in range(RUNS):
        assert tiny.result_hashes(tiny.run_of(tmp_path / f"runs{index}", "S01")) == expected
    assert not list(home.glob("**/*.db"))  # nothing went to SQLite instead
    with dg.DagsterInstance.get() as instance:
        records = instance.get_run_records()
        assert [record.dagster_run.status for record in records] == [dg.DagsterRunStatus.SUCCESS] * RUNS
        last_start = max(record.start_time or 0.0 for record in records)
        first_end = min(record.end_time or 0.0 for record in records)
        assert last_start < first_end  # all four were under way together
        assert len(instance.fetch_materializations(dg.AssetKey(["phase1_calibrate", "rate_targets"]), limit=9).records) == RUNS
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0
