"""Reading back what earlier phases left: one reader for each artifact, hash checked before use."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from avalanche_llm.errors import MissingArtifact
from avalanche_llm.events.rate_match import RateTargets
from avalanche_llm.events.standardize import CalibrationStats
from avalanche_llm.io.files import read_npz
from avalanche_llm.io.store import Upstream


def calibration_stats(run: Upstream) -> CalibrationStats:
    """mu and sigma of phase 1."""
    arrays = read_npz(run.artifact("calibration_stats"), {"mu": 2, "sigma": 2, "n_samples": 0})
    return CalibrationStats(arrays["mu"], arrays["sigma"], int(arrays["n_samples"]))


def rate_targets_of(run: Upstream) -> RateTargets:
    """r_base and r_star of phase 1."""
    path = run.artifact("rate_targets")
    try:
        stored = json.loads(path.read_bytes())
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


def frame(run: Upstream, name: str) -> pd.DataFrame:
    """A parquet artifact as a data frame."""
    path = run.artifact(name)
    try:
        return pq.read_table(path).to_pandas()
    except (OSError, ValueError) as error:
        raise MissingArtifact(f"{path} cannot be read as parquet: {error}; rebuild {run.run_id}") from error
