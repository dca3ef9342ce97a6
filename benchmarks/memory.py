"""Fills what is free of the machine's memory with page cache, as on a machine that has been up for a while.

A virtual machine may have memory only on paper: a page is given to it when it touches that for the first time, and may
be taken back once it is free again. Then the copy of a block into the page cache goes at 0.2 GB/s where it goes at 3
in memory that is there (seen on the machine of docs/performance.md), a file's first bytes are quick and its later ones
slow, and who writes most in a round is hurt most. So before each measurement a file of nothing is read until next to
nothing is free: from then on a new page is an old one of that file.
"""

from __future__ import annotations

import os
import tempfile
from typing import BinaryIO

import psutil

LEFT_BYTES = 1 << 30
"""What stays free."""
_SIZE = 8 << 40  # of a file that has no blocks; never read twice in one place
_STEP = 8 << 20


class PageCache:
    """Takes no more than is free, holds nothing against whoever wants it, and is gone when it is closed."""

    def __init__(self) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile(prefix="lanyinglog-bench-", buffering=0)  # noqa: SIM115
        self._file.truncate(_SIZE)
        self._at = 0
        self._buffer = memoryview(bytearray(_STEP))

    def fill(self) -> int:
        """Take what is free but for `LEFT_BYTES`; the bytes that were taken."""
        end = self._at + max(0, psutil.virtual_memory().free - LEFT_BYTES)
        began = self._at
        while self._at < min(end, _SIZE):
            self._at += os.preadv(self._file.fileno(), [self._buffer], self._at)
        return self._at - began

    def close(self) -> None:
        """Give all of it back."""
        self._file.close()
