"""What `run_all` ends with: branching over gain, g* with its status, what carried over, and where to look."""

import math
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
from rich.console import Console
from rich.table import Table

from avalanche_llm.io.files import read_frame, read_json
from avalanche_llm.io.store import Upstream
from avalanche_llm.metrics.gstar import CRITERIA, shown_first
from avalanche_llm.paper.facts import NOT_AVAILABLE
from avalanche_llm.phases.upstream_files import gstar_rows
from avalanche_llm.plotting.columns import SPIKE_NAMES
from avalanche_llm.settings import GstarMethod

SHOWN: Final = ("occupancy", "b_time", "b_depth", "b_tot", "delta_b_tot")


def print_summary(runs: dict[str, Upstream], console: Console | None = None) -> None:
    """Print the branching table of one cell in full, g* of all cells and what it does elsewhere, and where to look first."""
    console = console or Console()
    grid, chosen = runs["PHASE2_GAIN_GRID"], runs["PHASE2_SELECT_GSTAR"]
    selections, method = gstar_rows(chosen), read_json(chosen.artifact("gstar"), "method")["method"]
    console.print(_branching_table(read_frame(grid.artifact("metrics")), shown_first(selections, method)))
    console.print(_gstar_table(selections, method))
    console.print(
        "With independent sites b_tot is about twice the occupancy: b_tot near one alone measures density; delta_b_tot does not."
    )
    console.print(_carried_over_table(runs["PHASE6_GENERALIZE_B_METRICS"], runs["PHASE6_ARC_MCQ_EVAL"]))
    places = {
        "report for a browser": runs["REPORT"].artifact("report"),
        "where to look first": runs["PHASE7_PAPER_EXPORT"].artifact("paper_snapshot"),
        "every claim": runs["PHASE7_PAPER_EXPORT"].artifact("paper_claims"),
        "figures": runs["PHASE5_ANALYZE_AND_EXPORT"].folder / "figs",
        "tables": runs["PHASE5_ANALYZE_AND_EXPORT"].folder / "tables",
        "archive": runs["PHASE8_RELEASE"].artifact("release_zip"),
    }
    for what, path in places.items():
        console.print(f"{what + ':':21} {path}", soft_wrap=True, highlight=False, markup=False)  # a folder may be called [x]


def _branching_table(metrics: pd.DataFrame, cell: Mapping[str, Any]) -> Table:
    rows = metrics[(metrics["spike_def_id"] == cell["spike_def_id"]) & (metrics["target_rate"] == cell["target_rate"])]
    table = Table(title=f"Branching of activation events: {_spikes(cell)}, rate {cell['target_rate']:g}")
    for name in ("g", *SHOWN):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in rows.sort_values("g").iterrows():
        mark = " *" if row["g"] == cell["gstar"] else ""
        *values, excess = (_number(row[name]) for name in SHOWN)
        table.add_row(f"{row['g']:g}{mark}", *values, excess + _interval(row))
    return table


def _interval(row: pd.Series) -> str:
    """That of delta_b_tot; few pairs leave none (spec 05)."""
    low, high = row["delta_b_tot_ci_low"], row["delta_b_tot_ci_high"]
    return ", no interval" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"


def _gstar_table(selections: list[dict[str, Any]], method: GstarMethod) -> Table:
    """g* of every cell: what the rule looks at, b_tot where that is something else, and how far b_tot is from one."""
    rule = CRITERIA[method]
    shown = {rule.quantity: "criterion", "b_tot": "b_tot", "|b_tot - 1|": "distance"}
    table = Table(title=f"g*: the gain of the grid with {rule.rule}")
    for name in ("spikes", "rate", "g*", "interval", *shown, "status"):
        table.add_column(name, justify="right")
    for row in selections:
        table.add_row(
            _spikes(row),
            f"{row['target_rate']:g}",
            f"{row['gstar']:g}",
            "none" if row["ci_low"] is None else f"[{row['ci_low']:g}, {row['ci_high']:g}]",
            *(_number(row[column]) for column in shown.values()),
            str(row["status"]),
        )
    return table


def _carried_over_table(other_text: Upstream, questions: Upstream) -> Table:
    """T02 and T03 side by side, a row a condition. NLL in nats per token, accuracy as a share of the questions."""
    key = ["spike_def_id", "target_rate", "g_condition"]
    text = read_frame(other_text.artifact("T02_GENERALIZATION_parquet"))
    arc = read_frame(questions.artifact("T03_ARC_parquet"))
    both = text.merge(arc[[*key, "accuracy"]], on=key, validate="one_to_one")
    table = Table(title="Data set B and the questions, at g = 1 and at the g* of data set A")
    for name in ("spikes", "rate", "g", "b_tot", "delta_b_tot", "NLL", "accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in both.to_dict("records"):
        table.add_row(
            _spikes(row),
            f"{row['target_rate']:g}",
            f"{row['g']:g}" + (" *" if row["g_condition"] == "gstar" else ""),
            *(_number(row[name]) for name in ("b_tot", "delta_b_tot", "nll_mean", "accuracy")),
        )
    return table


def _number(value: float) -> str:
    """Three decimals; a silent raster has no value (spec 05)."""
    return NOT_AVAILABLE if math.isnan(value) else f"{value:.3f}"


def _spikes(row: Mapping[Any, Any]) -> str:
    return SPIKE_NAMES[row["spike_def_id"]]
