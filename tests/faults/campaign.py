"""A campaign of kills and signals over every phase of the tiny model; exits 1 if any trial broke a promise (docs/reliability.md).

    python -m faults.campaign --trials 200 --seed 7            random moments, in every phase
    python -m faults.campaign --boundaries                     SIGKILL before, after and behind the record of every artifact
    python -m faults.campaign --signals 40 --seed 7            Ctrl-C and SIGTERM through the command line and Dagster

A trial: a fresh runs folder; a phase in a child, disturbed at the moment; then what is left is looked at, the phase is tried
without --allow_resume, resumed, and tried again.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from avalanche_llm.errors import AvalancheError
from avalanche_llm.io.artifacts import read_record
from avalanche_llm.io.store import RunStore
from avalanche_llm.release.chain import require_intact
from avalanche_llm.stages import Stage, stages
from faults.children import Completed, Renamed, Stop, forked
from faults.laboratory import Laboratory, recorded_files, tree

MESSAGE = "interrupted; nothing complete was touched. Continue with --allow_resume"
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}


@dataclass
class Trial:
    """One disturbance and what came of it; `broken` lists the promises that did not hold."""

    stage: Stage
    stop: Stop
    left: str = ""
    broken: list[str] = field(default_factory=list)

    def hold(self, promise: bool, otherwise: str) -> None:
        """Note a promise that does not hold."""
        if not promise:
            self.broken.append(otherwise)


class Campaign:
    """Trials in one laboratory."""

    def __init__(self, laboratory: Laboratory, *, keep: bool = False) -> None:
        self.laboratory, self.trials, self._keep = laboratory, list[Trial](), keep
        self._log = laboratory.base / "child.log"

    def random_kills(self, count: int, wanted: Sequence[Stage], draw: random.Random) -> Iterator[Trial]:
        """SIGKILL at a random operation or after a random time, phases in turn; of each third trial the resume is killed too."""
        for number in range(count):
            turn, place = divmod(number, len(wanted))
            runs = self.laboratory.before(wanted[place], f"kill-{number}")
            yield self._disturbed(wanted[place], runs, signal.SIGKILL, draw, timed=turn % 2 == 1, again=number % 3 == 0)
            self._gone(runs)

    def signals(self, count: int, wanted: Sequence[Stage], draw: random.Random) -> Iterator[Trial]:
        """SIGINT and SIGTERM in turn, to the command line, which runs the phase through Dagster."""
        for number in range(count):
            turn, place = divmod(number, len(wanted))
            runs = self.laboratory.before(wanted[place], f"signal-{number}")
            sent = (signal.SIGINT, signal.SIGTERM)[(turn + place) % 2]
            yield self._disturbed(wanted[place], runs, sent, draw, timed=bool(draw.getrandbits(1)))
            self._gone(runs)

    def boundaries(self, stage: Stage) -> Iterator[Trial]:
        """One run killed at each of its artifacts: before the rename, after it, after its record; resumed to the next kill."""
        runs = self.laboratory.before(stage, f"boundaries-{stage.tag}")
        folder, first = self.laboratory.folder(stage, runs), True
        for relative in self.laboratory.artifacts(stage):
            for place in ("before", "after", "recorded"):
                trial = Trial(stage, Stop(signal.SIGKILL, point=Renamed(folder / relative, place)))
                action = self.laboratory.phase(stage, runs, allow_resume=not first)
                ended = forked(action, self._log, trial.stop, runs)
                first = False
                trial.hold(ended.code == -signal.SIGKILL, f"ended with {ended.code}: {ended.text[-500:]}")
                self._look(trial, runs)
                trial.hold((folder / relative).exists() == (place != "before"), f"{relative} is there or is not, {place}")
                self._refused_without_resume(trial, runs)
                yield trial
        trial = Trial(stage, Stop(signal.SIGKILL, point=Completed(folder / "run_record.json")))
        ended = forked(self.laboratory.phase(stage, runs, allow_resume=True), self._log, trial.stop, runs)
        trial.hold(ended.code == -signal.SIGKILL, f"ended with {ended.code}: {ended.text[-500:]}")
        self._look(trial, runs)
        trial.hold(trial.left == "complete", f"it is {trial.left}")
        self._refused_without_resume(trial, runs)
        self._resumed(trial, runs)
        yield trial
        self._gone(runs)

    def _disturbed(
        self, stage: Stage, runs: Path, number: signal.Signals, draw: random.Random, *, timed: bool, again: bool = False
    ) -> Trial:
        known, before = self.laboratory.undisturbed[stage.phase_id], tree(runs)
        through_cli = number != signal.SIGKILL
        action = self.laboratory.command(stage, runs) if through_cli else self.laboratory.phase(stage, runs)
        if timed:
            stop = Stop(number, seconds=draw.uniform(0.0, known.seconds * (1.5 if through_cli else 1.0)))
        else:
            within = len(known.operations) if draw.random() < 0.1 else known.completing
            stop = Stop(number, operation=draw.randint(1, within))
        ended = forked(action, self._log, stop, runs)
        trial = Trial(stage, stop)
        if ended.code != 0:  # else it was done before the signal came
            trial.hold(ended.code == CODES[number], f"ended with {ended.code}: {ended.text[-1000:]}")
        if through_cli and ended.code != 0:
            trial.hold(ended.text.count(MESSAGE) == 1, f"not one message: {ended.text[-1000:]}")
            trial.hold("Traceback" not in ended.text and "Error" not in ended.text, f"a traceback: {ended.text[-3000:]}")
        self._look(trial, runs)
        if ended.code == 0:
            trial.left = "complete (the signal came too late)"
        self._refused_without_resume(trial, runs)
        if again and trial.left == "incomplete":
            second = Stop(number, operation=draw.randint(1, known.completing))
            forked(self.laboratory.phase(stage, runs, allow_resume=True), self._log, second, runs)
            self._look(trial, runs)
        self._resumed(trial, runs)
        after = tree(runs)
        folder = self.laboratory.folder(stage, runs).name
        for name, state in before.items():
            trial.hold(name in (".", folder) or after.get(name) == state, f"upstream {name} changed")
        return trial

    def _look(self, trial: Trial, runs: Path) -> None:
        """Is what the disturbed child left honest?"""
        folder, known = self.laboratory.folder(trial.stage, runs), self.laboratory.undisturbed[trial.stage.phase_id]
        if not folder.exists():
            trial.left = "nothing"
            return
        try:
            record = read_record(folder)
        except AvalancheError as error:
            trial.left = "damaged"
            trial.hold(False, str(error))
            return
        trial.left = "complete" if record["stage_status"] == "complete" else "incomplete"
        found = recorded_files(folder)
        for name, digest in found.items():
            trial.hold(known.hashes.get(name) == digest, f"{name} is there with other bytes than it should have")
        for entry in record["artifact_index"]:
            trial.hold(found.get(entry["relative_path"]) == entry["sha256"], f"{entry['relative_path']} is not as recorded")
        if trial.left == "complete":
            trial.hold(found == known.hashes, "complete without all artifacts")

    def _refused_without_resume(self, trial: Trial, runs: Path) -> None:
        """What exists stays exactly as it is and is exit 4."""
        if trial.left == "nothing":
            return
        before = tree(self.laboratory.folder(trial.stage, runs))
        ended = forked(self.laboratory.phase(trial.stage, runs), self._log)
        trial.hold(ended.code == 4, f"without --allow_resume: {ended.code}, {ended.text[-500:]}")
        trial.hold(tree(self.laboratory.folder(trial.stage, runs)) == before, "a refusal changed the run")

    def _resumed(self, trial: Trial, runs: Path) -> None:
        """Resumed it ends complete with the bytes of the undisturbed run; complete it is refused and untouched."""
        folder, known = self.laboratory.folder(trial.stage, runs), self.laboratory.undisturbed[trial.stage.phase_id]
        resume = self.laboratory.phase(trial.stage, runs, allow_resume=True)
        if not trial.left.startswith("complete"):
            ended = forked(resume, self._log)
            trial.hold(ended.code == 0, f"resume ended with {ended.code}: {ended.text[-2000:]}")
        trial.hold(recorded_files(folder) == known.hashes, "other files or bytes than the undisturbed run")
        trial.hold(not list(folder.rglob(".part-*")), "temporary files in a complete run")
        lines = (folder / "logs" / "events.jsonl").read_text(encoding="utf-8").splitlines()
        trial.hold(all(_is_json(line) for line in lines), "a line of the log is no JSON")
        try:
            trial.hold(read_record(folder)["stage_status"] == "complete", "not complete after a resume")
            require_intact(RunStore(runs), [folder.name])
        except AvalancheError as error:
            trial.hold(False, f"not intact: {error}")
        before = tree(folder)
        ended = forked(resume, self._log)
        trial.hold(ended.code == 4, f"a complete run was not refused: {ended.code}, {ended.text[-500:]}")
        trial.hold(tree(folder) == before, "a complete run was altered")

    def _gone(self, runs: Path) -> None:
        if not self._keep:
            shutil.rmtree(runs)


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def figures(trials: Sequence[Trial]) -> str:
    """The table of docs/reliability.md: a row a phase, what the disturbances left, how many trials broke a promise."""
    kinds = ["nothing", "incomplete", "complete", "complete (the signal came too late)"]
    lines = ["| phase | trials | no run yet | incomplete | complete | ended before | broken |", "|---|---|---|---|---|---|---|"]
    rows = [
        *((stage.command, [trial for trial in trials if trial.stage == stage]) for stage in stages().values()),
        ("all", trials),
    ]
    for name, of in filter(lambda row: row[1], rows):
        left = Counter(trial.left for trial in of)
        numbers = [len(of), *(left[kind] for kind in kinds), sum(bool(trial.broken) for trial in of)]
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, print each broken promise as it is found and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=0, help="kills at random moments")
    parser.add_argument("--signals", type=int, default=0, help="Ctrl-C and SIGTERM at random moments")
    parser.add_argument("--boundaries", action="store_true", help="a kill at every boundary of every artifact")
    commands = [stage.command for stage in stages().values()]
    parser.add_argument("--phases", nargs="+", choices=commands, default=commands, help="these commands alone (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, help="folder to work in and keep (default: a temporary one)")
    asked = parser.parse_args(arguments)
    wanted = [stage for stage in stages().values() if stage.command in asked.phases]
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        began = time.monotonic()
        campaign = Campaign(Laboratory(asked.base or Path(temporary), wanted), keep=asked.base is not None)
        print(f"the reference took {time.monotonic() - began:.0f} s", flush=True)
        draw, trials = random.Random(asked.seed), list[Trial]()
        boundaries = (trial for stage in wanted for trial in campaign.boundaries(stage))
        parts = [
            ("SIGKILL at every artifact", boundaries if asked.boundaries else iter(())),
            ("SIGKILL at random moments", campaign.random_kills(asked.trials, wanted, draw)),
            ("SIGINT and SIGTERM through the command line", campaign.signals(asked.signals, wanted, draw)),
        ]
        for title, part in parts:
            made = []
            for trial in part:
                made.append(trial)
                if len(made) % 20 == 0:
                    print(f"{title}: {len(made)} trials in {time.monotonic() - began:.0f} s", flush=True)
                for problem in trial.broken:
                    print(f"BROKEN {trial.stage.command}, {trial.stop}, left {trial.left}: {problem}", flush=True)
            if made:
                print(f"\n{title}, seed {asked.seed}\n\n{figures(made)}\n", flush=True)
            trials += made
        print(f"{len(trials)} trials, {sum(bool(trial.broken) for trial in trials)} broken, {time.monotonic() - began:.0f} s")
    return int(any(trial.broken for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
