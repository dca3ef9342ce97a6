"""``python benchmarks list | run NAME | compare | report FILE``: measures lanyinglog, alone and beside its peers."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The interpreter puts benchmarks/ first; what is imported from here on is to be found from the root.
sys.path[0] = str(ROOT)

from lanyinglog import checkout  # noqa: E402


def main(arguments: list[str]) -> int:
    """Makes sure of an environment, then does what ``arguments`` say; the exit code."""
    checkout.ensure([__file__, *arguments], extra="test")
    result: int = importlib.import_module("benchmarks.command").main(arguments)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
