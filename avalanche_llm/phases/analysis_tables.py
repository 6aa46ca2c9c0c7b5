"""T01, T04, T05 and T06 from the artifacts of phases 1 to 5: what phase 5 writes and `verify` makes again (S05; spec 18)."""

from collections.abc import Sequence
from itertools import chain, product

import pandas as pd

from avalanche_llm.analysis.ablations import GLOBAL, AblationInputs, ablation_rows
from avalanche_llm.analysis.measures import ConditionMeasures, measure_condition
from avalanche_llm.analysis.summarize import RowHead, crackling_row, summary_row, tail_row
from avalanche_llm.canon import load_canon
from avalanche_llm.io.artifacts import RunArtifacts
from avalanche_llm.phases.ablation_events import ablation_tails
from avalanche_llm.phases.analysis_inputs import AnalysisInputs, keys_of
from avalanche_llm.phases.gain_grid import calibration_lattice
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.upstream_files import frame
from avalanche_llm.plotting.export import checked_table
from avalanche_llm.plotting.tables import Key
from avalanche_llm.progress import progress
from avalanche_llm.stages import stages


def tables(job: Job, run: RunArtifacts) -> dict[str, pd.DataFrame]:
    """The tables of a phase 5 run, from its own ablation events and the runs before it."""
    inputs = AnalysisInputs.of(job)
    return tables_of(run, inputs, measure_grid(inputs))


def measure_grid(inputs: AnalysisInputs) -> list[ConditionMeasures]:
    """Measure every condition of the grid, in its order."""
    settings, measured = inputs.job.settings, []
    keys = keys_of(inputs.grid)
    with progress("conditions", len(keys), "conditions") as advance:
        for key in keys:
            condition = "|".join(map(str, key.values()))
            counts, seed = inputs.counts(key), settings.determinism.seed
            measured.append(measure_condition(counts, inputs.weights, settings.statistics, condition=condition, seed=seed))
            advance(1)
    return measured


def tables_of(run: RunArtifacts, inputs: AnalysisInputs, measured: Sequence[ConditionMeasures]) -> dict[str, pd.DataFrame]:
    """Rows to checked tables."""
    settings = inputs.job.settings
    events = settings.events
    head = RowHead.of(run.record, stages()["PHASE5_ANALYZE_AND_EXPORT"].tag, "A")
    grid = list(product(sorted(events.spike_defs), sorted(events.target_rates), settings.gains.grid))
    marginals = frame(inputs.s04, "null_marginals")
    fixed = {"tau0_baseline": events.tau0_baseline, "rate_match_tol_abs": events.rate_match_tol_abs}
    found = list(zip(keys_of(inputs.grid), measured, strict=True))
    summary = [
        summary_row(head, key, measures, row, marginals, inputs.held_out, fixed)
        for (key, measures), (_, row) in zip(found, inputs.grid.iterrows(), strict=True)
    ]
    ablations = [head.row(**row) for row in ablation_rows(inputs.conditions, _ablations(run, inputs))]
    return {
        "T01_SUMMARY": checked_table("T01_SUMMARY", summary, grid),
        "T04_TAIL_FITS": checked_table("T04_TAIL_FITS", [tail_row(head, *pair) for pair in found], grid),
        "T05_CRACKLING_DIAGNOSTICS": checked_table(
            "T05_CRACKLING_DIAGNOSTICS", [crackling_row(head, *pair) for pair in found], grid
        ),
        "T06_ABLATIONS": checked_table(
            "T06_ABLATIONS", ablations, expected_ablations(inputs.gstar, settings.gains.baseline)
        ),
    }


def _ablations(run: RunArtifacts, inputs: AnalysisInputs) -> AblationInputs:
    settings = inputs.job.settings
    of_grid = (((GLOBAL, gain), found) for gain, found in inputs.tails.items())
    return AblationInputs(
        chain(of_grid, ablation_tails(run, inputs)),
        inputs.targets,
        calibration_lattice(settings),
        inputs.weights,
        settings.events,
        settings.statistics,
        settings.gains.baseline,
    )


def expected_ablations(gstar: pd.DataFrame, baseline: float) -> list[Key]:
    """The keys that T06 must have, from the selections and the registry alone: what was measured does not enter."""
    return [
        (row["spike_def_id"], row["target_rate"], *key)
        for row in gstar.to_dict("records")
        for key in (
            ("g1", baseline, GLOBAL),
            *(("gstar", row["gstar"], intervention) for intervention in load_canon()["ENUM.INTERVENTION_ID"]),
        )
    ]
