"""The table that `run_all` ends with: branching over gain, g* with its status, and where everything was written."""

import json

import pandas as pd
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from avalanche_llm.io.store import Upstream

SHOWN = ("b_time", "b_depth", "b_tot", "delta_b_tot")
WITH_INTERVAL = ("delta_b_tot",)


def print_summary(runs: dict[str, Upstream], console: Console | None = None) -> None:
    """Print the branching table of one cell in full, g* of all cells, and the run directories."""
    console = console or Console()
    grid, chosen = runs["PHASE2_GAIN_GRID"], runs["PHASE2_SELECT_GSTAR"]
    metrics = pq.read_table(grid.artifact("metrics")).to_pandas()
    selections = json.loads(chosen.artifact("gstar").read_bytes())["selections"]
    nearest = min(selections, key=lambda row: row["distance"])
    console.print(_branching_table(metrics, nearest))
    console.print(_gstar_table(selections))
    console.print(
        "With independent sites b_tot is about twice the occupancy: b_tot near one alone measures density; delta_b_tot does not."
    )
    for run in runs.values():
        console.print(f"{run.folder}", soft_wrap=True, highlight=False)


def _branching_table(metrics: pd.DataFrame, cell: dict[str, object]) -> Table:
    rows = metrics[(metrics["spike_def_id"] == cell["spike_def_id"]) & (metrics["target_rate"] == cell["target_rate"])]
    table = Table(title=f"Branching of activation events: {_spikes(cell)}, rate {cell['target_rate']:g}")
    for name in ("g", "occupancy", "b_time", "b_depth", "b_tot", "delta_b_tot"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in rows.sort_values("g").iterrows():
        mark = " *" if row["g"] == cell["gstar"] else ""
        table.add_row(
            f"{row['g']:g}{mark}",
            f"{row['occupancy']:.3f}",
            *(f"{row[name]:.3f}" + _interval(row, name) for name in SHOWN),
        )
    return table


def _interval(row: pd.Series, name: str) -> str:
    if name not in WITH_INTERVAL:
        return ""
    return f" [{row[f'{name}_ci_low']:.3f}, {row[f'{name}_ci_high']:.3f}]"


def _gstar_table(selections: list[dict[str, object]]) -> Table:
    table = Table(title="g*: the gain of the grid with b_tot nearest one")
    for name in ("spikes", "rate", "g*", "interval", "b_tot", "|b_tot - 1|", "status"):
        table.add_column(name, justify="right")
    for row in selections:
        table.add_row(
            _spikes(row),
            f"{row['target_rate']:g}",
            f"{row['gstar']:g}",
            f"[{row['ci_low']:g}, {row['ci_high']:g}]",
            f"{row['b_tot']:.3f}",
            f"{row['distance']:.3f}",
            str(row["status"]),
        )
    return table


def _spikes(row: dict[str, object]) -> str:
    return "one-sided" if row["spike_def_id"] == "SPIKE_ONE_SIDED_POS" else "two-sided"
