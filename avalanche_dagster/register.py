"""Runs that another machine made, shown in the UI: their artifacts are reported as materialized, their checks as evaluated.

Nothing is computed or copied. A run whose artifacts are all on record already, the same bytes, is passed over.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import dagster as dg
from dagster import DagsterInstance
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from avalanche_dagster.checks import checks_of
from avalanche_dagster.results import held, metadata_of
from avalanche_dagster.specs import asset_key, upstream_keys
from avalanche_llm.io.artifacts import index_by_path
from avalanche_llm.io.store import RunStore, Upstream
from avalanche_llm.stages import Stage, stages

PAGE: Final = 100


def register_runs(instance: DagsterInstance, store: RunStore, run_ids: Iterable[str] = ()) -> Iterator[tuple[str, int]]:
    """Report the named complete runs, or all below the runs root, upstream first; yields each run id and what was new of it.

    Raises MissingArtifact for a named run that is absent or incomplete, and for one with a changed artifact.
    """
    named = [store.get(run_id) for run_id in run_ids]
    for stage in stages().values():
        for run in named or store.complete_runs(stage.tag):
            if run.phase_id == stage.phase_id:
                yield run.run_id, _register(instance, stage, run)


def _register(instance: DagsterInstance, stage: Stage, run: Upstream) -> int:
    names = held(stage, run)
    for name in names:
        run.artifact(name)
    if all(_is_recorded(instance, stage, run, name) for name in names):
        return 0
    provenance = _provenance(instance, stage, run)
    for name in names:
        metadata = metadata_of(stage, run, name)
        tags = provenance | {DATA_VERSION_TAG: metadata["sha256"]}
        materialization = dg.AssetMaterialization(
            asset_key(stage, name), metadata=metadata, partition=run.record["model"]["role"], tags=tags
        )
        instance.report_runless_asset_event(materialization)
        for check in checks_of(stage, name, run):
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=asset_key(stage, name),
                    check_name=str(check.check_name),
                    passed=check.passed,
                    metadata=check.metadata,
                    severity=check.severity,
                )
            )
    return len(names)


def _is_recorded(instance: DagsterInstance, stage: Stage, run: Upstream, name: str) -> bool:
    """Whether this run's artifact, with the bytes that it has, is among the materializations of its role's partition."""
    sha256 = index_by_path(run.record)[stage.artifacts[name]]["sha256"]
    return any(
        _run_of(record) == run.run_id and (record.event_log_entry.tags or {}).get(DATA_VERSION_TAG) == sha256
        for record in _materializations(instance, asset_key(stage, name), run)
    )


def _provenance(instance: DagsterInstance, stage: Stage, run: Upstream) -> dict[str, str]:
    """The tags from which dagster tells stale from fresh: the code of a run, and which materializations it read.

    No tags where an upstream run is not on record: dagster then goes by what was reported first.
    """
    tags = {CODE_VERSION_TAG: str(run.record["hashes"]["code_version"]).partition("+")[0]}
    upstream = {dependency["run_id"] for dependency in run.record["dependencies"]}
    for key in upstream_keys(stage):
        for record in _materializations(instance, key, run):
            if _run_of(record) in upstream:
                tags[get_input_data_version_tag(key)] = (record.event_log_entry.tags or {})[DATA_VERSION_TAG]
                tags[get_input_event_pointer_tag(key)] = str(record.storage_id)
                break
        else:
            return {}
    return tags


def _run_of(record: dg.EventLogRecord) -> str | None:
    """The run directory of a materialization; None for one that a person reported by hand."""
    found = record.asset_materialization
    return str(found.metadata["run_id"].value) if found is not None and "run_id" in found.metadata else None


def _materializations(instance: DagsterInstance, key: dg.AssetKey, run: Upstream) -> Iterator[dg.EventLogRecord]:
    """What is on record of an artifact in the partition of a run's role, newest first, fetched a page at a time."""
    wanted, cursor = dg.AssetRecordsFilter(key, asset_partitions=[run.record["model"]["role"]]), None
    while True:
        found = instance.fetch_materializations(wanted, limit=PAGE, cursor=cursor)
        yield from found.records
        if not found.has_more:
            return
        cursor = found.cursor
