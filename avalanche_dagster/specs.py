"""Asset specs from the stage table: key [command, artifact], group, kinds, what a reader would want to know."""

from collections.abc import Mapping
from fnmatch import fnmatchcase as fnmatch
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
        (
            "phase2_gain_grid",
            "tau_rate_matched",
        ): "Exact threshold of every gain, layer, definition and rate, with its rate errors.",
        (
            "phase2_gain_grid",
            "branching_sums",
        ): "Branching numerators and denominators of every sequence, with exact null expectations.",
        ("phase2_gain_grid", "metrics"): "Branching over gain with intervals, null expectations and achieved rates.",
        ("phase3_extract_rasters", "rasters_token_layer"): "Event counts and occupancy by condition, sequence, layer, token.",
        ("phase3_extract_rasters", "raster_tokens"): "The tokens of the rasters' sequences, as ids and as text.",
        ("phase3_extract_rasters", "metrics"): "The conditions of the rasters, their held-out rates and their branching.",
        (
            "phase4_run_nulls",
            "rasters_nulls",
        ): "One surrogate of every raster under each null, and the rasters of shuffled input.",
        (
            "phase4_run_nulls",
            "tau_rate_matched",
        ): "Thresholds of every gain, layer, definition and rate, shuffled input included.",
        ("phase4_run_nulls", "null_marginals"): "Whether each surrogate keeps its marginals exactly, and its seeds.",
        ("phase5_analyze_and_export", "metrics"): "Every measure of every condition of the grid.",
        ("phase5_analyze_and_export", "avalanches"): "Every connected component, 4 and 8 neighbours.",
        ("phase5_analyze_and_export", "null_comparison"): "Branching of the held-out rasters and of each surrogate.",
        (
            "phase5_analyze_and_export",
            "signatures",
        ): "Whether susceptibility peaks near g*: a verdict for each definition and rate.",
        ("phase5_analyze_and_export", "ablation_events"): "The largest activations under every ablation.",
        ("phase6_generalize_b_metrics", "activation_events"): "Every event of data set B at the thresholds of data set A.",
        ("phase6_generalize_b_metrics", "sequence_nll"): "Negative log-likelihood of every sequence of B at every gain.",
        ("phase6_generalize_b_metrics", "metrics"): "Branching and likelihood on data set B, with paired differences.",
        ("phase6_arc_mcq_eval", "arc_questions"): "Every question at every gain: the score of each choice, what was chosen.",
        ("phase7_paper_export", "paper_snapshot"): "The paper on one page: every verdict with its numbers.",
        ("phase7_paper_export", "paper_methods"): "What was measured and how, from the resolved config.",
        ("phase7_paper_export", "paper_results"): "What was found, every number read from a table.",
        ("phase7_paper_export", "paper_limitations"): "What the numbers do not show.",
        ("phase7_paper_export", "paper_provenance"): "Runs, hashes, versions and settings behind every number.",
        ("phase7_paper_export", "paper_claims"): "Every claim with its verdict and the artifact that decides it.",
        ("phase7_paper_export", "paper_references"): "The cited works.",
        ("phase7_paper_export", "paper_pdf"): "All sections as one PDF, where pandoc and LaTeX are there.",
        ("phase7_paper_export", "claims"): "Claims, verdicts, evidence with run ids and hashes, for programs.",
        ("phase8_release", "manifest"): "sha256 of every file of the release.",
        ("phase8_release", "release_zip"): "The pack and the chosen runs as one archive, the same bytes whenever it is made.",
        ("report", "report"): "The whole measurement on one page for a browser: verdicts, figures, tables, provenance.",
        ("phase2_select_gstar", "gstar"): "The chosen gain of every definition and rate, with status, distance and interval.",
    }
)
KINDS: Final = MappingProxyType(
    {
        ".npz": "numpy",
        ".parquet": "parquet",
        ".json": "json",
        ".csv": "csv",
        ".pdf": "matplotlib",
        ".png": "matplotlib",
        ".md": "markdown",
        ".bib": "bibtex",
        ".sha256": "sha256",
        ".zip": "zip",
        ".html": "plotly",
    }
)
ARRAYS: Final = frozenset({"calibration_stats", "rate_targets", "activation_events", "rasters_token_layer", "rasters_nulls"})
"""What comes out of a forward pass itself."""
EXPORTS: Final = MappingProxyType(
    {
        "T01": "Summary of every condition of the gain grid",
        "T02": "Data set B at g = 1 and g*, thresholds and calibration of data set A",
        "T03": "ARC questions at g = 1 and g*, paired",
        "T07": "BASE beside INSTRUCT: g* and what was measured there",
        "T04": "Tail fits of avalanche sizes and their likelihood ratios",
        "T05": "Diagnostics of the crackling relation, with the gate's reason where it fails",
        "T06": "The gain on attention and on bands of MLPs, against the MLPs of all layers",
        "F01": "Raster of one sequence with its connected components",
        "F02": "Achieved against target rate, with both tolerances",
        "F03": "Branching along tokens, along layers and in total over gain",
        "F04": "Branching over its permutation and shift expectations",
        "F05": "g* on the branching curve, with its status and interval",
        "F06": "Data set B at g = 1 against g*, paired by condition",
        "F07": "ARC accuracy at g = 1 and g*, with chance and the paired difference",
        "F08": "Both spike definitions side by side",
        "F09": "Susceptibility over gain, and its peak against g*",
        "F10": "Branching of every surrogate beside the observed raster",
        "F11": "Ablations by intervention and target",
    }
)

