"""What `run_all` ends with follows the rule that chose g*: the cell it shows in full, the columns and the title of the choices."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from avalanche_llm.settings import GstarMethod
from avalanche_llm.summary import print_summary

CELLS = [
    ("SPIKE_ONE_SIDED_POS", 1e-4),
    ("SPIKE_ONE_SIDED_POS", 2e-4),
    ("SPIKE_TWO_SIDED_ABS", 1e-4),
    ("SPIKE_TWO_SIDED_ABS", 2e-4),
]
CRITERIA: dict[str, list[float]] = {
    "btot_near_one": [0.52, 0.71, 0.93, 1.21],
    "excess_peak": [0.25, 0.29, 0.27, 0.17],
    "mr_near_one": [0.961, 0.952, 0.944, 0.973],
}


@dataclass(frozen=True)
class Files:
    """A run as `print_summary` reads it: artifacts by name in a folder."""

    folder: Path

    def artifact(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Any]:
    keys = [{"spike_def_id": spike_def, "target_rate": rate} for spike_def, rate in CELLS]
    names = ("b_time", "b_depth", "b_tot", "delta_b_tot", "delta_b_tot_ci_low", "delta_b_tot_ci_high", "occupancy")
    numbers = dict.fromkeys(names, 0.5)
    pd.DataFrame([{**key, "g": g, **numbers} for key in keys for g in (0.8, 1.0)]).to_parquet(tmp_path / "metrics")
    carried = pd.DataFrame([{**key, "g_condition": "gstar", "g": 0.8, **numbers, "nll_mean": 4.0} for key in keys])
    carried.to_parquet(tmp_path / "T02_GENERALIZATION_parquet")
    carried.assign(accuracy=0.25).to_parquet(tmp_path / "T03_ARC_parquet")
    return dict.fromkeys(
        (
            "PHASE2_GAIN_GRID",
            "PHASE2_SELECT_GSTAR",
            "PHASE5_ANALYZE_AND_EXPORT",
            "PHASE6_GENERALIZE_B_METRICS",
            "PHASE6_ARC_MCQ_EVAL",
            "PHASE7_PAPER_EXPORT",
            "PHASE8_RELEASE",
            "REPORT",
        ),
        Files(tmp_path),
    )


def selections_of(method: GstarMethod) -> list[dict[str, Any]]:
    """gstar.json's rows, one a cell."""
    return [
        {
            **dict(zip(("spike_def_id", "target_rate"), cell, strict=True)),
            **{"gstar": 0.8, "criterion": criterion, "distance": 0.1, "status": "grid_edge"},
            "b_tot": criterion if method == "btot_near_one" else 0.9,
            **{"ci_low": 0.8, "ci_high": 1.0},
        }
        for cell, criterion in zip(CELLS, CRITERIA[method], strict=True)
    ]


def printed_of(method: GstarMethod, runs: dict[str, Any], tmp_path: Path) -> str:
    """The summary as a wide terminal shows it."""
    (tmp_path / "gstar").write_text(json.dumps({"method": method, "selections": selections_of(method)}), encoding="utf-8")
    console = Console(width=200, record=True, force_terminal=False)
    print_summary(runs, console)
    return console.export_text()


@pytest.mark.parametrize(
    ("method", "first", "title", "heads"),
    [
        ("btot_near_one", "two-sided, rate 0.0001", "b_tot nearest one", ["b_tot", "|b_tot - 1|"]),
        ("excess_peak", "one-sided, rate 0.0002", "the largest delta_b_tot", ["delta_b_tot", "b_tot", "|b_tot - 1|"]),
        ("mr_near_one", "two-sided, rate 0.0002", "m along tokens nearest one", ["m", "b_tot", "|b_tot - 1|"]),
    ],
)
def test_the_summary_follows_the_rule_that_chose_gstar(
    method: GstarMethod, first: str, title: str, heads: list[str], runs: dict[str, Any], tmp_path: Path, unannotated: None
) -> None:
    printed = printed_of(method, runs, tmp_path)
    assert f"Branching of activation events: {first}" in printed
    assert f"g*: the gain of the grid with {title}" in printed
    row = next(line for line in printed.splitlines() if "interval" in line and "status" in line)
    assert [cell.strip() for cell in row.strip("┃┏┓ ").split("┃")] == ["spikes", "rate", "g*", "interval", *heads, "status"]
    assert all(f"{criterion:.3f}" in printed for criterion in CRITERIA[method])


def test_the_summary_says_where_there_is_no_value(runs: dict[str, Any], tmp_path: Path, unannotated: None) -> None:
    """Few pairs leave no interval (spec 05), and thresholds of data set A may leave data set B silent (spec 17)."""
    metrics = pd.read_parquet(tmp_path / "metrics")
    metrics.assign(delta_b_tot_ci_low=float("nan"), delta_b_tot_ci_high=float("nan")).to_parquet(tmp_path / "metrics")
    carried = pd.read_parquet(tmp_path / "T02_GENERALIZATION_parquet")
    carried.assign(b_tot=float("nan"), delta_b_tot=float("nan")).to_parquet(tmp_path / "T02_GENERALIZATION_parquet")
    printed = printed_of("btot_near_one", runs, tmp_path)
    cells = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines()]
    assert [row[-2] for row in cells if row[-2:] == ["0.500, no interval", ""]] == ["0.500, no interval"] * 2
    assert sum(row[4:6] == ["n/a", "n/a"] for row in cells) == len(CELLS)  # b_tot and delta_b_tot of data set B
    assert " nan" not in printed


def test_the_summary_prints_a_path_as_it_is(runs: dict[str, Any], tmp_path: Path, unannotated: None) -> None:
    """To rich, [x] is markup unless it is told otherwise."""
    folder = tmp_path / "runs [x]"
    folder.mkdir()
    for path in tmp_path.glob("[mT]*"):
        path.rename(folder / path.name)
    printed = printed_of("btot_near_one", dict.fromkeys(runs, Files(folder)), folder)
    assert f"{folder / 'paper_claims'}" in printed
