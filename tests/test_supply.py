"""What a whole pipeline needs from outside, and what it tells: no network, and nothing of the machine or the person (spec 14, 21)."""

import base64
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny
import yaml

from avalanche_llm.io.artifacts import read_record
from avalanche_llm.phases.release import foreign_places
from avalanche_llm.stages import stages

CANARY = "canary7f3a"
LAUNCHER = """
import socket, sys
def refuse(self, address):
    if self.family != socket.AF_UNIX:
        raise OSError(101, f"the network is cut: {address}")
    return real(self, address)
try:
    socket.sethostname("canary7f3a-host")
except OSError:
    pass
real = socket.socket.connect
socket.socket.connect = socket.socket.connect_ex = refuse
for address in (("192.0.2.1", 443), ("127.0.0.1", 9)):
    try:
        socket.create_connection(address, timeout=2)
        sys.exit("a connection came about")
    except OSError:
        pass
sys.argv[0] = "avalanche_llm"
from avalanche_llm.cli import main
sys.exit(main(sys.argv[1:]))
"""


def namespace() -> list[str]:
    """A network namespace of its own, with no way out, where this machine allows one; the guard of the launcher is there anyway."""
    command = ["unshare", "--map-root-user", "--net", "--uts"]
    if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
        return command
    return []


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every phase, the report included, by the command line, without a network, with relative paths in the config."""
    folder = tmp_path_factory.mktemp("whole")
    tiny.save_model(tiny.llama(), folder / "models" / "tiny")
    (folder / "data").mkdir()
    for path in (tiny.TEXT, tiny.OTHER_TEXT, tiny.QUESTIONS):
        shutil.copy(path, folder / "data" / path.name)
    values = tiny.values(Path("models/tiny"), gains__grid=[1.0, 1.3], events__target_rates=[8e-3], statistics__bootstrap_reps=40)
    (folder / "own.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")}
    environment |= {
        "PYTHONPATH": str(tiny.REPO),
        "HOME": str(folder / f"{CANARY}-home"),
        "USER": f"{CANARY}-user",
        "LOGNAME": f"{CANARY}-user",
        "HOSTNAME": f"{CANARY}-host",
        "AVALANCHE_SECRET": f"{CANARY}-token",
        "HF_TOKEN": f"{CANARY}-token",
        "DAGSTER_HOME": str(folder / "dagster_home"),
    }
    command = [*namespace(), sys.executable, "-c", LAUNCHER, "run_all", "--config", "own.yaml", "--runs_dir", "runs"]
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert found.returncode == 0, found.stderr
    return folder / "runs"


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what its format packs."""
    data = path.read_bytes()
    yield data
    if path.suffix in (".npz", ".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield from (info.filename.encode() + archive.read(info) for info in archive.infolist())
    elif path.suffix == ".parquet":
        table = pq.ParquetFile(path)
        yield repr((table.metadata.metadata, table.schema_arrow)).encode()
        yield table.read().to_pandas().to_csv().encode()
    elif path.suffix == ".pdf":
        for stream in re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL):
            try:
                yield zlib.decompress(stream)
            except zlib.error:
                continue
    elif path.suffix == ".html":
        yield from (base64.b64decode(one) for one in re.findall(rb"base64,((?:[A-Za-z0-9+/]{4}){16,}[A-Za-z0-9+/=]{0,4})", data))


def test_every_phase_runs_without_a_network(told: Path) -> None:
    for stage in stages().values():
        assert read_record(tiny.run_of(told, stage.tag))["stage_status"] == "complete"


def test_no_file_of_a_run_names_the_machine_its_user_or_the_environment(told: Path) -> None:
    """Records, configs, logs, tables, figures, the report, the archive: every byte, unpacked."""
    secret = [CANARY, str(told.parent), str(tiny.REPO), str(Path.home()), "/tmp/", "site-packages"]
    seen = 0
    for path in sorted(path for path in told.rglob("*") if path.is_file()):
        if path.parent.name == "pack" or path.name == "release.zip":
            continue  # below
        for data in contents(path):
            seen += 1
            found = [word for word in secret if word.encode() in data]
            assert not found, f"{path.relative_to(told)} holds {found}"
    assert seen > 100


def test_the_archive_names_neither(told: Path) -> None:
    """Its pack is the source, which may say /tmp; a folder of this machine or a secret stands in none of it."""
    with zipfile.ZipFile(tiny.run_of(told, "S08") / "results" / "release.zip") as archive:
        for info in archive.infolist():
            words = (
                [str(told.parent), str(tiny.REPO)]
                if info.filename.startswith("pack/")
                else [str(told.parent), str(tiny.REPO), CANARY]
            )
            assert not [word for word in words if word.encode() in archive.read(info)], info.filename


def test_foreign_places_names_the_absolute_paths_that_a_release_would_tell(told: Path) -> None:
    values = {
        "models": {"INSTRUCT": {"hf_id": "/home/me/model"}, "BASE": None},
        "datasets": {"A": {"hf_id": "~/text.txt"}, "B": {"hf_id": "org/x"}},
        "paths": {"runs_dir": "/scratch/me"},
    }
    places = ["models.INSTRUCT.hf_id: /home/me/model", "datasets.A.hf_id: ~/text.txt", "paths.runs_dir: /scratch/me"]
    assert foreign_places(values) == places
    assert foreign_places(yaml.safe_load((tiny.run_of(told, "S08") / "config_resolved.yaml").read_bytes())) == []


def test_the_lock_has_hashes_for_every_pin_and_holds_every_dependency() -> None:
    text = (tiny.REPO / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    pins = {line.split("==")[0]: line for line in text.splitlines() if line and not line.startswith("#")}
    assert all(re.fullmatch(r"[a-z0-9-]+==[^\s;]+( +--hash=sha256:[0-9a-f]{64})+", line) for line in pins.values())
    project = tomllib.loads((tiny.REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["demo"],
        *project["optional-dependencies"]["dev"],
        "hatchling",
    ]
    names = {re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", one)[0]).lower() for one in wanted}  # type: ignore[index]
    assert not names - pins.keys()
    assert pins["torch"].count("--hash") >= 2
