"""Starts one node as the installed program, with a wall clock that the suite can shift, and maybe with a defect.

``python launcher.py CLOCK_FILE DEFECT -- ARGUMENTS OF lanyinglog``. CLOCK_FILE holds one signed 64-bit number of
nanoseconds, read at each look at the clock; DEFECT is a name of `suite.defects` or ``-``. Both are done by replacing
names before the program starts; the product knows nothing of it.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_OFFSET = struct.Struct("<q")


def shift_clock(file: str) -> None:
    """``time.time`` and ``time.time_ns`` are off by what ``file`` says, from now on and at every moment."""
    descriptor = os.open(file, os.O_RDONLY)
    offset = mmap.mmap(descriptor, _OFFSET.size, prot=mmap.PROT_READ)
    os.close(descriptor)
    time_ns = time.time_ns

    def shifted_ns() -> int:
        shift: int = _OFFSET.unpack_from(offset)[0]
        return time_ns() + shift

    time.time_ns = shifted_ns
    time.time = lambda: shifted_ns() / 1e9


def main(arguments: list[str]) -> None:
    """Become the node."""
    clock_file, defect, _, *program = arguments
    sys.path[:0] = [str(ROOT), str(ROOT.parent)]
    from suite.sandbox import end_with_parent

    end_with_parent()
    shift_clock(clock_file)
    if defect != "-":
        from suite.defects import plant

        plant(defect)
    from lanyinglog import cli

    sys.argv = ["lanyinglog", *program]
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1:])
