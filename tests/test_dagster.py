"""The platform: definitions that load light, the same artifacts as the command line, and what an instance records of them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
import tiny
from dagster import DagsterRunStatus, RunsFilter

from avalanche_dagster.definitions import defs
from avalanche_dagster.headless import materialize_in
from avalanche_dagster.instance import PID_TAG, dagster_home, free_slots_of_dead_runs, process_lives, process_tag
from avalanche_dagster.register import register_runs
from avalanche_dagster.resources import Instrument, instrument_config
from avalanche_dagster.results import metadata_of
from avalanche_dagster.sensors import analyze_when_nulls_are_complete
from avalanche_dagster.specs import asset_key, upstream_keys
from avalanche_llm.config import Overrides
from avalanche_llm.errors import EnvironmentProblem, MissingArtifact
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.io.store import RunStore
from avalanche_llm.phases.job import JobRequest
from avalanche_llm.phases.select_gstar import select_gstar
from avalanche_llm.stages import stages

BUILT = list(stages().values())
MEASURED = [stage for stage in BUILT if stage.command in tiny.PHASES]
DATA_VERSION = "dagster/data_version"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def instrument(config: Path, runs: Path, **more: Any) -> dict[str, Any]:
    return {"config": str(config), "runs_dir": str(runs)} | more


def same_artifacts(runs: Path, others: Path) -> None:
    for stage in MEASURED:
        assert tiny.result_hashes(tiny.run_of(runs, stage.tag)) == tiny.result_hashes(tiny.run_of(others, stage.tag))


def test_definitions_load_without_torch() -> None:
    code = "import sys, avalanche_dagster.definitions as d; d.defs.get_repository_def(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tiny.REPO, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_definitions_hold_every_artifact_of_every_built_stage() -> None:
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    assert graph.get_all_asset_keys() == {asset_key(stage, name) for stage in BUILT for name in stage.artifacts}
    for stage in BUILT:
        needed = set(upstream_keys(stage))
        for name in stage.artifacts:
            node = graph.get(asset_key(stage, name))
            assert node.parent_keys == needed
            assert node.group_name == stage.command.split("_")[0]
            assert node.description
            assert node.code_version
            assert node.owners
            assert node.partitions_def is not None
            assert node.partitions_def.get_partition_keys() == ["INSTRUCT", "BASE"]


def test_definitions_have_a_job_for_every_command_and_one_for_all() -> None:
    jobs = {job.name for job in defs.get_repository_def().get_all_jobs()}
    assert jobs >= {stage.command for stage in BUILT} | {"full_pipeline"}
    for stage in BUILT:
        selected = defs.resolve_job_def(stage.command).asset_layer.selected_asset_keys
        assert selected == {asset_key(stage, name) for name in stage.artifacts}


def test_every_artifact_has_a_check_of_its_hash() -> None:
    checks = defs.resolve_asset_graph().asset_check_keys
    for stage in BUILT:
        for name in set(stage.artifacts) - stage.optional:
            assert dg.AssetCheckKey(asset_key(stage, name), "artifact_hash_holds") in checks
    assert dg.AssetCheckKey(dg.AssetKey(["phase2_gain_grid", "tau_rate_matched"]), "rate_match_rel") in checks


def test_materialization_in_process_records_every_artifact_and_passes_its_checks(
    instance: dg.DagsterInstance, config: Path, pipeline: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    for stage in MEASURED:
        result = defs.resolve_job_def(stage.command).execute_in_process(
            instance=instance,
            partition_key="INSTRUCT",
            run_config={"resources": {"instrument": {"config": instrument(config, runs)}}},
            tags={} if stage is MEASURED[0] else {PID_TAG: "1@0.0"},  # what the UI runs again inherits the tags of a run that ended
        )
        assert result.success
        run = instance.get_run_by_id(result.run_id)
        assert run is not None and run.tags[PID_TAG] == process_tag()  # a launch from the UI can be swept like the command line's
        folder = tiny.run_of(runs, stage.tag)
        index = {entry["relative_path"]: entry for entry in read_record(folder)["artifact_index"]}
        events = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
        assert {event.asset_key for event in events} == {asset_key(stage, name) for name in stage.artifacts}
        for event in events:
            entry = index[stage.artifacts[event.asset_key.path[-1]]]
            assert event.partition == "INSTRUCT"
            assert event.tags is not None and event.tags[DATA_VERSION] == entry["sha256"]
            assert event.metadata["run_id"].value == folder.name
            assert Path(str(event.metadata["artifact_path"].value)) == (folder / entry["relative_path"]).resolve()
            assert event.metadata["bytes"].value == entry["bytes"]
        outcomes = {(check.asset_key.path[-1], check.check_name): check.passed for check in result.get_asset_check_evaluations()}
        assert {name for name, check in outcomes if check == "artifact_hash_holds"} == set(stage.artifacts)
        assert all(passed for (_, check), passed in outcomes.items() if check != "gstar_bracketed")
    assert outcomes["gstar", "gstar_bracketed"] is False  # the tiny model does not branch near one, and the check says so
    same_artifacts(runs, pipeline)


def recorded_run(recorded: dg.DagsterInstance, command: str, runs: Path) -> dg.DagsterRun:
    """The one run of a command that succeeded on a runs folder."""
    found = recorded.get_runs(RunsFilter(job_name=command, statuses=[DagsterRunStatus.SUCCESS]))
    (run,) = (run for run in found if run.run_config["resources"]["instrument"]["config"]["runs_dir"] == str(runs))
    return run


def test_the_grid_is_a_graph_with_one_mapped_step_a_gain(pipeline: Path) -> None:
    with dg.DagsterInstance.get() as recorded:
        run = recorded_run(recorded, "phase2_gain_grid", pipeline)
        steps = sorted(stats.step_key for stats in recorded.get_run_step_stats(run.run_id))
    mapped = [f"measure_gain[g_{str(gain).replace('.', '_')}]" for gain in tiny.GAINS]
    assert [step.split(".", 1)[1] for step in steps] == sorted(["plan_gains", "publish_grid", *mapped])


def test_runs_of_the_command_line_are_recorded_under_its_name(pipeline: Path) -> None:
    with dg.DagsterInstance.get() as recorded:
        for stage in MEASURED:
            run = recorded_run(recorded, stage.command, pipeline)
            assert run.tags["dagster/partition"] == "INSTRUCT"
            entries = recorded.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
            made = {entry.dagster_event.asset_key for entry in entries if entry.dagster_event is not None}
            assert made == {asset_key(stage, name) for name in stage.artifacts}


def test_dagster_asset_materialize_gives_the_artifacts_of_the_command_line(config: Path, pipeline: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "--select", "group:phase1 or group:phase2"]
    command += ["--partition", "INSTRUCT", "-m", "avalanche_dagster.definitions"]
    command += ["--config-json", json.dumps({"resources": {"instrument": {"config": instrument(config, runs)}}})]
    found = subprocess.run(
        command,
        cwd=tiny.REPO,
        env=os.environ | {"DAGSTER_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    same_artifacts(runs, pipeline)
    for stage in MEASURED:
        assert read_record(tiny.run_of(runs, stage.tag))["stage_status"] == "complete"
        assert tiny.run_of(runs, stage.tag).name == tiny.run_of(pipeline, stage.tag).name


def test_materialize_in_lets_an_error_of_the_phase_out_unchanged(
    instance: dg.DagsterInstance, config: Path, tmp_path: Path
) -> None:
    with pytest.raises(MissingArtifact, match="no complete phase1_calibrate run"):
        materialize_in(instance, stages()["PHASE2_GAIN_GRID"], JobRequest(config, runs_dir=tmp_path / "runs"))
    (run,) = instance.get_runs()
    assert (run.job_name, run.status) == ("phase2_gain_grid", DagsterRunStatus.FAILURE)
    assert not (tmp_path / "runs").exists()


def test_materialize_in_records_a_second_run_of_equal_content_with_the_same_data_version(
    instance: dg.DagsterInstance, config: Path, tmp_path: Path
) -> None:
    stage = stages()["PHASE1_CALIBRATE"]
    request = JobRequest(config, runs_dir=tmp_path / "runs", run_id_mode="timestamp_counter")
    ids = {materialize_in(instance, stage, request) for _ in range(2)}
    assert len(ids) == 2
    for name in stage.artifacts:
        records = instance.fetch_materializations(asset_key(stage, name), limit=5).records
        versions = {record.asset_materialization.tags[DATA_VERSION] for record in records if record.asset_materialization}
        assert (len(records), len(versions)) == (2, 1)


@pytest.mark.parametrize(
    "request_",
    [
        JobRequest(),
        JobRequest(Path("c.yaml"), Overrides(device="cpu", dtype="fp32"), Path("elsewhere")),
        JobRequest(
            Path("c.yaml"),
            Overrides(arc_split="test", data_a="a", data_b="b", model_id="m", arc_config="c"),
            run_id_mode="timestamp_counter",
        ),
        JobRequest(allow_resume=True, pinned=("RUN_S01_0123456789ab", "RUN_S02_0123456789ab")),
    ],
)
def test_instrument_config_is_the_inverse_of_a_request(request_: JobRequest) -> None:
    made = Instrument(**instrument_config(request_)).request("BASE")
    assert made.overrides.model_role == "BASE"
    assert instrument_config(made) == instrument_config(request_)
    assert (made.config, made.runs_dir, made.run_id_mode, made.allow_resume, made.pinned) == (
        request_.config,
        request_.runs_dir,
        request_.run_id_mode,
        request_.allow_resume,
        request_.pinned,
    )


def test_instrument_offers_every_override_of_the_command_line() -> None:
    assert set(vars(Overrides())) - {"model_role"} <= set(Instrument.model_fields)


def test_the_launchpad_takes_device_dtype_model_and_data(instance: dg.DagsterInstance, config: Path, tmp_path: Path) -> None:
    """What a person types there is this run config; each override is in the record of the run."""
    other = tiny.save_model(tiny.llama(seed=1), tmp_path / "other")
    data = tiny.SHIPPED["B"]
    chosen = {"device": "cpu", "dtype": "bf16", "model_id": str(other), "data_a": data}
    values = {"resources": {"instrument": {"config": instrument(config, tmp_path / "runs", **chosen)}}}
    job = defs.resolve_job_def("phase1_calibrate")
    assert job.execute_in_process(instance=instance, partition_key="INSTRUCT", run_config=values).success
    record = read_record(tiny.run_of(tmp_path / "runs", "S01"))
    assert {key: record["model"][key] for key in ("device", "dtype", "id")} == {"device": "cpu", "dtype": "bf16", "id": str(other)}
    assert record["dataset"]["A_CALIBRATION"]["id"] == data


@pytest.mark.parametrize(("field", "value"), [("devise", "cpu"), ("allow_resume", "perhaps"), ("dep", "RUN_S01")])
def test_the_launchpad_refuses_what_is_no_field_of_it(field: str, value: str) -> None:
    values = {"resources": {"instrument": {"config": {field: value}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match=field):
        dg.validate_run_config(defs.resolve_job_def("phase1_calibrate"), values)


def test_the_launchpad_says_what_every_field_is() -> None:
    assert all(field.description for field in Instrument.model_fields.values())


def test_two_command_lines_at_once_are_both_recorded_in_one_new_instance(config: Path, pipeline: Path, tmp_path: Path) -> None:
    environment = os.environ | {"DAGSTER_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "avalanche_llm", "phase1_calibrate", "--config", str(config), "--runs_dir"]
    folders = [tmp_path / "first", tmp_path / "second"]
    processes = [
        subprocess.Popen([*command, str(folder)], cwd=tiny.REPO, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for folder in folders
    ]
    try:
        for process, folder in zip(processes, folders, strict=True):
            _, problems = process.communicate(timeout=600)
            assert process.returncode == 0, problems[-2000:]
            assert tiny.result_hashes(tiny.run_of(folder, "S01")) == tiny.result_hashes(tiny.run_of(pipeline, "S01"))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as recorded:
        runs = recorded.get_runs()
        assert [run.status for run in runs] == [DagsterRunStatus.SUCCESS] * 2
        assert {run.run_config["resources"]["instrument"]["config"]["runs_dir"] for run in runs} == set(map(str, folders))
        assert recorded.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0


def test_dagster_home_falls_back_to_a_folder_of_the_project_with_our_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.chdir(tmp_path)
    assert dagster_home() == tmp_path / ".dagster_home"
    settings = (tmp_path / ".dagster_home" / "dagster.yaml").read_text(encoding="utf-8")
    assert settings == (tiny.REPO / "avalanche_dagster" / "dagster.yaml").read_text(encoding="utf-8")
    assert os.environ["DAGSTER_HOME"] == str(tmp_path / ".dagster_home")
    (tmp_path / ".dagster_home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    dagster_home()
    assert (tmp_path / ".dagster_home" / "dagster.yaml").read_text(
        encoding="utf-8"
    ) == "telemetry: {enabled: false}\n"  # a person's own


@pytest.mark.parametrize(
    ("home", "complaint"), [("relative/home", "must be an absolute path"), ("/dev/null/home", "cannot be written")]
)
def test_dagster_home_that_cannot_be_used_is_an_environment_problem(
    home: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", home)
    with pytest.raises(EnvironmentProblem, match=complaint):
        dagster_home()


def test_free_slots_of_dead_runs_ends_the_runs_of_dead_processes_only(instance: dg.DagsterInstance) -> None:
    pid = subprocess.Popen([sys.executable, "-c", ""])
    pid.wait()
    tags = {"dead": f"{pid.pid}@1.0", "reused": f"{os.getpid()}@1.0", "alive": process_tag(), "not ours": ""}
    ids = {
        name: instance.create_run_for_job(
            defs.resolve_job_def("phase1_calibrate"), tags={PID_TAG: tag} if tag else {}, status=DagsterRunStatus.STARTED
        ).run_id
        for name, tag in tags.items()
    }
    assert set(free_slots_of_dead_runs(instance)) == {ids["dead"], ids["reused"]}
    after = {name: run.status for name, run_id in ids.items() if (run := instance.get_run_by_id(run_id))}
    assert after == {
        "dead": DagsterRunStatus.FAILURE,
        "reused": DagsterRunStatus.FAILURE,
        "alive": DagsterRunStatus.STARTED,
        "not ours": DagsterRunStatus.STARTED,
    }


def test_process_tag_is_alive() -> None:
    pid, _, started = process_tag().partition("@")
    assert process_lives(int(pid), started)
    assert not process_lives(int(pid), "0.0")


def latest(instance: dg.DagsterInstance, stage: Any, name: str) -> dg.AssetMaterialization:
    event = instance.get_latest_materialization_event(asset_key(stage, name))
    assert event is not None and event.asset_materialization is not None
    return event.asset_materialization


def test_register_runs_shows_the_runs_of_another_machine(
    instance: dg.DagsterInstance, pipeline: Path, config: Path, tmp_path: Path
) -> None:
    runs = tiny.copied(pipeline, tmp_path / "copied")
    before = tiny.file_hashes(runs)
    reported = list(register_runs(instance, RunStore(runs)))
    assert reported == [(tiny.run_of(runs, stage.tag).name, len(stage.artifacts)) for stage in MEASURED]
    for stage in MEASURED:
        index = {entry["relative_path"]: entry for entry in read_record(tiny.run_of(runs, stage.tag))["artifact_index"]}
        for name, relative in stage.artifacts.items():
            shown = latest(instance, stage, name)
            assert shown.partition == "INSTRUCT"
            assert shown.tags is not None and shown.tags[DATA_VERSION] == index[relative]["sha256"]
            key = dg.AssetCheckKey(asset_key(stage, name), "artifact_hash_holds")
            (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
            assert record.event is not None and record.event.dagster_event is not None
            assert record.event.dagster_event.asset_check_evaluation_data.passed
    assert [count for _, count in register_runs(instance, RunStore(runs))] == [0, 0, 0]
    assert tiny.file_hashes(runs) == before
    second = select_gstar(JobRequest(config, runs_dir=runs, run_id_mode="timestamp_counter").job())
    assert [counted for counted in register_runs(instance, RunStore(runs)) if counted[1]] == [(second, 1)]
    assert [count for _, count in register_runs(instance, RunStore(runs))] == [0, 0, 0, 0]  # neither of the two runs comes again
    first = tiny.run_of(runs, "S01")
    tiny.rewritten(first, "rate_targets", lambda data: data + b"\n")
    assert list(register_runs(instance, RunStore(runs), [first.name])) == [(first.name, 2)]  # made again, with other bytes


def test_the_head_of_a_table_begins_with_what_differs_between_its_rows(pipeline: Path) -> None:
    stage = stages()["PHASE2_GAIN_GRID"]
    run = RunStore(pipeline).get(tiny.run_of(pipeline, stage.tag).name)
    metadata = metadata_of(stage, run, "metrics")
    columns, _, *rows = [line[2:-2].split(" | ") for line in metadata["head"].value.splitlines()]
    different = [len({row[place] for row in rows}) > 1 for place in range(len(columns))]
    assert different.index(False) == sum(different) > 0
    assert metadata["dagster/row_count"] == len(pq.read_table(run.artifact("metrics")))
    assert 0.0 < metadata["b_tot_at_g1"] < 2.0


def test_register_runs_refuses_a_changed_artifact(instance: dg.DagsterInstance, pipeline: Path, tmp_path: Path) -> None:
    runs = tiny.copied(pipeline, tmp_path / "copied")
    folder = tiny.run_of(runs, "S02B")
    (folder / "results" / "gstar.json").write_bytes(b"{}")
    with pytest.raises(MissingArtifact, match=r"gstar\.json changed since it was recorded"):
        list(register_runs(instance, RunStore(runs), [folder.name]))
    assert instance.get_latest_materialization_event(asset_key(stages()["PHASE2_SELECT_GSTAR"], "gstar")) is None


def test_the_sensor_is_off_and_offers_phase_5_with_the_config_of_phase_4(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    sensor = analyze_when_nulls_are_complete
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    folder = tmp_path / "runs" / "RUN_S04_000000000001"
    context = dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def())
    assert sensor.evaluate_tick(context).run_requests == []
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            asset_key(stages()["PHASE4_RUN_NULLS"], "null_marginals"),
            partition="BASE",
            metadata={"run_id": folder.name, "artifact_path": dg.MetadataValue.path(str(folder / "results" / "x.parquet"))},
        )
    )
    (request,) = sensor.evaluate_tick(context).run_requests or []
    assert (request.run_key, request.partition_key) == (str(folder), "BASE")
    chosen = request.run_config["resources"]["instrument"]["config"]
    assert chosen == {
        "config": str(folder / "config_resolved.yaml"),
        "runs_dir": str(folder.parent),
        "dep": [folder.name],  # another run of phase 4 may fit the same config
        "allow_resume": True,
    }


def test_a_resolved_config_resolves_to_itself(config: Path, pipeline: Path) -> None:
    """What the sensor relies on: a run's config_resolved.yaml names the same runs as the config it came from."""
    resolved = tiny.run_of(pipeline, "S02") / "config_resolved.yaml"
    assert tiny.job_of(resolved, pipeline).config.sha256 == tiny.job_of(config, pipeline).config.sha256
