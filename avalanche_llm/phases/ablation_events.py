"""The model's part of phase 5: the largest events under every ablation, kept so that T06 can be made again without it (S05).

ablation_events.parquet: the columns of an event table and intervention_id, one pass a distinct (intervention, gain).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from avalanche_llm.analysis.ablations import Intervention, needed, plan_of
from avalanche_llm.errors import MissingArtifact
from avalanche_llm.events.collect import LayerTail
from avalanche_llm.events.tail_files import SCHEMA, read_events, table_to_tails, tails_to_table
from avalanche_llm.io.artifacts import Run, RunArtifacts
from avalanche_llm.io.files import parquet_of, read_row_groups
from avalanche_llm.phases.analysis_inputs import AnalysisInputs
from avalanche_llm.phases.context import CALIBRATION_SLICE, open_model, slices_of_a, use_slice
from avalanche_llm.phases.measure import largest_events
from avalanche_llm.phases.parts import make_unless_kept
from avalanche_llm.phases.upstream_files import calibration_stats

ABLATION_SCHEMA: Final = SCHEMA.append(pa.field("intervention_id", pa.string()))


def measure_ablations(run: Run, inputs: AnalysisInputs) -> None:
    """Run each distinct intervention once at its gain and write its candidate events. At g* = 1 there is nothing to run."""
    job, wanted, parts = inputs.job, _wanted(inputs), {}
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
            name = f"{intervention}_{gain!r}"
            parts[intervention, gain] = make_unless_kept(run, name, partial(measure, intervention, gain))
    tables = (_named(read_events(part), intervention) for (intervention, _), part in parts.items())
    run.save("ablation_events", parquet_of(ABLATION_SCHEMA, tables))


def ablation_tails(run: RunArtifacts, inputs: AnalysisInputs) -> Iterator[tuple[Intervention, Sequence[LayerTail]]]:
    """The events of every needed intervention, one after the other as `measure_ablations` wrote them.

    Raises MissingArtifact at the end if rows are left: of something else, or further down than they were looked for.
    """
    path = run.artifact("ablation_events")
    groups, rest = read_row_groups(path, ABLATION_SCHEMA), ABLATION_SCHEMA.empty_table()
    for intervention, gain in _wanted(inputs):
        rows = []
        for group in chain([rest], groups):
            n_own = _leading(group, intervention, gain)
            rows.append(group.slice(0, n_own))
            rest = group.slice(n_own)
            if len(rest):
                break
        yield (intervention, gain), table_to_tails(pa.concat_tables(rows), n_layers=inputs.n_layers)
    surplus = len(rest) + sum(map(len, groups))
    if surplus:
        raise MissingArtifact(f"{path} has {surplus} rows where none was expected, or out of order; rebuild its run")


def _leading(events: pa.Table, intervention: str, gain: float) -> int:
    """How many rows at the head belong to one intervention at one gain."""
    its_own = pc.and_(pc.equal(events["intervention_id"], intervention), pc.equal(events["g"], gain))
    other = pc.index(pc.fill_null(its_own, False), False).as_py()
    return len(events) if other < 0 else int(other)


def _named(events: pa.Table, intervention: str) -> pa.Table:
    return events.append_column(ABLATION_SCHEMA.field("intervention_id"), pa.array([intervention] * len(events), pa.string()))


def _wanted(inputs: AnalysisInputs) -> list[Intervention]:
    return needed(inputs.conditions, inputs.job.settings.gains.baseline)

