"""Coverage-guided fuzzing of one target with atheris: `python tests/fuzz TARGET --seconds 600 --corpus FOLDER`.

Runs for the whole time: a finding is written to FOLDER/findings, once for each place in the code that it came from, and the
fuzzing goes on. The corpus is kept, so that a second run begins where the first ended.
An input that takes longer than 20 s or 2 GiB is a finding too (libFuzzer's own limits, which end the run).
"""

import argparse
import hashlib
import sys
import time
import traceback
from pathlib import Path

import atheris

INSTRUMENTED = ["avalanche_llm", "yaml", "zipfile", "numpy.lib", "jsonschema", "json", "pyarrow.parquet", "targets"]

with atheris.instrument_imports(include=INSTRUMENTED):
    from targets import TARGETS

    from avalanche_llm.errors import AvalancheError

SLOW_S = 5.0
TELL_S = 10.0


def main() -> None:
    """Fuzz one target and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, required=True)
    arguments = parser.parse_args()
    target = TARGETS[arguments.target]
    corpus, findings = arguments.corpus / arguments.target, arguments.corpus / "findings" / arguments.target
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    seen: set[str] = set()
    accepted = refused = 0
    told = time.monotonic()

    def one(data: bytes) -> None:
        nonlocal accepted, refused, told
        began = time.monotonic()
        place = ""
        try:
            target.run(data)
            accepted += 1
        except AvalancheError as error:
            refused += 1
            if "\n" in str(error) or not str(error).isprintable() or len(str(error)) > 4000:
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"message that is not one short printable line: {type(error).__name__} of {where.name}"
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if "avalanche_llm" in frame.filename or "targets" in frame.filename]
            place = f"{type(error).__name__} from {Path(frames[-1].filename).name}:{frames[-1].name} in {ours[-1].name}"
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            print(
                f"{arguments.target}: {accepted} inputs accepted, {refused} refused, {len(seen)} findings",
                file=sys.stderr,
                flush=True,
            )
        if time.monotonic() - began > SLOW_S:
            place = f"took {time.monotonic() - began:.0f} s"
        if place and place not in seen:
            seen.add(place)
            name = hashlib.sha1(place.encode(), usedforsecurity=False).hexdigest()[:12]
            (findings / name).write_bytes(data)
            (findings / f"{name}.txt").write_text(
                place + "\n" + traceback.format_exc(), encoding="utf-8", errors="backslashreplace"
            )
            print(f"FINDING {name}: {place}", file=sys.stderr, flush=True)

    options = [
        f"-max_total_time={arguments.seconds}",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-max_len=8192",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={findings}/", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
