"""Asset specs from the stage table: key [command, artifact], group, kinds, what a reader would want to know."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import dagster as dg

from avalanche_dagster.partitions import model_roles
from avalanche_llm import __version__
from avalanche_llm.stages import Stage, stages

OWNER: Final = "team:avalanche_llm"
DESCRIPTIONS: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        ("phase1_calibrate", "calibration_stats"): "Mean and standard deviation of every MLP unit at g = 1 on data set A.",
        ("phase1_calibrate", "rate_targets"): "Event rate that each layer must have, by spike definition and target.",
        ("phase2_gain_grid", "activation_events"): "The largest standardised activations of every gain: the sparse activations.",
        ("phase2_gain_grid", "tau_rate_matched"): "Exact threshold of every gain, layer, definition and rate, with its rate errors.",
        ("phase2_gain_grid", "branching_sums"): "Branching numerators and denominators of every sequence, with exact null expectations.",
        ("phase2_gain_grid", "metrics"): "Branching over gain with intervals, null expectations and achieved rates.",
        ("phase2_select_gstar", "gstar"): "The chosen gain of every definition and rate, with status, distance and interval.",
    }
)
KINDS: Final = MappingProxyType({".npz": "numpy", ".parquet": "parquet", ".json": "json", ".csv": "csv", ".pdf": "matplotlib"})


def asset_key(stage: Stage, name: str) -> dg.AssetKey:
    """Key of one artifact of a stage."""
    return dg.AssetKey([stage.command, name])


def upstream_keys(stage: Stage) -> list[dg.AssetKey]:
    """Keys of every artifact of the stages that this one reads."""
    return [asset_key(stages()[phase], name) for phase in stage.needs for name in stages()[phase].artifacts]


def asset_specs(stage: Stage) -> list[dg.AssetSpec]:
    """One spec an artifact. The code version is the package's: a new release makes its assets stale."""
    return [
        dg.AssetSpec(
            asset_key(stage, name),
            deps=upstream_keys(stage),
            description=DESCRIPTIONS[stage.command, name],
            group_name=stage.command.split("_")[0],
            kinds={"torch" if stage.runs_model else "python", KINDS["." + path.rsplit(".", 1)[1]]},
            owners=[OWNER],
            code_version=__version__,
            partitions_def=model_roles,
        )
        for name, path in stage.artifacts.items()
    ]
