"""Which artifacts the UI calls stale, by Dagster's own resolution: after the same content none, after new content exactly the children.

What an artifact depends on is what its phase was seen to read (`tiny.watched_reads`).
"""

import json
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

import dagster as dg
import pytest
import tiny
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from avalanche_dagster.definitions import defs
from avalanche_dagster.headless import materialize_in
from avalanche_dagster.register import register_runs
from avalanche_dagster.specs import READS, asset_key, upstream_keys
from avalanche_llm.io.store import RunStore
from avalanche_llm.phases.job import JobRequest
from avalanche_llm.stages import Stage, stages

GRAPH = defs.resolve_asset_graph()
ALL = {asset_key(stage, name) for stage in stages().values() for name in stage.artifacts}
OPTIONAL = {asset_key(stage, name) for stage in stages().values() for name in stage.optional}
DATA_VERSION = "dagster/data_version"


@pytest.fixture
def instance(materialized: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance of our own with every phase on record."""
    shutil.copytree(materialized / "home", tmp_path / "home")
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        yield instance


@pytest.fixture
def runs(materialized: Path, tmp_path: Path) -> Path:
    return tiny.copied(materialized / "runs", tmp_path / "runs")


def statuses(instance: dg.DagsterInstance, status: StaleStatus) -> set[dg.AssetKey]:
    resolver = CachingStaleStatusResolver(instance, GRAPH, LoadingContextForTest(instance))
    asked = lru_cache(maxsize=None)(instance.get_latest_data_version_record)  # the artifacts of a step ask the same
    with patch.object(instance, "get_latest_data_version_record", asked):
        return {key for key in ALL if resolver.get_status(key, "INSTRUCT") == status}


def stale(instance: dg.DagsterInstance) -> set[dg.AssetKey]:
    return statuses(instance, StaleStatus.STALE)


def children(*parents: dg.AssetKey) -> set[dg.AssetKey]:
    """Those that were made and that read one of the parents."""
    return {
        asset_key(stage, name)
        for stage in stages().values()
        for name in stage.artifacts
        if set(upstream_keys(stage)) & set(parents) and name not in stage.optional
    }


def artifacts_of(stage: Stage) -> set[dg.AssetKey]:
    return {asset_key(stage, name) for name in stage.artifacts}


@pytest.mark.parametrize("phase_id", READS)
def test_dependencies_are_what_the_phase_reads(materialized: Path, phase_id: str) -> None:
    stage = stages()[phase_id]
    assert set(READS[phase_id]) <= set(stage.needs)
    read = {asset_key(stages()[phase], name) for phase, name in json.loads((materialized / "reads.json").read_bytes())[phase_id]}
    if phase_id == "PHASE8_RELEASE":  # it packs whole folders, file by file against their index
        read = artifacts_of(stages()["PHASE7_PAPER_EXPORT"]) - OPTIONAL
    assert set(upstream_keys(stage)) == read


def test_a_whole_pipeline_is_fresh(instance: dg.DagsterInstance) -> None:
    assert statuses(instance, StaleStatus.MISSING) == OPTIONAL
    assert statuses(instance, StaleStatus.FRESH) == ALL - OPTIONAL


def test_the_same_content_again_leaves_the_children_fresh(instance: dg.DagsterInstance, runs: Path, config: Path) -> None:
    """Made again in place of a run that is gone, and where nothing in the files names the run, beside one that is there."""
    for phase_id, mode in (("PHASE1_CALIBRATE", "timestamp_counter"), ("PHASE6_ARC_MCQ_EVAL", "content_hash")):
        stage = stages()[phase_id]
        if mode == "content_hash":
            shutil.rmtree(tiny.run_of(runs, stage.tag))
        before = latest(instance, stage)
        materialize_in(instance, stage, JobRequest(config, runs_dir=runs, run_id_mode=mode))
        after = latest(instance, stage)
        assert {key for key in after if after[key] > before.get(key, 0)} == artifacts_of(stage) - OPTIONAL
    assert stale(instance) == set()


def test_new_content_makes_exactly_the_children_stale(
    instance: dg.DagsterInstance, runs: Path, model_folder: Path, tmp_path: Path
) -> None:
    expected: set[dg.AssetKey] = set()
    for phase_id, change in (
        ("PHASE6_ARC_MCQ_EVAL", {"datasets__ARC_MCQ__n_questions": tiny.N_QUESTIONS - 3}),
        ("PHASE1_CALIBRATE", {"datasets__A__n_windows_calibration": tiny.N_WINDOWS - 2}),
    ):
        other = tiny.write_config(tmp_path / "other.yaml", model_folder, **change)
        materialize_in(instance, stages()[phase_id], JobRequest(other, runs_dir=runs))
        new = children(*artifacts_of(stages()[phase_id]))
        assert new and not new & expected
        expected |= new
        assert stale(instance) == expected


def test_new_content_of_one_artifact_reaches_only_those_that_read_it(instance: dg.DagsterInstance) -> None:
    unread = dg.AssetKey(["phase3_extract_rasters", "raster_tokens"])
    keys = [unread, dg.AssetKey(["phase2_gain_grid", "branching_sums"]), dg.AssetKey(["phase7_paper_export", "paper_methods"])]
    assert children(unread) == set()
    before = {key: version_of(instance, key) for key in keys}
    for versions, expected in ((dict.fromkeys(keys, "other"), children(*keys)), (before, set())):
        for key, version in versions.items():
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="INSTRUCT", tags={DATA_VERSION: version}))
        assert stale(instance) == expected


def version_of(instance: dg.DagsterInstance, key: dg.AssetKey) -> str:
    record = instance.get_latest_data_version_record(key, partition_key="INSTRUCT")
    assert record is not None and record.event_log_entry.tags is not None
    return str(record.event_log_entry.tags[DATA_VERSION])


def latest(instance: dg.DagsterInstance, stage: Stage) -> dict[dg.AssetKey, int]:
    """The place of each artifact's last materialization in the event log."""
    records = {key: instance.fetch_materializations(key, limit=1).records for key in artifacts_of(stage)}
    return {key: found[0].storage_id for key, found in records.items() if found}


def test_registered_runs_are_fresh_and_go_stale_with_what_they_read(runs: Path, model_folder: Path, config: Path, tmp_path: Path) -> None:
    first, arc = stages()["PHASE1_CALIBRATE"], stages()["PHASE6_ARC_MCQ_EVAL"]
    other = tiny.write_config(tmp_path / "other.yaml", model_folder, datasets__ARC_MCQ__n_questions=9)
    with dg.DagsterInstance.ephemeral() as instance:
        list(register_runs(instance, RunStore(runs)))
        assert stale(instance) == set()
        for stage, made_with, expected in (
            (first, JobRequest(config, runs_dir=runs, run_id_mode="timestamp_counter"), set()),
            (arc, JobRequest(other, runs_dir=runs), children(*artifacts_of(arc))),
        ):
            with dg.DagsterInstance.ephemeral() as elsewhere:
                run_id = materialize_in(elsewhere, stage, made_with)
            assert list(register_runs(instance, RunStore(runs), [run_id])) == [(run_id, len(stage.artifacts))]
            assert stale(instance) == expected


def test_a_new_release_makes_everything_stale(instance: dg.DagsterInstance) -> None:
    node = type(GRAPH.get(asset_key(stages()["REPORT"], "report")))
    with patch.object(node, "code_version", property(lambda self: "another")):
        assert stale(instance) == ALL - OPTIONAL
