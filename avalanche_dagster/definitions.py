"""The one Definitions object that the web UI, the terminal, the command line and the tests load."""

import dagster as dg

from avalanche_dagster.assets.gain_grid import phase2_gain_grid
from avalanche_dagster.assets.single_step import single_step_assets
from avalanche_dagster.jobs import full_pipeline, phase_jobs, ray_jobs
from avalanche_dagster.resources import Instrument
from avalanche_dagster.sensors import analyze_when_nulls_are_complete

defs = dg.Definitions(
    assets=[*single_step_assets, phase2_gain_grid],
    jobs=[*phase_jobs, full_pipeline, *ray_jobs()],
    resources={"instrument": Instrument()},
    sensors=[analyze_when_nulls_are_complete],
    executor=dg.in_process_executor,
)
