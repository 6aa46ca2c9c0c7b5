"""The Dagster instance that the command line records to: DAGSTER_HOME, or a folder of the project."""

import fcntl
import logging
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import dagster as dg
import psutil
from dagster import DagsterRunStatus, RunsFilter
from dagster._core.instance.ref import InstanceRef
from sqlalchemy.exc import DBAPIError

from avalanche_llm.errors import EnvironmentProblem
from avalanche_llm.io.files import raw, write_atomically

DEFAULT_HOME: Final = ".dagster_home"
PID_TAG: Final = "avalanche/pid"
HOST_TAG: Final = "avalanche/host"
RAY_STEP: Final = "DAGSTER_RUN_STEP_KEY"
"""Set by dagster-ray in the process of a step."""
OVERRIDES: Final[Any] = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}
"""A terminal shows what a phase prints. Dagster would copy it through four processes, which print tracebacks at Ctrl-C."""
UNFINISHED: Final = [DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.CANCELING]


def dagster_home() -> Path:
    """DAGSTER_HOME made usable: absolute, there, writable, with our dagster.yaml. EnvironmentProblem if it cannot be."""
    configured = os.environ.get("DAGSTER_HOME")
    home = Path(configured).expanduser() if configured else Path.cwd() / DEFAULT_HOME
    if not home.is_absolute():
        raise EnvironmentProblem(
            f"DAGSTER_HOME must be an absolute path, found {configured!r}; use DAGSTER_HOME=$PWD/{configured}"
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
        if not (home / "dagster.yaml").exists():
            ours = Path(__file__).with_name("dagster.yaml").read_bytes()
            write_atomically(home / "dagster.yaml", raw(ours))  # another command may be reading it
    except OSError as error:
        raise EnvironmentProblem(
            f"DAGSTER_HOME {home} cannot be written: {error.strerror or error}; set it to a folder of yours"
        ) from error
    os.environ["DAGSTER_HOME"] = str(home)
    return home


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """The instance of `dagster_home`, with the slots of dead runs freed."""
    home = dagster_home()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with recording(home), ExitStack() as stack:
        with _alone_in(home):
            instance = stack.enter_context(dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=OVERRIDES)))
            _ = instance.run_storage, instance.event_log_storage, instance.schedule_storage  # opening them makes their tables
        free_slots_of_dead_runs(instance)
        yield instance


@contextmanager
def recording(home: Path) -> Iterator[None]:
    """A database of Dagster that cannot be written or reached is an EnvironmentProblem: its disk is full or read-only, say."""
    try:
        yield
    except DBAPIError as error:
        raise EnvironmentProblem(
            f"DAGSTER_HOME {home} cannot be written: {error.orig}; free space or rights are needed, or another DAGSTER_HOME"
        ) from error


@contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """Other commands on this home wait: Dagster makes the tables of a new SQLite file without asking whether another does."""
    with (home / ".opening").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def free_slots_of_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs of this machine's command line whose process is gone as failed, give their pool slots back; their ids.

    An instance on Postgres holds runs of other machines too: whether those live cannot be seen from here.
    """
    freed = []
    for run in instance.get_runs(RunsFilter(statuses=UNFINISHED)):
        pid, _, started = run.tags.get(PID_TAG, "").partition("@")
        here = run.tags.get(HOST_TAG, platform.node()) == platform.node()
        if pid and here and not process_lives(int(pid), started):
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            instance.report_run_failed(run, "the process of this run is gone")
            freed.append(run.run_id)
    return freed


def claim_run(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
    """Put this process on record as the one of the run, so that its slots are freed where it is killed.

    The command line does so before the run; the UI, `dagster asset materialize` and `dg launch` start runs without it, and what
    the UI runs again inherits the tags of a run whose process may be gone. Not on Ray, where each step has a process of its own
    and a run outlives them.
    """
    if RAY_STEP not in os.environ and any(context.run.tags.get(name) != tag for name, tag in process_tags().items()):
        context.instance.add_run_tags(context.run.run_id, process_tags())


def process_tags() -> dict[str, str]:
    """What tells a later process which process a run belongs to, and on which machine."""
    return {PID_TAG: process_tag(), HOST_TAG: platform.node()}


def process_tag() -> str:
    """This process as pid@start time, which a later process with the same pid does not share."""
    process = psutil.Process()
    return f"{process.pid}@{process.create_time()}"


def process_lives(pid: int, started: str) -> bool:
    """Whether the process with that pid and start time is alive."""
    try:
        return str(psutil.Process(pid).create_time()) == started
    except psutil.NoSuchProcess:
        return False
