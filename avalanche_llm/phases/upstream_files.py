"""Reading back what earlier phases left: one reader for each artifact, hash checked before use."""

from typing import Any

import numpy as np
import pandas as pd

from avalanche_llm.errors import MissingArtifact
from avalanche_llm.events.rate_match import RateTargets
from avalanche_llm.events.standardize import CalibrationStats
from avalanche_llm.io.files import read_frame, read_json, read_npz, read_rows
from avalanche_llm.io.store import Upstream


def calibration_stats(run: Upstream) -> CalibrationStats:
    """mu and sigma of phase 1."""
    arrays = read_npz(run.artifact("calibration_stats"), {"mu": 2, "sigma": 2, "n_samples": 0})
    return CalibrationStats(arrays["mu"], arrays["sigma"], int(arrays["n_samples"]))


def rate_targets_of(run: Upstream) -> RateTargets:
    """r_base and r_star of phase 1."""
    path = run.artifact("rate_targets")
    stored = read_json(path, "spike_defs", "n_samples_per_layer")
    try:
        r_base = {entry["spike_def_id"]: np.array(entry["r_base"]) for entry in stored["spike_defs"]}
        r_star = {
            (entry["spike_def_id"], float(target["target_rate"])): np.array(target["r_star"])
            for entry in stored["spike_defs"]
            for target in entry["targets"]
        }
        return RateTargets(int(stored["n_samples_per_layer"]), r_base, r_star)
    except (ValueError, KeyError, TypeError) as error:
        raise MissingArtifact(
            f"{path} is not the rate_targets.json that was expected ({error!r}); rebuild {run.run_id}"
        ) from error


def gstar_rows(run: Upstream) -> list[dict[str, Any]]:
    """The cells of gstar.json, each with its gain, status and interval."""
    columns = ("spike_def_id", "target_rate", "gstar", "status", "distance", "ci_low", "ci_high")
    return read_rows(run.artifact("gstar"), "selections", *columns)


def gstar_frame(run: Upstream) -> pd.DataFrame:
    """The same as a frame, its interval as gstar_ci_low and gstar_ci_high; NaN where no resample had a choice."""
    found = pd.DataFrame(gstar_rows(run)).rename(columns={"ci_low": "gstar_ci_low", "ci_high": "gstar_ci_high"})
    return found.astype({"gstar_ci_low": np.float64, "gstar_ci_high": np.float64})


def frame(run: Upstream, name: str) -> pd.DataFrame:
    """A parquet artifact as a data frame."""
    return read_frame(run.artifact(name))
