"""T07: BASE beside INSTRUCT, each at its own g*, a row a cell that both have (SCIENCE section 7; spec 18)."""

from collections.abc import Hashable, Mapping
from typing import Any, Final

import pandas as pd

from avalanche_llm.io.artifacts import RunArtifacts
from avalanche_llm.io.files import read_frame
from avalanche_llm.io.store import Upstream
from avalanche_llm.phases.upstream_files import gstar_rows
from avalanche_llm.plotting.export import checked_table
from avalanche_llm.stages import stages

TABLE_ID: Final = "T07_REPLICATION_SUMMARY"


def replication_table(run: RunArtifacts, own: Mapping[str, Upstream], twin: Mapping[str, Upstream]) -> pd.DataFrame:
    """The table of a phase 7 run from the runs of both roles."""
    sides = {side["PHASE5_ANALYZE_AND_EXPORT"].record["model"]["role"].lower(): side for side in (own, twin)}
    at_gstar = {role: _at_gstar(side) for role, side in sides.items()}
    rows = []
    for cell in sorted(at_gstar["base"].keys() & at_gstar["instruct"].keys()):
        row = {
            "run_id": run.run_id,
            "stage_id": stages()["PHASE7_PAPER_EXPORT"].tag,
            "spike_def_id": cell[0],
            "target_rate": cell[1],
        }
        for role, side in sides.items():
            analysis = side["PHASE5_ANALYZE_AND_EXPORT"]
            found = at_gstar[role][cell]
            row |= {
                f"model_id_{role}": analysis.record["model"]["id"],
                f"run_id_s05_{role}": analysis.run_id,
                f"gstar_{role}": float(found["g"]),
                f"delta_b_tot_at_gstar_{role}": float(found["delta_b_tot"]),
                f"chi_at_gstar_{role}": float(found["chi"]),
            }
        hashes = run.record["hashes"]
        rows.append({**row, "config_hash": hashes["config_sha256"], "code_version": hashes["code_version"]})
    return checked_table(TABLE_ID, rows, [(row["spike_def_id"], row["target_rate"]) for row in rows])


def _at_gstar(runs: Mapping[str, Upstream]) -> dict[tuple[str, float], dict[Hashable, Any]]:
    """Cell to the row of T01 at its selected gain."""
    summary = read_frame(runs["PHASE5_ANALYZE_AND_EXPORT"].artifact("T01_SUMMARY_parquet"))
    by_key = {(row["spike_def_id"], row["target_rate"], row["g"]): row for row in summary.to_dict("records")}
    chosen = gstar_rows(runs["PHASE2_SELECT_GSTAR"])
    return {
        (row["spike_def_id"], row["target_rate"]): by_key[row["spike_def_id"], row["target_rate"], row["gstar"]] for row in chosen
    }
