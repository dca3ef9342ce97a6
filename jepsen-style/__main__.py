"""``python jepsen-style COMMAND``: the programs that try to break lanyinglog, each in a package beside this file.

Each ends with exit code 0 (no promise was broken), 1 (a violation) or 2 (nothing can be said), and with a last line
that is one JSON object.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT))

from lanyinglog import checkout  # noqa: E402

COMMANDS = {
    "simulate": ("simulator.command", "whole clusters in one process, under a virtual clock and one random source"),
    "run": ("suite.command", "real processes, real faults, a history, checkers and a report"),
    "check": ("acceptance.command", "the promises of the main job, one by one, on real processes"),
}


def main(arguments: list[str]) -> int:
    """Hands ``arguments`` to the program that the first of them names; its exit code."""
    if not arguments or arguments[0] not in COMMANDS:
        print("usage: python jepsen-style COMMAND [OPTIONS]\n", file=sys.stderr)
        for name, (_, purpose) in COMMANDS.items():
            print(f"  {name:10} {purpose}", file=sys.stderr)
        return 0 if arguments[:1] in (["--help"], ["-h"]) else 2
    checkout.ensure([__file__, *arguments], extra="test")
    program = importlib.import_module(COMMANDS[arguments[0]][0])
    result: int = program.main(arguments[1:])
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
