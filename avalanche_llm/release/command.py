"""The `verify` command: prints one verdict a run, what differs below it, and a tally. Heavy imports stay inside."""

from argparse import Namespace
from collections import Counter

from avalanche_llm.commands import make_request
from avalanche_llm.errors import DeterminismError


def verify(arguments: Namespace) -> None:
    """Verify runs or releases. Raises DeterminismError (exit 2) unless every one of them is intact."""
    from avalanche_llm.release.verify import is_release, runs_to_verify, verify_release, verify_runs
    from avalanche_llm.resources import local

    store = make_request(arguments).job().store
    releases = [target for target in arguments.targets if is_release(target)]
    run_ids = [target for target in arguments.targets if target not in releases]
    chain = runs_to_verify(store, run_ids) if run_ids or not releases else []
    if arguments.dry_run:
        print("\n".join([*releases, *chain]))
        return
    with_tables = not arguments.no_tables
    found = [verdict for release in releases for verdict in verify_release(local(release), with_tables=with_tables)]
    if chain:
        found += verify_runs(store, chain, with_tables=with_tables)
    for verdict in found:
        print(f"{verdict.subject:24}  {verdict.status}")
        for finding in verdict.findings:
            print(f"    {finding.text}")
    tally = Counter(verdict.status for verdict in found)
    print(f"{tally['intact']} intact, {tally['changed']} changed, {tally['incomplete']} incomplete")
    wrong = [verdict.subject for verdict in found if verdict.status != "intact"]
    if wrong:
        raise DeterminismError(
            f"{len(wrong)} of {len(found)} are not as recorded, first {wrong[0]}; restore what is named above or make it again"
        )
