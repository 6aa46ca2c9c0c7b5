"""What the command line says of itself: one line a command, and examples that work on the demo."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

VALIDATE: Final = "phase0_validate_env"
RUN_ALL: Final = "run_all"
REGISTER: Final = "register"
RUNS: Final = "runs"
VERIFY: Final = "verify"
REPORT: Final = "report"
COMPLETION: Final = "completion"

HELP: Final[Mapping[str, str]] = MappingProxyType(
    {
        VALIDATE: "check device, versions, hooks and that models and data can be reached; writes nothing",
        "phase1_calibrate": "mean and spread of every unit at g = 1, target rates",
        "phase2_gain_grid": "one forward pass per gain: events, thresholds, branching",
        "phase2_select_gstar": "choose g* from branching on data set A",
        "phase3_extract_rasters": "rasters at g = 1 and g* on held-out windows",
        "phase4_run_nulls": "surrogate rasters",
        "phase5_analyze_and_export": "avalanches, statistics, tables, figures",
        "phase6_generalize_b_metrics": "data set B at g = 1 and g*",
        "phase6_arc_mcq_eval": "ARC questions at g = 1 and g*",
        "phase7_paper_export": "paper sections from the tables",
        "phase8_release": "manifest and archive",
        REPORT: "one HTML page over a paper and all it rests on: verdicts, charts, figures, tables, provenance",
        RUN_ALL: "run what is missing, in order, and print a summary",
        REGISTER: "show runs that another machine made in the web UI (all complete ones, or those named)",
        RUNS: "list the runs, or show one: what it found, what it read, what rests on it",
        VERIFY: "check that runs, or a release, are what their records say, and make their tables again; writes nothing",
    }
)
"""The commands of the registry (CANON.CLI.CMD), in pipeline order."""

COMPLETION_HELP: Final = "print a script that completes commands, flags and run ids in a shell"

_RUN_ID: Final = "RUN_S05_0123456789ab"
_PLAN: Final = ("--config configs/demo.yaml --dry_run", "what it would read, make and cost")
_DO: Final = ("--config configs/demo.yaml", "")
EXAMPLES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = MappingProxyType(
    {
        VALIDATE: (_DO, ("--device cuda:1 --dtype bf16", "the canonical config on the second GPU")),
        "phase1_calibrate": (_PLAN, _DO, ("--config configs/demo.yaml --data_a mine.txt", "another text")),
        "phase2_gain_grid": (_PLAN, ("--config configs/demo.yaml --allow_resume", "go on where it was stopped")),
        "phase2_select_gstar": (_DO, ("--config configs/demo.yaml --gstar_method excess_peak", "another rule, same passes")),
        "phase3_extract_rasters": (_PLAN, _DO),
        "phase4_run_nulls": (_PLAN, _DO),
        "phase5_analyze_and_export": (_PLAN, _DO),
        "phase6_generalize_b_metrics": (_DO, ("--config configs/demo.yaml --data_b other.txt", "another text")),
        "phase6_arc_mcq_eval": (_DO, ("--arc_config ARC-Easy --arc_split validation", "the easier questions")),
        "phase7_paper_export": (_DO, (f"--config configs/demo.yaml --dep {_RUN_ID}", "from this analysis, where several fit")),
        "phase8_release": (_DO,),
        REPORT: (_DO, (_RUN_ID, "the page over these runs, with their own config")),
        RUN_ALL: (
            _PLAN,
            _DO,
            ("--config mine.yaml --model_id org/model --device cuda --dtype bf16", "one model, named here"),
        ),
        REGISTER: (("--runs_dir /mnt/cluster/runs", "every complete run there"), (f"--runs_dir runs {_RUN_ID}", "")),
        RUNS: (("list", ""), (f"show {_RUN_ID}", ""), ("list --runs_dir /mnt/cluster/runs", "another folder")),
        VERIFY: (("", "every run of the runs folder"), (_RUN_ID, ""), ("release.zip", "a release from someone else")),
    }
)
"""By command: arguments, and what they are for where that is not plain."""


def examples_of(command: str, prog: str) -> str:
    """The examples of one command as the end of its help."""
    lines = []
    for arguments, purpose in EXAMPLES[command]:
        line = f"  {prog} {arguments}".rstrip()
        lines.append(f"{line}    # {purpose}" if purpose else line)
    return "\n".join(["examples:", *lines])
