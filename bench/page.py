"""docs/performance.md from the measurements: every number is read from performance.json."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]

HEAD = """# Performance

Made by `make bench` from [performance.json](performance.json); no number is typed by hand. The limit of a phase is what its
forward passes take bare: the decoder alone, no hooks, and with the language-model head only where every position is
predicted (`phase6_generalize_b_metrics`), timed in another process before each pass of the phase.
"""


def page(results: Results) -> str:
    """The page in Markdown. A part that was not measured is left out."""
    blocks = [HEAD]
    for name, section in SECTIONS.items():
        if name in results:
            blocks.append(section(results[name]))
    return "\n".join(blocks)


def startup(found: Results) -> str:
    rows = [("`--help`", found["help_s"]), ("`phase1_calibrate --dry_run`", found["dry_run_s"])]
    rows.append(("`phase1_calibrate` to its model and data loaded", found["to_data_s"]))
    return _section("Before the work begins", found, f"Median of {found['repeats']} processes.", ("command", "s"), rows)


def commands(found: Results) -> str:
    text = "Start to end, as a person runs them one after the other."
    rows = [(f"`{name}`", *(of[key] for key in ("wall_s", "cpu_s", "peak_gib"))) for name, of in found["commands"].items()]
    return _section("The demo, each command in a process of its own", found, text, ("command", "s", "CPU s", "peak, GiB"), rows)


def flags(found: Results) -> str:
    text = (
        f"Bare passes over {found['slice_tokens']} tokens in turn, median of {found['repeats']} each: {found['ratio']} times the "
        "seconds with the flags. The limits below are measured with them, as the phases are."
    )
    rows = [("off", found["without_s"]), ("on", found["with_s"])]
    return _section("Deterministic flags", found, text, ("flags", "s"), rows)


def pipeline(title: str) -> Callable[[Results], str]:
    def section(found: Results) -> str:
        phases = [(name.lower(), cost) for name, cost in found["phases"].items()]
        rows = [
            (
                f"`{name}`",
                cost["passes"],
                cost["limit_s"],
                cost["wall_s"],
                cost["ratio"] if cost["limit_s"] else "",
                cost["planned_s"] or "",
                round(cost["cpu_s"], 1),
                cost["peak_gib"],
                round(cost["written_bytes"] / 2**20, 1),
            )
            for name, cost in phases
        ]
        whole = found["all"]
        rows.append(("all", "", whole["limit_s"], whole["wall_s"], whole["ratio"], "", "", "", ""))
        parts = sorted({part for _, cost in phases for part in cost["parts_s"]})
        spent = [(f"`{part}`", round(sum(cost["parts_s"].get(part, 0.0) for _, cost in phases), 2)) for part in parts]
        text = (
            f"One bare pass over the slice of {found['slice_tokens']} tokens: {found['bare_pass_s']} s. Passes are over that "
            f"slice; `--dry_run` is its estimate before the run. Repeats: {found['repeats']}, each figure their median. "
            "Peaks are those of the one process that runs all phases."
        )
        names = ("phase", "passes", "limit, s", "took, s", "ratio", "`--dry_run`, s", "CPU s", "peak, GiB", "wrote, MiB")
        shown = [row for row in sorted(spent, key=lambda row: -row[1]) if row[1] > 0]
        return (
            _section(title, found, text, names, rows)
            + "\nSeconds in named functions, all phases together (one lies within another):\n\n"
            + _table(("function", "s"), shown)
        )

    return section


def collector(title: str) -> Callable[[Results], str]:
    def section(found: Results) -> str:
        names = ("windows", "layers", "d_ff", "gains", "seconds", "ns a sample", "events", "peak above the source, GiB")
        keys = ("windows", "layers", "d_ff", "gains", "seconds", "ns_per_sample", "events", "peak_above_source_gib")
        rows = [[shape[key] for key in keys] for shape in found["shapes"]]
        text = "Windows of 256 tokens of heavy-tailed noise, no model: what collecting the events costs, gain after gain."
        return _section(title, found, text, names, rows)

    return section


def statistics(found: Results) -> str:
    shape = " x ".join(str(size) for size in found["shape"])
    text = (
        f"{found['conditions']} conditions of {shape} (sequences, layers, tokens), bootstrap and null ensembles included: "
        f"{found['seconds']} s, peak {found['peak_gib']} GiB."
    )
    rows = [(f"`{name}`", seconds) for name, seconds in sorted(found["parts_s"].items(), key=lambda part: -part[1])]
    return _section("Rasters to numbers, at the size of a 7B model", found, text, ("part", "s"), rows)


SECTIONS: Mapping[str, Callable[[Results], str]] = {
    "startup": startup,
    "commands": commands,
    "flags": flags,
    "small": pipeline("8 windows of 128 tokens, 5 gains"),
    "demo": pipeline("The demo"),
    "collector": collector("The collector alone, over its shape"),
    "collector_7b": collector("The collector alone, at the shape of a 7B model"),
    "statistics": statistics,
}


def _section(title: str, found: Results, text: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    of = found["machine"]
    torch = f"torch {of['torch']} with {of['torch_threads']} threads"
    machine = f"{of['architecture']}, {of['cores']} cores, {of['memory_gib']} GiB, {torch}, Python {of['python']}."
    return f"## {title}\n\n{text} Measured on: {machine}\n\n{_table(names, rows)}"


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)
