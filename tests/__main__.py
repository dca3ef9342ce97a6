"""``python3 tests``: everything that has to pass, on a machine with nothing but a Python.

Without arguments: format, lint, types and all tests. With arguments: pytest alone, with these arguments.
Hypothesis gets a fresh seed each time, which is printed; ``python3 tests --hypothesis-seed=N`` repeats a run.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The interpreter puts tests/ first; what is imported from here on is to be found from the root.
sys.path[0] = str(ROOT)

from lanyinglog import checkout  # noqa: E402

CHECKS = {
    "format": ["ruff", "format", "--check", "."],
    "lint": ["ruff", "check", "."],
    "types": ["mypy"],
}


def main(arguments: list[str]) -> int:
    """Runs what ``arguments`` ask for; 0 if all of it passed."""
    checkout.ensure([__file__, *arguments], extra="test")
    os.chdir(ROOT)
    failed = [] if arguments else [name for name, command in CHECKS.items() if not _passes(name, command)]
    if not any(argument.startswith("--hypothesis-seed") for argument in arguments):
        arguments = [*arguments, f"--hypothesis-seed={secrets.randbelow(2**32)}"]
    if not _passes("tests", ["pytest", *arguments]):
        failed.append("tests")
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def _passes(name: str, command: list[str]) -> bool:
    print(f"== {name}: {' '.join(command)}", flush=True)
    began = time.monotonic()
    passed = subprocess.run([sys.executable, "-m", *command], check=False).returncode == 0
    if not passed or name != "tests":
        print(f"   {'ok' if passed else 'FAILED'} in {time.monotonic() - began:.1f} s", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
