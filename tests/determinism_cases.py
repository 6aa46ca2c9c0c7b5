"""One calibration and grid under other outer conditions, and how far their artifacts differ (spec 16): `python tests/determinism_cases.py`.

Every case runs phases 1, 2 and the choice of g* in a process of its own, from a folder of its own, and is compared with the first:
the same phase twice, another PYTHONHASHSEED, another working folder, two threads, other batch sizes. A batch size is part of the config,
so those runs have other ids; thresholds, events and rasters are compared by value. Differences are those of float summation order.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml

from avalanche_llm.io.files import read_npz

PHASES: Final = ("phase1_calibrate", "phase2_gain_grid", "phase2_select_gstar", "phase3_extract_rasters")
PROCESS: Final = """
import sys
from avalanche_llm.cli import main
for phase in sys.argv[1:]:
    code = main([phase, "--config", "own.yaml", "--runs_dir", "runs"])
    if code:
        sys.exit(code)
"""
TAGS: Final = ("S01", "S02", "S02B", "S03")


@dataclass(frozen=True)
class Case:
    """What is unlike the first run."""

    name: str
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    batch_windows: int | None = None


def cases(batches: tuple[int, ...]) -> list[Case]:
    """The first is what the others are compared with."""
    return [
        Case("one thread"),
        Case("again, elsewhere"),
        Case("hash seed 4242", {"PYTHONHASHSEED": "4242"}),
        Case("two threads", {"OMP_NUM_THREADS": "2"}),
        *(Case(f"batches of {size}", batch_windows=size) for size in batches),
    ]


@dataclass(frozen=True)
class Difference:
    """Largest differences of one case from the first; counts are of rows or sites. Zero everywhere is equality."""

    same_bytes: bool
    mu_sigma_rel: float
    tau_abs: float
    events_unlike: int
    n_events: int
    sites_unlike: int
    n_sites: int
    gstar_unlike: int

    def text(self) -> str:
        """One line."""
        if self.same_bytes:
            return "equal bytes"
        return (
            f"mu, sigma {self.mu_sigma_rel:.1e} relative; tau {self.tau_abs:.1e}; candidate events unlike {self.events_unlike} of "
            f"{self.n_events}; raster sites unlike {self.sites_unlike} of {self.n_sites}; g* unlike {self.gstar_unlike}"
        )


def run_case(case: Case, config: Mapping[str, Any], folder: Path, phases: Sequence[str] = PHASES) -> dict[str, Path]:
    """The run folders of one case by tag."""
    folder.mkdir(parents=True)
    changed = dict(config)
    if case.batch_windows is not None:
        changed["pipeline"] = {**config.get("pipeline", {}), "batch_windows": case.batch_windows}
    (folder / "own.yaml").write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DAGSTER_HOME": str(folder / "home")} | case.environment
    command = [sys.executable, "-c", PROCESS, *phases]
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"{case.name}: {found.stderr}")
    return {tag: next((folder / "runs").glob(f"RUN_{tag}_*")) for tag in TAGS[: len(phases)]}


def compare(first: Mapping[str, Path], other: Mapping[str, Path]) -> Difference:
    """How the artifacts of two cases differ."""
    stats = [read_npz(runs["S01"] / "results" / "calibration_stats.npz", {"mu": 2, "sigma": 2}) for runs in (first, other)]
    relative = max(
        float((np.abs(stats[0][name] - stats[1][name]) / (np.abs(stats[0][name]) + stats[0]["sigma"])).max())
        for name in ("mu", "sigma")
    )
    taus = [pd.read_parquet(runs["S02"] / "results" / "tau_rate_matched.parquet") for runs in (first, other)]
    numbers = [name for name in taus[0].columns if name.startswith("tau")]
    key = ["gain_id", "seq_id", "layer", "token", "unit"]
    events = [
        set(
            pd.read_parquet(runs["S02"] / "results" / "activation_events.parquet", columns=key).itertuples(index=False, name=None)
        )
        for runs in (first, other)
    ]
    rasters = [read_npz(runs["S03"] / "results" / "rasters_token_layer.npz", {"X": 4})["X"] for runs in (first, other)]
    chosen = [
        [row["gstar"] for row in json.loads((runs["S02B"] / "results" / "gstar.json").read_bytes())["selections"]]
        for runs in (first, other)
    ]
    return Difference(
        all(equal_results(first[tag], other[tag]) for tag in TAGS),
        relative,
        max(float(np.nanmax(np.abs(np.stack(taus[0][name]) - np.stack(taus[1][name])))) for name in numbers),
        len(events[0] ^ events[1]),
        len(events[0]),
        int((rasters[0] != rasters[1]).sum()) if rasters[0].shape == rasters[1].shape else rasters[0].size,
        rasters[0].size,
        sum(one != two for one, two in zip(*chosen, strict=True)),
    )


def equal_results(first: Path, other: Path) -> bool:
    """Whether every file of results/ has the same bytes."""
    names = sorted(path.name for path in (first / "results").iterdir())
    return names == sorted(path.name for path in (other / "results").iterdir()) and all(
        (first / "results" / name).read_bytes() == (other / "results" / name).read_bytes() for name in names
    )


def main() -> None:
    """Print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a config whose paths are absolute")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 3])
    arguments = parser.parse_args()
    config = yaml.safe_load(arguments.config.read_bytes())
    if "extends" in config:
        config["extends"] = str((arguments.config.parent / config["extends"]).resolve())
    with tempfile.TemporaryDirectory() as name:
        first, *others = cases(tuple(arguments.batches))
        reference = run_case(first, config, Path(name) / "case 0")
        for place, case in enumerate(others, start=1):
            print(f"{case.name}: {compare(reference, run_case(case, config, Path(name) / f'case {place}')).text()}", flush=True)


if __name__ == "__main__":
    main()
