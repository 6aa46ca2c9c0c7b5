"""The record of a run before anything was measured (spec 14), and the versions of what decides its numbers."""

import platform
from importlib.metadata import version
from typing import Any

from avalanche_llm.config import ResolvedConfig
from avalanche_llm.io.hashing import code_version
from avalanche_llm.io.jsonl import utc_now
from avalanche_llm.stages import Stage


def new_record(run_id: str, stage: Stage, config: ResolvedConfig) -> dict[str, Any]:
    """The record of a run that has just started."""
    values = config.values
    role = values["run"]["model_role"]
    return {
        "project_id": values["project"]["project_id"],
        "pack_version": values["project"]["pack_version"],
        "run_id": run_id,
        "phase_id": stage.phase_id,
        "stage_status": "started",
        "created_utc": utc_now(),
        "completed_utc": None,
        "model": {
            "role": role,
            "id": values["models"][role]["hf_id"],
            "device": values["run"]["device"],
            "dtype": values["run"]["dtype"],
        },
        "dataset": {},
        "conditions": [],
        "dependencies": [],
        "artifacts": {},
        "artifact_index": [],
        "hashes": {
            "config_sha256": config.sha256,
            "scope_sha256": config.scope_sha256(stage.scope),
            "dataset_slice_sha256": {},
            "code_version": code_version(),
        },
        "versions": library_versions(),
        "determinism": {
            "seed": values["determinism"]["seed"],
            "strict": values["determinism"]["strict"],
            "flags": {},
            "unavailable": [],
        },
        "timings": {},
    }


def library_versions() -> dict[str, str]:
    """Versions of what decides the numbers, read from package metadata so that nothing heavy is imported."""
    names = ("torch", "transformers", "tokenizers", "numpy", "scipy", "pandas", "pyarrow", "datasets")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
