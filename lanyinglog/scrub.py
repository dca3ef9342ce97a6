"""Reads the whole log again and again, slowly, to find what has rotted before somebody needs it.

A damaged entry that nobody reads is found when the last good copy of it has rotted, too. So each node reads what it
stores, entries and their records, a little at a time, and hands what fails its checksum to `raft.repair`.

Blocks, so each step belongs into a worker thread; a step is a short read that pins no pages (`store.environment`).
"""

from __future__ import annotations

from lanyinglog.errors import CorruptEntry
from lanyinglog.store.log_store import LogStore

STEP_BYTES = 256 << 10
STEP_ENTRIES_MAX = 1_024
DAMAGE_BYTES = 16 << 10
"""What a step counts for that ends at damage: much of it at once is mended at once."""


class Scrub:
    """``passes`` counts how often the end of the log was reached."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._next = 0
        self.passes = 0

    def step(self) -> tuple[CorruptEntry | None, int]:
        """Read on: the first damage in the next stretch, if any, and about how many bytes were read; 0 at the end of
        the log, behind which it begins anew."""
        store = self._store
        first, applied = max(self._next, store.bounds()[0]), store.applied()
        if first > applied:
            self._next = 0
            self.passes += 1
            return None, 0
        last = min(applied, first + STEP_ENTRIES_MAX - 1)
        try:
            entries = store.entries(first, last, bytes_max=STEP_BYTES)
            store.records(first, entries[-1].index)
        except KeyError:
            return None, 1  # trimmed meanwhile: the next step begins where the log does
        except CorruptEntry as damage:
            self._next = int(damage.hint or last) + 1
            return damage, DAMAGE_BYTES
        self._next = entries[-1].index + 1
        return None, sum(len(entry.command) for entry in entries) + 1
