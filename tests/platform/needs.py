"""What `make test-platform` needs of the system beside Python packages: named where it is missing, installed where we may.

    python tests/platform/needs.py

As root on Debian the packages are installed; elsewhere the command to do so is printed and the exit code is 1.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

USE = {
    "chromium": "the web UI and the report in a browser",
    "postgresql": "Postgres as the instance's storage",
    "iproute2": "Ray, in a private network namespace",
}


def missing() -> list[str]:
    """The Debian packages whose programs are not here."""
    here = {
        "chromium": os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser"),
        "postgresql": shutil.which("initdb") or next(Path("/usr/lib/postgresql").glob("*/bin/initdb"), None),
        "iproute2": shutil.which("ip"),
    }
    return [package for package, found in here.items() if not found]


def main() -> int:
    """Install or name what is missing; 0 when nothing is any more."""
    packages = missing()
    if packages and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {', '.join(packages)}", flush=True)
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", "--quiet", "--quiet", *command], env=environment, check=False)
        packages = missing()
    for package in packages:
        print(f"missing: {package} ({USE[package]})", file=sys.stderr)
    if packages:
        print(f"install with: sudo apt-get install {' '.join(packages)}", file=sys.stderr)
        print("or run what can run without: .venv/bin/python -m pytest tests/platform -rs", file=sys.stderr)
    return 1 if packages else 0


if __name__ == "__main__":
    sys.exit(main())
