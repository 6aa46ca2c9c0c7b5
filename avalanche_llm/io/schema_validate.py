"""Validation of run records against spec/run_record.schema.json (JSON Schema 2020-12), on every write and every read."""

import json
from functools import lru_cache

from jsonschema import Draft202012Validator

from avalanche_llm.errors import SchemaError
from avalanche_llm.resources import packaged


@lru_cache(maxsize=1)
def _record_validator() -> Draft202012Validator:
    schema = json.loads(packaged("spec/run_record.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def validate_run_record(record: object, source: str = "run_record.json") -> None:
    """Raise SchemaError naming the first place (by path) where `record` breaks the schema."""
    problems = sorted(_record_validator().iter_errors(record), key=lambda problem: list(map(str, problem.absolute_path)))
    if problems:
        place = "/".join(str(part) for part in problems[0].absolute_path) or "(top)"
        raise SchemaError(f"{source} breaks spec/run_record.schema.json at {place}: {problems[0].message[:300]}")
