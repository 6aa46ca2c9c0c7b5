"""The `verify` command: prints one verdict a run, what differs below it, and a tally. Heavy imports stay inside."""

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from avalanche_llm.commands import make_request
from avalanche_llm.errors import DeterminismError

if TYPE_CHECKING:
    from avalanche_llm.release.chain import Verdict


def verify(arguments: Namespace) -> None:
    """Verify runs or releases. Raises DeterminismError (exit 2) unless every one of them is intact."""
    from avalanche_llm.release.verify import is_release, runs_to_verify, verify_release, verify_runs

    store = make_request(arguments).job().store
    releases = [target for target in arguments.targets if is_release(target)]
    run_ids = [target for target in arguments.targets if target not in releases]
    chain = runs_to_verify(store, run_ids) if run_ids or not releases else []
    if arguments.dry_run:
        print("\n".join([*releases, *chain]))
        return
    with_tables = not arguments.no_tables

    def found() -> "Iterator[Verdict]":
        for release in releases:
            yield from verify_release(Path(release), with_tables=with_tables)
        if chain:
            yield from verify_runs(store, chain, with_tables=with_tables)

    wrong, tally = [], Counter[str]()
    for verdict in found():
        print(f"{verdict.subject:24}  {verdict.status}", flush=True)
        for finding in verdict.findings:
            print(f"    {finding.text}", flush=True)
        tally[verdict.status] += 1
        wrong += [verdict.subject] if verdict.status != "intact" else []
    print(", ".join(f"{tally[status]} {status}" for status in ("intact", "changed", "incomplete")))
    if wrong:
        raise DeterminismError(
            f"{len(wrong)} of {tally.total()} are not as recorded, first {wrong[0]}; restore what is named above or make it again"
        )
