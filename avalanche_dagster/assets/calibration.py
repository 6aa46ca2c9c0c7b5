"""Phase 1 and the selection of phase 2: one step each."""

from collections.abc import Callable

from avalanche_dagster.assets.phase import phase_assets
from avalanche_llm.phases.job import Job


def _calibrate() -> Callable[[Job], str]:
    from avalanche_llm.phases.calibrate import calibrate

    return calibrate


def _select_gstar() -> Callable[[Job], str]:
    from avalanche_llm.phases.select_gstar import select_gstar

    return select_gstar


phase1_calibrate = phase_assets("PHASE1_CALIBRATE", _calibrate)
phase2_select_gstar = phase_assets("PHASE2_SELECT_GSTAR", _select_gstar)
