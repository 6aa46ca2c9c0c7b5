"""`runs list` and `runs show`: what is below the runs folder, what each run found, and what rests on what. Reads records only.

A run's key numbers come from its own small artifacts; their hashes are not checked here, `verify` does that.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from avalanche_llm.errors import MissingArtifact, SchemaError
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.io.files import read_frame, read_json, read_rows
from avalanche_llm.io.store import RunStore
from avalanche_llm.run_id import RUN_ID, check_run_id


@dataclass(frozen=True)
class Entry:
    """One run directory. status: complete, started (incomplete) or damaged; record is empty for a damaged one."""

    folder: Path
    status: str
    record: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def upstream(self) -> list[str]:
        """Run ids that it read."""
        return [dependency["run_id"] for dependency in self.record.get("dependencies", ())]

    def numbers(self) -> str:
        """What the run found, in a few words; empty where there is nothing short to say."""
        summarise = KEY_NUMBERS.get(self.record.get("phase_id", ""))
        if summarise is None or self.status != "complete":
            return ""
        try:
            return summarise(self)
        except (OSError, ValueError, LookupError, TypeError, MissingArtifact) as error:
            return f"unreadable: {error}"

    def path(self, artifact: str) -> Path:
        """Where an artifact lies."""
        return self.folder / str(self.record["artifacts"][artifact])


def entries(store: RunStore) -> Iterator[Entry]:
    """Every run directory by name, damaged ones included."""
    for folder in sorted(store.root.glob("RUN_*")):
        if RUN_ID.fullmatch(folder.name) and folder.is_dir():
            yield _entry(folder)


def find(store: RunStore, run_id: str) -> Entry:
    """One run. MissingArtifact when there is none, with the nearest names there are."""
    folder = store.root / check_run_id(run_id)
    if not folder.is_dir():
        raise store.absent(run_id)
    return _entry(folder)


def downstream(store: RunStore, run_id: str) -> list[str]:
    """Run ids that read this one."""
    return [entry.run_id for entry in entries(store) if run_id in entry.upstream]


def _entry(folder: Path) -> Entry:
    try:
        record = read_record(folder)
    except SchemaError:
        return Entry(folder, "damaged", {})
    return Entry(folder, str(record["stage_status"]), record)


def _calibration(entry: Entry) -> str:
    found = read_json(entry.path("rate_targets"), "spike_defs", "silent_units")
    definitions = found["spike_defs"]
    rates = [target["target_rate"] for target in definitions[0]["targets"]]
    spans = f"{len(definitions)} definitions, {len(rates)} rates from {min(rates):g} to {max(rates):g}"
    return f"{spans}; {found['silent_units']} silent units"


def _grid(entry: Entry) -> str:
    b_tot = read_frame(entry.path("metrics"), ["b_tot"])["b_tot"]
    return f"b_tot {b_tot.min():.3f} to {b_tot.max():.3f} over {len(b_tot)} conditions"


def _gstar(entry: Entry) -> str:
    rows = read_rows(entry.path("gstar"), "selections", "gstar", "status")
    gains = sorted({row["gstar"] for row in rows})
    bracketed = sum(row["status"] == "bracketed" for row in rows)
    return f"g* {', '.join(f'{gain:g}' for gain in gains)}; {bracketed} of {len(rows)} bracketed"


def _held_out(entry: Entry) -> str:
    off = read_frame(entry.path("metrics"), ["heldout_rate_max_rel_err"])["heldout_rate_max_rel_err"]
    return f"held-out rates off by up to {off.max():.0%}"


def _marginals(entry: Entry) -> str:
    exact = read_frame(entry.path("null_marginals"), ["marginals_exact"])["marginals_exact"]
    return f"marginals exact in {int(exact.sum())} of {len(exact)} surrogates"


def _analysis(entry: Entry) -> str:
    summary = read_frame(entry.path("T01_SUMMARY_parquet"), ["g", "delta_b_tot"])
    excess = summary.loc[summary["g"] == 1.0, "delta_b_tot"]
    return f"delta_b_tot at g = 1: {excess.min():.3f} to {excess.max():.3f}" if len(excess) else ""  # the grid may leave 1 out


def _generalized(entry: Entry) -> str:
    rows = read_frame(entry.path("T02_GENERALIZATION_parquet"), ["g_condition", "nll_mean"])
    of = rows.groupby("g_condition")["nll_mean"]
    return f"NLL {of.min()['g1']:.3f} at g = 1, {of.min()['gstar']:.3f} to {of.max()['gstar']:.3f} at g*"


def _questions(entry: Entry) -> str:
    rows = read_frame(entry.path("T03_ARC_parquet"), ["g_condition", "accuracy"])
    of = rows.groupby("g_condition")["accuracy"]
    return f"accuracy {of.min()['g1']:.3f} at g = 1, {of.min()['gstar']:.3f} to {of.max()['gstar']:.3f} at g*"


def _claims(entry: Entry) -> str:
    counts = Counter(claim["verdict"] for claim in read_rows(entry.path("claims"), "claims", "verdict"))
    return "claims: " + ", ".join(f"{number} {verdict}" for verdict, number in counts.most_common())


def _released(entry: Entry) -> str:
    files = len(entry.path("manifest").read_bytes().splitlines())
    return f"{files} files, {entry.path('release_zip').stat().st_size / 2**20:.1f} MiB"


KEY_NUMBERS: Final[Mapping[str, Callable[[Entry], str]]] = MappingProxyType(
    {
        "PHASE1_CALIBRATE": _calibration,
        "PHASE2_GAIN_GRID": _grid,
        "PHASE2_SELECT_GSTAR": _gstar,
        "PHASE3_EXTRACT_RASTERS": _held_out,
        "PHASE4_RUN_NULLS": _marginals,
        "PHASE5_ANALYZE_AND_EXPORT": _analysis,
        "PHASE6_GENERALIZE_B_METRICS": _generalized,
        "PHASE6_ARC_MCQ_EVAL": _questions,
        "PHASE7_PAPER_EXPORT": _claims,
        "PHASE8_RELEASE": _released,
    }
)
