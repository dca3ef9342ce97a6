"""Room on the disk: what is set aside before a transaction begins, and what is kept in reserve for the day it is full.

A disk that gets full in the middle of a write cuts it short, and LMDB reports that as EIO (`mdb_page_flush`), as if the
disk were broken. So the file system sets aside whatever a transaction may write before it begins: `pages_at_most`, an
upper bound in pages beyond the last one in use, as if no page were free: one for each key on a leaf of its own, whole
pages for values, and the branches of the trees and of the list of free pages.

Beyond that, `RESERVE_BYTES` are set aside that only a full disk makes use of. When they can't be, the node declines
publishes at once, and what is under way, elections, settings and trims go on inside the reserve: no batch ends as
unknown because a disk ran full, and shorter retention can make the room that nobody else makes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence

from lanyinglog.store import layout
from lanyinglog.store.log_store import Entry, Writes

PAGES_PER_TRANSACTION = 128
RESERVE_BYTES = 8 << 20
"""Four entries in flight, each of 1 MiB and one more batch: what a node has taken on when its disk is found full."""
GROWTH_BYTES = 4 << 20
"""The file grows by so much at a time, where there is room."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Room:
    """What the file system has set aside for the file behind ``descriptor``, which may have ``limit`` bytes at most."""

    def __init__(self, descriptor: int, *, limit: int) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._bytes = 0

    def set_aside(self, end: int) -> bool:
        """Has the file system promise the file's first ``end`` bytes, and more where it can; whether there was anything
        to do. `OSError` if it can't."""
        if not hasattr(os, "posix_fallocate") or self._bytes >= min(end + RESERVE_BYTES, self._limit):
            return False
        for more in (RESERVE_BYTES + GROWTH_BYTES, RESERVE_BYTES, 0):
            size = min(end + more, self._limit)
            if size <= self._bytes:
                break
            try:
                os.posix_fallocate(self._descriptor, self._bytes, size - self._bytes)
            except OSError as error:
                if error.errno not in FULL or more == 0:
                    raise
            else:
                self._bytes = size
                break
        return True

    def has_reserve(self, end: int, free_bytes: Callable[[], int]) -> bool:
        """Whether there is the reserve behind ``end``; or half of it, and as much as that inside the file, which then
        takes what is written by using its free pages again. Some writes need pages in a row: hence never without."""
        promised = self._limit
        if hasattr(os, "posix_fallocate"):
            promised = self._bytes
        spare = min(promised, self._limit) - end
        return spare >= RESERVE_BYTES or (spare >= RESERVE_BYTES // 2 and free_bytes() >= RESERVE_BYTES)


def pages_at_most(writes: Writes, page_bytes: int) -> int:
    """The pages that ``writes`` may take. An entry that is trimmed changes a leaf; the pages of its value are freed."""
    pages = PAGES_PER_TRANSACTION + _of_entries(writes.entries, page_bytes)
    pages += _of_entries([mend.entry for mend in writes.mends], page_bytes) + len(writes.mends)
    if writes.checkpoint is not None:
        checkpoint = writes.checkpoint
        pages += len(checkpoint.postings) + len(checkpoint.records) + _of_rows(checkpoint.rows, page_bytes)
    if writes.trim is not None:
        pages += len(writes.trim.postings) + _of_rows(writes.trim.rows, page_bytes)
    if writes.stage is not None:
        pages += _of_rows(dict(writes.stage.rows), page_bytes)
    return pages + _of_entries(writes.install or (), page_bytes)


def _of_entries(entries: Sequence[Entry], page_bytes: int) -> int:
    return sum(2 + (len(entry.command) + layout.ENTRY_HEADER_BYTES) // page_bytes for entry in entries)


def _of_rows(rows: Mapping[bytes, bytes | None], page_bytes: int) -> int:
    return 2 * len(rows) + sum(len(row) for row in rows.values() if row is not None) // page_bytes
