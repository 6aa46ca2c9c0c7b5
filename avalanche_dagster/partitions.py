"""One partition a model role: BASE and INSTRUCT are measured alike and compared at the end."""

import dagster as dg

model_roles = dg.StaticPartitionsDefinition(["INSTRUCT", "BASE"])
GPU_POOL = "gpu"
"""The concurrency pool of the steps that run the model."""
