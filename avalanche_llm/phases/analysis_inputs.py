"""What phase 5 reads of the runs before it, each artifact once and only when it is asked for."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from avalanche_llm.analysis.conditions import Condition, conditions_from_frame
from avalanche_llm.analysis.null_rows import null_rows
from avalanche_llm.analysis.summarize import Row
from avalanche_llm.events.collect import LayerTail
from avalanche_llm.events.rate_match import RateTargets
from avalanche_llm.events.tail_files import read_events, rows_of_gain, table_to_tails
from avalanche_llm.io.files import read_npz
from avalanche_llm.io.store import Upstream
from avalanche_llm.metrics.stats import bootstrap_weights
from avalanche_llm.phases.gain_grid import calibration_lattice
from avalanche_llm.phases.job import Job
from avalanche_llm.phases.upstream_files import frame, gstar_frame, rate_targets_of
from avalanche_llm.stages import stages


@dataclass(frozen=True)
class AnalysisInputs:
    """The upstream runs of phase 5 and what it reads from them, each artifact once."""

    job: Job
    s01: Upstream
    s02: Upstream
    s02b: Upstream
    s03: Upstream
    s04: Upstream

    @classmethod
    def of(cls, job: Job) -> "AnalysisInputs":
        """The runs that phase 5 of this job reads."""
        return cls(job, *(job.upstream(phase) for phase in stages()["PHASE5_ANALYZE_AND_EXPORT"].needs))

    @property
    def n_layers(self) -> int:
        return len(next(iter(self.targets.r_base.values())))

    @cached_property
    def grid(self) -> pd.DataFrame:
        """The grid's metrics, a row a condition; its index is the cond_id of metrics.parquet and avalanches.parquet."""
        return frame(self.s02, "metrics")

    @cached_property
    def targets(self) -> RateTargets:
        return rate_targets_of(self.s01)

    @cached_property
    def weights(self) -> np.ndarray:
        statistics = self.job.settings.statistics
        n_seq = self.job.settings.datasets.A.n_windows_calibration
        return bootstrap_weights(n_seq, reps=statistics.bootstrap_reps, seed=statistics.bootstrap_seed)

    @cached_property
    def tails(self) -> dict[float, list[LayerTail]]:
        """The candidate events of every gain of the grid."""
        events = read_events(self.s02.artifact("activation_events"))
        grid = self.job.settings.gains.grid
        return {gain: table_to_tails(rows_of_gain(events, index), n_layers=self.n_layers) for index, gain in enumerate(grid)}

    @cached_property
    def taus(self) -> pd.DataFrame:
        return frame(self.s02, "tau_rate_matched").set_index(["spike_def_id", "target_rate", "g"]).sort_index()

    @cached_property
    def gstar(self) -> pd.DataFrame:
        return gstar_frame(self.s02b)

    @cached_property
    def held_out(self) -> pd.DataFrame:
        return frame(self.s03, "metrics")

    @cached_property
    def conditions(self) -> list[Condition]:
        return conditions_from_frame(self.held_out)

    @cached_property
    def nulls(self) -> pd.DataFrame:
        """Branching of every surrogate of phase 4 beside the held-out rasters."""
        observed = read_npz(self.s03.artifact("rasters_token_layer"), {"X": 4})["X"]
        drawn = read_npz(self.s04.artifact("rasters_nulls"), {"X": 4, "null_id": 1, "cond_id": 1})
        return pd.DataFrame(null_rows(self.conditions, observed, drawn["null_id"], drawn["cond_id"], drawn["X"]))

    def counts(self, key: Row) -> np.ndarray:
        """A [seq, layer, token] of one condition of the grid, rebuilt from its events and thresholds."""
        tau = self.taus.loc[tuple(key.values())].sort_values("layer")["tau"].to_numpy()
        return calibration_lattice(self.job.settings).raster(self.tails[key["g"]], tau, key["spike_def_id"])


def keys_of(grid: pd.DataFrame) -> list[Row]:
    """The conditions of the grid in its order."""
    return [
        {str(name): value for name, value in row.items()} for row in grid[["spike_def_id", "target_rate", "g"]].to_dict("records")
    ]
