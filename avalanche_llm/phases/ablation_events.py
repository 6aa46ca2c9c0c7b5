"""The model's part of phase 5: the largest events under every ablation, kept so that T06 can be made again without it (S05).

ablation_events.parquet: the columns of an event table and intervention_id, one pass a distinct (intervention, gain).
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from avalanche_llm.analysis.ablations import Intervention, needed, plan_of
from avalanche_llm.events.collect import LayerTail
from avalanche_llm.events.tail_files import SCHEMA, table_to_tails, tails_to_table
from avalanche_llm.io.artifacts import Run, RunArtifacts
from avalanche_llm.io.files import parquet, read_parquet
from avalanche_llm.phases.analysis_inputs import AnalysisInputs
from avalanche_llm.phases.context import CALIBRATION_SLICE, open_model, slices_of_a, use_slice
from avalanche_llm.phases.measure import largest_events
from avalanche_llm.phases.parts import kept_or_made
from avalanche_llm.phases.upstream_files import calibration_stats

ABLATION_SCHEMA: Final = SCHEMA.append(pa.field("intervention_id", pa.string()))


def measure_ablations(run: Run, inputs: AnalysisInputs) -> None:
    """Run each distinct intervention once at its gain and write its candidate events. At g* = 1 there is nothing to run."""
    job, wanted = inputs.job, _wanted(inputs)
    parts = [ABLATION_SCHEMA.empty_table()]
    if wanted:
        model = open_model(job, run, inputs.s01, inputs.s02)
        calibration = use_slice(job, run, slices_of_a(job, model, inputs.s01, inputs.s02)[CALIBRATION_SLICE])
        stats = calibration_stats(inputs.s01)

        def measure(intervention: str, gain: float) -> pa.Table:
            plan, label = plan_of(intervention, gain, model.n_layers), f"{intervention}, gain {gain:g}"
            found, report = largest_events(model, calibration.windows, plan, stats, inputs.targets, job.settings, label)
            run.time("forward_s", report.seconds)
            return tails_to_table(found, gain_id=job.settings.gains.grid.index(gain), gain=gain)

        for intervention, gain in wanted:
            events = kept_or_made(run, f"{intervention}_{gain!r}", partial(measure, intervention, gain))
            name = pa.array([intervention] * len(events), pa.string())
            parts.append(events.append_column(ABLATION_SCHEMA.field("intervention_id"), name))
    run.save("ablation_events", parquet(pa.concat_tables(parts)))


def ablation_tails(run: RunArtifacts, inputs: AnalysisInputs) -> dict[Intervention, Sequence[LayerTail]]:
    """The events of every needed intervention as measured by `measure_ablations`."""
    table = read_parquet(run.artifact("ablation_events"), ABLATION_SCHEMA)
    return {
        (intervention, gain): table_to_tails(
            table.filter((pc.field("intervention_id") == intervention) & (pc.field("g") == gain)), n_layers=inputs.n_layers
        )
        for intervention, gain in _wanted(inputs)
    }


def _wanted(inputs: AnalysisInputs) -> list[Intervention]:
    return needed(inputs.conditions, inputs.job.settings.gains.baseline)

