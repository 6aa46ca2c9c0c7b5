"""The phases that are one step each. What they do is in `avalanche_llm.phases`; it is imported when a step runs."""

from importlib import import_module
from types import MappingProxyType
from typing import Final

from avalanche_dagster.assets.phase import PhaseFunction, phase_assets

FUNCTIONS: Final = MappingProxyType(
    {
        "PHASE1_CALIBRATE": "calibrate:calibrate",
        "PHASE2_SELECT_GSTAR": "select_gstar:select_gstar",
        "PHASE3_EXTRACT_RASTERS": "extract_rasters:extract_rasters",
        "PHASE4_RUN_NULLS": "run_nulls:run_nulls",
        "PHASE5_ANALYZE_AND_EXPORT": "analyze:analyze",
        "PHASE6_GENERALIZE_B_METRICS": "generalize:generalize",
        "PHASE6_ARC_MCQ_EVAL": "arc:evaluate_arc",
        "PHASE7_PAPER_EXPORT": "paper_export:export_paper",
        "PHASE8_RELEASE": "release:release",
        "REPORT": "report:report",
    }
)


def load(phase_id: str) -> PhaseFunction:
    """The library function of a phase."""
    module, name = FUNCTIONS[phase_id].split(":")
    function: PhaseFunction = getattr(import_module(f"avalanche_llm.phases.{module}"), name)
    return function


single_step_assets = [phase_assets(phase_id, load) for phase_id in FUNCTIONS]
