"""04_PROVENANCE: the runs behind the paper, their models, data, versions and determinism, from their records alone (spec 20)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from avalanche_llm.io.store import Upstream
from avalanche_llm.paper.facts import Fact, Origin
from avalanche_llm.paper.inputs import PaperInputs, recorded
from avalanche_llm.paper.prose import Filling, Prose, bullets, heading, joined, prose, table

_RUN: Final = ("run", "phase", "role", "artifacts", "code", "config sha256", "record sha256")


def provenance(inputs: PaperInputs) -> list[Prose]:
    """The blocks of the section. Nothing in it depends on when the paper was made."""
    return [
        heading("Provenance", 1),
        heading("Runs"),
        table(_RUN, [_run(run) for run in inputs.chain]),
        heading("Models"),
        *(
            bullets([joined([f"{name}: ", recorded(run, "model", name)], "") for name in sorted(run.record["model"])])
            for run in _first_of_each_role(inputs)
        ),
        heading("Data"),
        table(["run", "slice", "source", "windows", "sha256 of its tokens"], _slices(inputs)),
        heading("Versions"),
        table(["what", "version", "runs"], _over_runs(inputs, "versions")),
        heading("Determinism"),
        table(
            ["flag", "value", "runs"],
            [*_over_runs(inputs, "determinism", "flags"), *_over_runs(inputs, "determinism", only=("seed", "strict"))],
        ),
        _unavailable(inputs),
    ]


def _run(run: Upstream) -> list[Filling]:
    sha = Origin.of_record(run).sha256
    return [
        recorded(run, "run_id"),
        recorded(run, "phase_id"),
        recorded(run, "model", "role"),
        Fact(len(run.record["artifact_index"]), "files", Origin.of_record(run), "", "count(artifact_index)"),
        recorded(run, "hashes", "code_version"),
        recorded(run, "hashes", "config_sha256"),
        Fact(sha, "", Origin.of_record(run), "", "sha256", exact=True),
    ]


def _first_of_each_role(inputs: PaperInputs) -> list[Upstream]:
    return [next(iter(side.values())) for side in (inputs.runs, inputs.twin) if side]


def _slices(inputs: PaperInputs) -> list[list[Filling]]:
    """Every slice once a role and hash, under the first run that used it."""
    seen: dict[tuple[str, str], list[Filling]] = {}
    for run in inputs.chain:
        for role, entry in run.record["dataset"].items():
            windows: Filling = recorded(run, "dataset", role, "n_windows") if "n_windows" in entry else "-"
            row: list[Filling] = [recorded(run, "run_id"), role, recorded(run, "dataset", role, "id"), windows]
            seen.setdefault((role, entry["sha256"]), [*row, recorded(run, "dataset", role, "sha256")])
    return list(seen.values())


def _over_runs(inputs: PaperInputs, *path: str, only: Sequence[str] = ()) -> list[list[Filling]]:
    """Name, value and which runs have it: one row where all agree. `only`: these names of the section, else all."""
    found: dict[tuple[str, str], list[Fact]] = {}
    for run in inputs.chain:
        section: Mapping[str, Any] = run.record
        for key in path:
            section = section[key]
        for name in only or section:
            fact = recorded(run, *path, name)
            found.setdefault((name, str(fact)), []).append(fact)
    return [[name, facts[0], _which(inputs, facts)] for (name, _), facts in sorted(found.items(), key=lambda item: item[0])]


def _which(inputs: PaperInputs, facts: list[Fact]) -> Filling:
    return "all" if len(facts) == len(inputs.chain) else joined([_run_id(fact) for fact in facts])


def _run_id(fact: Fact) -> Fact:
    """The run that a fact was read from."""
    return Fact(fact.origin.run_id, "", fact.origin, "", "run_id", exact=True)


def _unavailable(inputs: PaperInputs) -> Prose:
    """Kernels without a deterministic version, as the runs met them."""
    met = [
        prose(
            "{run}: {kernel}",
            run=recorded(run, "run_id"),
            kernel=Fact(kernel, "", Origin.of_record(run), "", "determinism.unavailable", exact=True),
        )
        for run in inputs.chain
        for kernel in run.record["determinism"]["unavailable"]
    ]
    return bullets(met) if met else prose("No kernel without a deterministic version was met.")
