"""spec/run_record.schema.json: what a record must be, and what it refuses."""

import copy
import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from avalanche_llm.canon import load_canon
from avalanche_llm.config import resolve_config
from avalanche_llm.errors import SchemaError
from avalanche_llm.io.new_record import new_record
from avalanche_llm.io.schema_validate import validate_run_record
from avalanche_llm.resources import packaged
from avalanche_llm.run_id import candidate_run_ids
from avalanche_llm.stages import stages

SHA = "0" * 64
UTC = "2026-01-02T03:04:05.000006+00:00"
ENTRY = {"relative_path": "results/rate_targets.json", "sha256": SHA, "bytes": 3, "created_utc": UTC}
DEPENDENCY = {"run_id": "RUN_S01_0123456789ab", "phase_id": "PHASE1_CALIBRATE", "config_sha256": SHA, "record_sha256": SHA}


def started(phase_id: str = "PHASE1_CALIBRATE", run_id: str = "RUN_S01_0123456789ab") -> dict[str, Any]:
    config = resolve_config(packaged("configs/demo.yaml"), load_canon())
    return copy.deepcopy(new_record(run_id, stages()[phase_id], config))


def complete() -> dict[str, Any]:
    return started() | {
        "stage_status": "complete",
        "completed_utc": UTC,
        "artifacts": {"rate_targets": "results/rate_targets.json"},
        "artifact_index": [dict(ENTRY)],
        "dependencies": [dict(DEPENDENCY)],
        "dataset": {"A_CALIBRATION": {"role": "A_CALIBRATION", "id": "data/jargon.txt", "sha256": SHA}},
    }


def put(record: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    *parents, leaf = (int(key) if key.isdigit() else key for key in place.split("/"))
    node: Any = record
    for key in parents:
        node = node[key]
    node[leaf] = value
    return record


def test_schema_is_itself_valid_and_of_the_declared_draft() -> None:
    schema = json.loads(packaged("spec/run_record.schema.json").read_text(encoding="utf-8"))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


def test_validate_run_record_accepts_a_record_of_every_stage_and_both_kinds_of_run_id() -> None:
    for stage in stages().values():
        for mode in ("content_hash", "timestamp_counter"):
            run_id = next(candidate_run_ids(mode, stage.tag, b"config"))
            validate_run_record(started(stage.phase_id, run_id))
    validate_run_record(complete())


@pytest.mark.parametrize("key", sorted(started()))
def test_validate_run_record_refuses_a_record_without(key: str) -> None:
    record = complete()
    del record[key]
    with pytest.raises(SchemaError, match=f"'{key}' is a required property"):
        validate_run_record(record)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("stage_status", "done"),
        ("run_id", "RUN_S01_../../elsewhere"),
        ("run_id", "latest"),
        ("created_utc", "2026-01-02 03:04:05"),
        ("created_utc", "2026-01-02T03:04:05+01:00"),
        ("completed_utc", None),
        ("artifacts", {}),
        ("artifacts/rate_targets", "../../etc/passwd"),
        ("artifacts/rate_targets", "/etc/passwd"),
        ("artifact_index/0/relative_path", "results/../../x"),
        ("artifact_index/0/sha256", SHA[1:]),
        ("artifact_index/0/sha256", "G" * 64),
        ("artifact_index/0/bytes", -1),
        ("artifact_index/0/note", "not foreseen"),
        ("dependencies/0/record_sha256", ""),
        ("hashes/config_sha256", "x"),
        ("model/role", "TEACHER"),
        ("model/dtype", "int8"),
        ("dataset/A_CALIBRATION/sha256", None),
        ("determinism/unavailable", "none"),
        ("timings/forward_s", -0.5),
        ("versions/torch", 2.13),
        ("project_id", "another"),
        ("notes", "not foreseen"),
    ],
)
def test_validate_run_record_refuses(place: str, value: Any) -> None:
    with pytest.raises(SchemaError, match="breaks spec/run_record.schema.json at ") as caught:
        validate_run_record(put(complete(), place, value), "the record")
    assert str(caught.value).startswith("the record breaks")


def test_validate_run_record_names_the_place() -> None:
    with pytest.raises(SchemaError, match="at artifact_index/0/bytes: -1 is less than the minimum of 0"):
        validate_run_record(put(complete(), "artifact_index/0/bytes", -1))
