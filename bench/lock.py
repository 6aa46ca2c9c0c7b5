"""Make requirements.lock again: every pin with the sha256 of every file that the package index lists for it.

    python -m venv /somewhere && /somewhere/bin/pip install pip-tools
    /somewhere/bin/python bench/lock.py [NAME==VERSION ...]

The pins are those of the lock, with the ones named on the command line in place of, or beside, them. pip-compile adds what they
need and asks the indexes of the configured pip for hashes. A build's local version (torch's +cpu) is cut off, and hashes that
the lock has for an unchanged pin are kept: a second machine, whose index offers another build of a version, adds its own.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

LOCK: Final = Path(__file__).resolve().parents[1] / "requirements.lock"
HEAD: Final = """\
# Every package that the tests last passed with, and the sha256 of its files. Made by `python bench/lock.py`, which says how.
# torch: the CPU build for Linux and python 3.11, and the CUDA build of the same version.
"""
OPTIONS: Final = ["--quiet", "--generate-hashes", "--allow-unsafe", "--no-annotate", "--no-header", "--strip-extras"]
PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s+\\;]+)")
Pins = dict[str, tuple[str, set[str]]]


def read(text: str) -> Pins:
    """Name to version and hashes."""
    pins: Pins = {}
    for line in text.replace("\\\n", " ").splitlines():
        if match := PIN.match(line):
            pins[re.sub(r"[-_.]+", "-", match[1]).lower()] = (match[2], set(re.findall(r"--hash=(sha256:[0-9a-f]{64})", line)))
    return pins


def merged(compiled: Pins, present: Pins) -> Pins:
    """What was compiled, with the hashes that the lock has for the same version."""
    return {
        name: (version, hashes | (present[name][1] if present.get(name, ("",))[0] == version else set()))
        for name, (version, hashes) in sorted(compiled.items())
    }


def text_of(pins: Pins) -> str:
    """The lock file."""
    lines = (" \\\n    --hash=".join([f"{name}=={version}", *sorted(hashes)]) for name, (version, hashes) in pins.items())
    return HEAD + "\n".join(lines) + "\n"


def compiled(pins: Pins, wanted: list[str]) -> Pins:
    """pip-compile's answer for these pins."""
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "requirements.in", Path(name) / "compiled.txt"
        lines = [*(f"{name}=={version}" for name, (version, _) in pins.items()), *wanted]
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "piptools", "compile", *OPTIONS, "--no-emit-index-url", "--no-emit-find-links"]
        subprocess.run([*command, "--output-file", str(target), str(source)], check=True)
        return read(target.read_text(encoding="utf-8"))


def main(wanted: list[str]) -> None:
    """Rewrite the lock."""
    present = read(LOCK.read_text(encoding="utf-8"))
    kept = {name: pin for name, pin in present.items() if name not in read("\n".join(wanted))}
    LOCK.write_text(text_of(merged(compiled(kept, wanted), present)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
