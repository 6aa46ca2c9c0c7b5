"""The tables of a run made again from artifacts, without the model, and compared byte for byte with the recorded ones (spec 21).

A phase that has tables offers `tables(job, run) -> {table_id: frame}`; the phase itself writes what that function returns.
"""

import io
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pandas as pd
import pyarrow.parquet as pq

from avalanche_llm.errors import AvalancheError
from avalanche_llm.io.artifacts import CONFIG_NAME, index_by_path, read_record
from avalanche_llm.io.hashing import code_version, sha256_bytes
from avalanche_llm.io.new_record import library_versions
from avalanche_llm.io.store import Upstream
from avalanche_llm.phases.job import JobRequest
from avalanche_llm.plotting.export import table_files
from avalanche_llm.plotting.schemas import SCHEMAS
from avalanche_llm.plotting.tables import to_csv_bytes
from avalanche_llm.release.chain import Finding, Status

MODULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "PHASE5_ANALYZE_AND_EXPORT": "analysis_tables",
        "PHASE6_GENERALIZE_B_METRICS": "generalize",
        "PHASE6_ARC_MCQ_EVAL": "arc",
        "PHASE7_PAPER_EXPORT": "paper_export",
    }
)
"""The module below `avalanche_llm.phases` that makes a phase's tables."""
FORMS: Final = ("csv", "parquet")


def remade_tables(run: Upstream) -> Iterator[Finding]:
    """Make every table of a run again: a remark if all bytes agree, else what differs first in each file that does."""
    module = MODULES.get(run.phase_id)
    if module is None:
        return
    other = other_versions(run.record)
    try:
        job = JobRequest(run.folder / CONFIG_NAME, runs_dir=run.folder.parent, pinned=_nearest_first(run)).job()
        made = import_module(f"avalanche_llm.phases.{module}").tables(job, run)
        files = {name: data for table_id, frame in made.items() for name, data in table_files(table_id, frame).items()}
    except Exception as error:  # whatever a changed file or other code may bring is a finding about this run
        said = str(error) if isinstance(error, AvalancheError) else f"{type(error).__name__}: {error}"
        by_this_code = run.record["hashes"]["code_version"] == code_version()
        status: Status = "changed" if by_this_code else "incomplete"
        yield Finding(status, f"its tables cannot be made again: {said.splitlines()[0]}{other}")
        return
    recorded = {f"{table_id}_{form}" for table_id in SCHEMAS for form in FORMS} & run.record["artifacts"].keys()
    differing = [
        Finding("changed", f"{problem}{other}")
        for name in sorted(recorded | files.keys())
        if (problem := _difference(run, name, files.get(name)))
    ]
    yield from differing or [Finding("intact", f"made again, equal: {', '.join(made) or 'no table'}{other}")]


def other_versions(record: Mapping[str, Any]) -> str:
    """In words, what made the run where it is not what is here; empty if nothing differs."""
    made = {"code": record["hashes"]["code_version"], **record["versions"]}
    here = {"code": code_version(), **library_versions()}
    unequal = [f"{name} {made.get(name)}, here {here.get(name)}" for name in here if made.get(name) != here.get(name)]
    return f" (made by {'; '.join(unequal)})" if unequal else ""


def _nearest_first(run: Upstream) -> tuple[str, ...]:
    """What the run read, then what that read: the job finds these very runs, also beside others that fit its config."""
    run_ids = [run.run_id]
    for run_id in run_ids:
        read = [dependency["run_id"] for dependency in read_record(run.folder.parent / run_id)["dependencies"]]
        run_ids += [upstream for upstream in read if upstream not in run_ids]
    return tuple(run_ids[1:])


def _difference(run: Upstream, name: str, made: bytes | None) -> str:
    """Where one recorded file and the bytes made again first differ; empty if they do not."""
    if name not in run.record["artifacts"]:
        return f"{name}: the artifacts make it, but it is not on record"
    relative = run.record["artifacts"][name]
    if made is None:
        return f"{relative}: it is on record, but the artifacts do not make it"
    if sha256_bytes(made) == index_by_path(run.record)[relative]["sha256"]:
        return ""
    table_id, _, form = name.rpartition("_")
    try:
        return f"{relative}: {_first_cell(table_id, _cells(run.folder / relative, form), _cells(io.BytesIO(made), form))}"
    except (OSError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
        return f"{relative}: it cannot be read as a table: {said.splitlines()[0]}"


def _cells(source: Path | io.BytesIO, form: str) -> pd.DataFrame:
    """Every cell as the text that the CSV has for it."""
    if form == "parquet":
        with pq.ParquetFile(source) as file:  # read_table would add a column for a folder named a=b
            source = io.BytesIO(to_csv_bytes(file.read().to_pandas()))
    return pd.read_csv(source, dtype=str, keep_default_na=False)


def _first_cell(table_id: str, recorded: pd.DataFrame, made: pd.DataFrame) -> str:
    if list(recorded.columns) != list(made.columns):
        return f"columns {list(recorded.columns)}, expected {list(made.columns)}"
    if len(recorded) != len(made):
        return f"{len(recorded)} rows, expected {len(made)}"
    unequal = recorded.ne(made).to_numpy()
    if not unequal.any():
        return "the same values in other bytes"
    row, column = divmod(int(unequal.argmax()), unequal.shape[1])
    name, was, now = made.columns[column], recorded.iloc[row], made.iloc[row]
    key = ", ".join(f"{part}={now[part]}" for part in SCHEMAS[table_id].key)
    return f"row {row} ({key}), column {name}: {was[name] or 'nothing'} on record, {now[name] or 'nothing'} made again"
