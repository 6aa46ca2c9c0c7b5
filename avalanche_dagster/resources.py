"""The one resource: what a person may set in the launchpad, and the job of the instrument that it stands for."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from avalanche_llm.config import Overrides
from avalanche_llm.phases.job import Job, JobRequest


class Instrument(dg.ConfigurableResource):
    """Config file and overrides. An empty value leaves what the config file says."""

    config: str = Field(default="", description="Path of the pipeline yaml; empty: configs/pipeline.yaml.")
    runs_dir: str = Field(default="", description="Runs folder; empty: paths.runs_dir of the config.")
    device: str = Field(default="", description="cpu, cuda or cuda:N.")
    dtype: str = Field(default="", description="bf16, fp16 or fp32.")
    run_id_mode: str = Field(default="content_hash", description="content_hash or timestamp_counter.")
    allow_resume: bool = Field(default=False, description="Continue an incomplete run instead of stopping.")
    dep: list[str] = Field(default=[], description="Upstream run ids to use where more than one fits.")
    gstar_method: str = Field(default="", description="Rule that chooses g*.")
    arc_split: str = Field(default="", description="Split of the ARC questions.")
    arc_config: str = Field(default="", description="Config of the ARC questions.")
    model_id: str = Field(default="", description="Hub id or local folder in place of the config's model.")
    data_a: str = Field(default="", description="Data set A in place of the config's.")
    data_b: str = Field(default="", description="Data set B in place of the config's.")

    def request(self, role: str) -> JobRequest:
        """The request for one model role (a partition)."""
        overrides = {field.name: getattr(self, field.name) or None for field in fields(Overrides) if field.name != "model_role"}
        return JobRequest(
            Path(self.config) if self.config else None,
            Overrides(model_role=role, **overrides),
            Path(self.runs_dir) if self.runs_dir else None,
            self.run_id_mode,  # type: ignore[arg-type]  # checked where run ids are made
            self.allow_resume,
            tuple(self.dep),
        )

    def job(self, role: str) -> Job:
        """The request, resolved."""
        return self.request(role).job()


def instrument_config(request: JobRequest) -> dict[str, Any]:
    """The launchpad values that stand for a request: the inverse of `Instrument.request`."""
    overrides = {name: value for name, value in asdict(request.overrides).items() if value is not None and name != "model_role"}
    return {
        "config": str(request.config or ""),
        "runs_dir": str(request.runs_dir or ""),
        "run_id_mode": request.run_id_mode,
        "allow_resume": request.allow_resume,
        "dep": list(request.pinned),
        **overrides,
    }
