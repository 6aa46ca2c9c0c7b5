"""The run catalogue on a terminal: one line a run, or one run in full."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from avalanche_llm.catalog import Entry, downstream
from avalanche_llm.cost import GIB
from avalanche_llm.io.store import RunStore

WIDE = 120
"""Columns from which the whole name of a phase fits beside what its run found."""
PIPED = 200
COLOURS = {"complete": "green", "started": "yellow", "damaged": "red"}


def print_list(found: Sequence[Entry], root: Path, console: Console | None = None) -> None:
    """One row a run, oldest first; in a file or a pipe one line a run."""
    console = console or _console()
    if not found:
        console.print(f"no runs under {root}; python -m avalanche_llm run_all makes them", markup=False, highlight=False)
        return
    table, short = Table(box=None, pad_edge=False), console.width < WIDE
    for name in ("run", "phase", "role", "status"):
        table.add_column(name, no_wrap=True)
    table.add_column("found", overflow="fold")
    for entry in sorted(found, key=lambda entry: str(entry.record.get("created_utc", ""))):
        role = entry.record.get("model", {}).get("role", "")
        phase = _phase(entry).split("_")[0] if short else _phase(entry)
        # Text: in a plain string rich would take what stands in brackets for a style
        table.add_row(entry.run_id, phase, role, Text(entry.status, COLOURS[entry.status]), Text(entry.numbers()))
    console.print(table)


def print_run(entry: Entry, store: RunStore, console: Console | None = None) -> None:
    """Everything that a reader asks of one run first: state, model, data, what it found, upstream, downstream, artifacts."""
    console = console or _console()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(entry, store):
        table.add_row(name, Text(value))
    console.print(table, highlight=False)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PIPED)


def _facts(entry: Entry, store: RunStore) -> list[tuple[str, str]]:
    facts = [("run", str(entry.folder)), ("status", entry.status)]
    record = entry.record
    if not record:
        return [*facts, ("record", "cannot be read; verify says why")]
    model, hashes = record["model"], record["hashes"]
    data = [f"{role}: {one['n_windows']} windows of {one['id']}" for role, one in record["dataset"].items() if "n_windows" in one]
    rows = [
        *facts,
        ("phase", _phase(entry)),
        ("found", entry.numbers()),
        ("model", f"{model['role']} {model['id']} on {model['device']} in {model['dtype']}"),
        ("data", "; ".join(data)),
        ("config", hashes["config_sha256"]),
        ("code", hashes["code_version"]),
        ("created", f"{record['created_utc']}, completed {record['completed_utc'] or 'not yet'}"),
        ("seconds", ", ".join(f"{name} {seconds:g}" for name, seconds in record["timings"].items())),
        ("reads", "\n".join(entry.upstream)),
        ("read by", "\n".join(downstream(store, entry.run_id))),
        ("artifacts", "\n".join(f"{one['relative_path']}  {_size(one['bytes'])}" for one in record["artifact_index"])),
    ]
    return [(name, value) for name, value in rows if value]


def _phase(entry: Entry) -> str:
    return str(entry.record.get("phase_id", "")).lower()


def _size(n_bytes: int) -> str:
    for unit, name in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.1f} {name}"
    return f"{n_bytes} B" if n_bytes else ""
