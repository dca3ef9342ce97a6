"""Fills what is free of the machine's memory with page cache, as on a machine that has been up for a while.

A virtual machine may have memory only on paper: a page is given to it when it touches that for the first time, and may
be taken back once it is free again. Then the copy of a block into the page cache goes at 0.2 GB/s where it goes at 3
in memory that is there (seen on the machine of docs/performance.md), a file's first bytes are quick and its later ones
slow, and who writes most in a round is hurt most. So before each measurement a file of nothing is read until next to
nothing is free: from then on a new page is an old one of that file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator

import psutil

LEFT_BYTES = 1 << 30
"""What stays free."""
SIZE = 8 << 40  # of a file that has no blocks; never read twice in one place
STEP = 8 << 20


@contextlib.contextmanager
def page_cache() -> Iterator[Callable[[], int]]:
    """What is to be called before each measurement: it takes what is free but for `LEFT_BYTES`, holds it against nobody
    who wants it, and returns how many bytes. At the end all of it is given back."""
    with tempfile.TemporaryFile(prefix="lanyinglog-bench-", buffering=0) as file:
        file.truncate(SIZE)
        buffer = memoryview(bytearray(STEP))
        at = 0

        def fill() -> int:
            nonlocal at
            began = at
            end = min(at + max(0, psutil.virtual_memory().free - LEFT_BYTES), SIZE)
            while at < end:
                at += os.preadv(file.fileno(), [buffer], at)
            return at - began

        yield fill
