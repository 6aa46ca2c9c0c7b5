"""`python -m avalanche_llm.validity`: simulate, compare with the truth, write docs/validity.json, validity.md and figures.

With `--render` nothing is simulated: report and figures are made again from the JSON that is there.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from avalanche_llm.canon import load_canon
from avalanche_llm.errors import AvalancheError, MissingArtifact
from avalanche_llm.io.files import raw, write_atomically
from avalanche_llm.validity.figures import figure_files
from avalanche_llm.validity.limits import Limits
from avalanche_llm.validity.report import report
from avalanche_llm.validity.results import Repetitions, from_json, run_studies, to_json


def validate(folder: Path, repetitions: Repetitions, *, workers: int) -> None:
    """Run every study and write results, report and figures under `folder`."""
    write_atomically(folder / "validity.json", raw(to_json(run_studies(repetitions, Limits.of(load_canon()), workers=workers))))
    render(folder)


def render(folder: Path) -> None:
    """Report and figures from `folder`/validity.json. Raises MissingArtifact if it is not there."""
    path = folder / "validity.json"
    if not path.is_file():
        raise MissingArtifact(f"{path} is missing: run python -m avalanche_llm.validity without --render")
    data = path.read_bytes()
    results = from_json(data)
    for name, png in figure_files(results, data).items():
        write_atomically(folder / "figures" / name, raw(png))
    write_atomically(folder / "validity.md", raw(report(results).encode("utf-8")))


def at_least(least: int, text: str) -> int:
    """A whole number from the command line: two repetitions have a spread, one process does work."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} up, found {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m avalanche_llm.validity", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    parser.add_argument("--repetitions", type=partial(at_least, 2), default=1000, help="of branching and of the claims' rules")
    parser.add_argument("--other_repetitions", type=partial(at_least, 2), default=200, help="of every other study")
    parser.add_argument("--workers", type=partial(at_least, 1), default=os.cpu_count() or 1)
    parser.add_argument("--render", action="store_true", help="only make report and figures again")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.render:
            render(chosen.folder)
        else:
            validate(chosen.folder, Repetitions(chosen.repetitions, chosen.other_repetitions), workers=chosen.workers)
    except AvalancheError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"validity report: {chosen.folder / 'validity.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