_EVIDENCE: Final = ("T0*", "F*_pdf", "signatures")
READS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "PHASE1_CALIBRATE": {},
        "PHASE2_GAIN_GRID": {"PHASE1_CALIBRATE": ("*",)},
        "PHASE2_SELECT_GSTAR": {"PHASE2_GAIN_GRID": ("branching_sums",)},
        "PHASE3_EXTRACT_RASTERS": {
            "PHASE1_CALIBRATE": ("calibration_stats",),
            "PHASE2_GAIN_GRID": ("tau_rate_matched",),
            "PHASE2_SELECT_GSTAR": ("gstar",),
        },
        "PHASE4_RUN_NULLS": {
            "PHASE1_CALIBRATE": ("*",),
            "PHASE2_GAIN_GRID": ("tau_rate_matched",),
            "PHASE3_EXTRACT_RASTERS": ("rasters_token_layer", "metrics"),
        },
        "PHASE5_ANALYZE_AND_EXPORT": {
            "PHASE1_CALIBRATE": ("*",),
            "PHASE2_GAIN_GRID": ("activation_events", "tau_rate_matched", "metrics"),
            "PHASE2_SELECT_GSTAR": ("gstar",),
            "PHASE3_EXTRACT_RASTERS": ("rasters_token_layer", "metrics"),
            "PHASE4_RUN_NULLS": ("rasters_nulls", "null_marginals"),
        },
        "PHASE6_GENERALIZE_B_METRICS": {
            "PHASE1_CALIBRATE": ("calibration_stats",),
            "PHASE2_GAIN_GRID": ("tau_rate_matched",),
            "PHASE2_SELECT_GSTAR": ("gstar",),
        },
        "PHASE6_ARC_MCQ_EVAL": {"PHASE2_SELECT_GSTAR": ("gstar",)},
        "PHASE7_PAPER_EXPORT": {
            phase: _EVIDENCE for phase in ("PHASE5_ANALYZE_AND_EXPORT", "PHASE6_GENERALIZE_B_METRICS", "PHASE6_ARC_MCQ_EVAL")
        },
        "PHASE8_RELEASE": {"PHASE7_PAPER_EXPORT": ("*",)},
        "REPORT": {"PHASE7_PAPER_EXPORT": ("claims",)},
    }
)
"""What each phase reads of the runs that it needs, by name or pattern (a test watches it read). What the paper, the release and
the report read further up they reach through the records of those runs."""


def asset_key(stage: Stage, name: str) -> dg.AssetKey:
    """Key of one artifact of a stage."""
    return dg.AssetKey([stage.command, name])


def describe(stage: Stage, name: str) -> str:
    """What a reader of the catalogue would want to know of an artifact."""
    known = DESCRIPTIONS.get((stage.command, name))
    return known or f"{EXPORTS[name.split('_', 1)[0]]} ({name.rsplit('_', 1)[1].upper()})."


def upstream_keys(stage: Stage) -> list[dg.AssetKey]:
    """Keys of the artifacts that a stage reads; a step is skipped with what it waits for, so no optional one."""
    return [
        asset_key(upstream, name)
        for upstream, patterns in ((stages()[phase], patterns) for phase, patterns in READS[stage.phase_id].items())
        for name in upstream.artifacts
        if name not in upstream.optional and any(fnmatch(name, pattern) for pattern in patterns)
    ]


def asset_specs(stage: Stage) -> list[dg.AssetSpec]:
    """One spec an artifact. The code version is the package's: a new release makes its assets stale."""
    return [
        dg.AssetSpec(
            asset_key(stage, name),
            deps=upstream_keys(stage),
            description=describe(stage, name),
            group_name=stage.command.split("_")[0],
            kinds={"torch" if stage.runs_model and name in ARRAYS else "python", KINDS["." + path.rsplit(".", 1)[1]]},
            owners=[OWNER],
            code_version=__version__,
            partitions_def=model_roles,
            skippable=name in stage.optional,
        )
        for name, path in stage.artifacts.items()
    ]
