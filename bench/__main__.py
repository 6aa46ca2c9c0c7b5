"""Measure speed and memory, and write docs/performance.json and docs/performance.md.

    python -m bench [PART ...]

Every part runs in a process of its own, one after the other; the machine should do nothing else. Named parts are measured
again, the others stay as they are in the file.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from bench.page import page

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PARTS: Final = {
    "startup": ("bench.startup", "3"),
    "commands": ("bench.commands",),
    "flags": ("bench.flags",),
    "small": ("bench.pipeline", "--workload", "small", "--repeats", "3"),
    "demo": ("bench.pipeline", "--workload", "demo", "--repeats", "3"),
    "collector": ("bench.collector",),
    "collector_7b": ("bench.collector", "--seven_b"),
    "statistics": ("bench.raster_statistics",),
}


def main(names: list[str]) -> None:
    if unknown := set(names) - PARTS.keys():
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    path = DOCS / "performance.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in names or PARTS:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, "-m", *PARTS[name]], check=True, stdout=subprocess.PIPE, text=True)
        results[name] = json.loads(done.stdout)
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (DOCS / "performance.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
