"""The measurement done the long way, with none of the code that is under test: every activation kept, every threshold from
a sort of all of them, every event found by a second look at everything."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import tiny
import torch
from transformers import AutoModelForCausalLM

from avalanche_llm.determinism import deterministic
from avalanche_llm.model.loader import DTYPES
from avalanche_llm.phases.job import Job

POS, ABS = "SPIKE_ONE_SIDED_POS", "SPIKE_TWO_SIDED_ABS"
Cell = tuple[str, float, float]
"""Spike definition, target rate, gain."""


def v_of(z: np.ndarray, spike_def: str) -> np.ndarray:
    return z if spike_def == POS else np.abs(z)


@dataclass(frozen=True)
class Naive:
    """u[layer, seq, token, unit] of every gain."""

    u: dict[float, torch.Tensor]
    burn_in: int
    eps: float

    @classmethod
    def of(cls, job: Job, windows: np.ndarray) -> "Naive":
        settings = job.settings
        decoder = AutoModelForCausalLM.from_pretrained(settings.model.hf_id, dtype=DTYPES[settings.run.dtype]).eval().base_model
        batch = settings.pipeline.batch_windows
        with deterministic(settings.determinism), torch.inference_mode():
            u = {gain: cls._pass(decoder, windows, gain, batch) for gain in settings.gains.grid}
        return cls(u, settings.pipeline.burn_in_tokens, settings.events.eps)

    @staticmethod
    def _pass(decoder: Any, windows: np.ndarray, gain: float, batch: int) -> torch.Tensor:
        """Batches as in the pipeline: the sums inside a matrix product may depend on its shape."""
        kept: list[list[torch.Tensor]] = [[] for _ in decoder.layers]
        handles = []
        for layer, of_layer in zip(decoder.layers, kept, strict=True):
            handles.append(
                layer.mlp.down_proj.register_forward_pre_hook(lambda module, given, into=of_layer: into.append(given[0].float()))
            )
            handles.append(layer.mlp.register_forward_hook(lambda module, given, output: output * gain))
        for first in range(0, len(windows), batch):
            decoder(input_ids=torch.from_numpy(windows[first : first + batch]), use_cache=False)
        for handle in handles:
            handle.remove()
        return torch.stack([torch.cat(of_layer) for of_layer in kept])

    def z(self, gain: float, mu: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """[layer, seq, token, unit], the burn-in left out."""
        deviation = self.u[gain][:, :, self.burn_in :] - torch.from_numpy(mu)[:, None, None]
        return (deviation / (torch.from_numpy(sigma) + torch.tensor(self.eps))[:, None, None]).numpy()


def stats_of(runs: Path) -> tuple[np.ndarray, np.ndarray]:
    """mu and sigma of phase 1."""
    with np.load(tiny.run_of(runs, "S01") / "results" / "calibration_stats.npz") as stats:
        return stats["mu"], stats["sigma"]


def grid_table(runs: Path, name: str) -> pd.DataFrame:
    """A table of the grid."""
    return pq.read_table(tiny.run_of(runs, "S02") / "results" / f"{name}.parquet").to_pandas()


def cells_of(job: Job) -> Iterator[Cell]:
    for spike_def in job.settings.events.spike_defs:
        for rate in job.settings.events.target_rates:
            for gain in job.settings.gains.grid:
                yield spike_def, rate, gain


def rows_of(frame: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """The rows of one cell."""
    spike_def, rate, gain = cell
    found = frame[(frame["spike_def_id"] == spike_def) & (frame["target_rate"] == rate) & (frame["g"] == gain)]
    return found.reset_index(drop=True)


def assert_same_events(job: Job, runs: Path, naive: Naive) -> None:
    """Thresholds, ties, and every single event with its z: what one pass kept is what a sort of everything gives."""
    mu, sigma = stats_of(runs)
    taus, events = grid_table(runs, "tau_rate_matched"), grid_table(runs, "activation_events")
    assert len(taus) == len(list(cells_of(job))) * len(mu)
    for gain in job.settings.gains.grid:
        z = naive.z(gain, mu, sigma)
        of_gain = {layer: frame for layer, frame in events[events["g"] == gain].groupby("layer")}
        for spike_def, rate, _ in (cell for cell in cells_of(job) if cell[2] == gain):
            tau = rows_of(taus, (spike_def, rate, gain))
            for layer, of_layer in enumerate(z):
                v = v_of(of_layer, spike_def)
                wanted = round(tau["r_star"][layer] * v.size)
                cut = np.partition(v, v.size - 1 - wanted, axis=None)[v.size - 1 - wanted]
                assert wanted > 20
                assert tau["tau"][layer] == cut
                assert tau["kept_events"][layer] == np.count_nonzero(v > cut)
                assert tau["n_ties"][layer] == np.count_nonzero(v == cut)
                found = of_gain[layer]
                found = found[v_of(found["z"].to_numpy(), spike_def) > cut]
                seq, token, unit = np.nonzero(v > cut)
                assert found["seq_id"].tolist() == seq.tolist()
                assert found["token"].tolist() == (token + naive.burn_in).tolist()
                assert found["unit"].tolist() == unit.tolist()
                assert found["z"].tolist() == of_layer[seq, token, unit].tolist()
