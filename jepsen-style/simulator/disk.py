"""One node's data directory: it outlives the processes that use it, and it is what promises are checked against.

`synced` is the simulator's own record of what a power cut can't take: ``index -> (term, CRC)``, kept beside whichever
store is under test. A transaction that was under way when its process died is on the disk whole or not at all, as LMDB
has it; which of the two is drawn by lot.
"""

from __future__ import annotations

import errno
import random
import shutil
from pathlib import Path

from lanyinglog.errors import StorageFull
from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.log_store import HardState, LogStore, Writes
from lanyinglog.store.memory import MemoryDisk, MemoryStore

MAP_BYTES = 1 << 28


class Disk:
    """The disk of ``node``; on LMDB in ``directory`` if one is given, else in memory."""

    skips_sync = False  # a planted defect

    def __init__(self, node: str, source: random.Random, directory: Path | None = None) -> None:
        self.node = node
        self.synced: dict[int, tuple[int, int]] = {}
        self.last = 0
        """The last entry in ``synced``."""
        self.hard = HardState()
        """Term and vote in ``synced``."""
        self.full = False
        self.broken = False
        """The next write fails with EIO, and so does every later one of that process."""
        self.slow = 1.0
        self.damaged: set[int] = set()
        """Entries with flipped bits."""
        self._source = source
        self._directory = directory
        self._content = MemoryDisk()
        self._store: LogStore | None = None
        self._under_way: Writes | None = None
        self.unsynced: tuple[MemoryDisk, dict[int, tuple[int, int]]] | None = None
        """What a power cut goes back to, where a planted defect leaves out the sync."""

    # ------------------------------------------------------------------------------------------------ the process
    def open(self) -> LogStore:
        """A new process opens the directory. `CorruptEntry`, `StoreError`."""
        self._under_way = None
        if self._directory is None:
            self._store = MemoryStore(self._content)
        else:
            self._store = LmdbStore.open(self._directory, node=self.node, cluster="sim", map_bytes=MAP_BYTES)
        return self._store

    def begin(self, writes: Writes) -> None:
        """The process has handed a transaction to the store."""
        self._under_way = writes

    def finish(self) -> None:
        """The transaction takes effect. `StorageFull` (nothing did), `OSError` (nobody knows)."""
        writes = self._under_way
        assert writes is not None and self._store is not None
        if self.full:
            raise StorageFull("the simulated disk is full")
        self._under_way = None
        if self.broken:
            if self._source.random() < 0.5:
                self._land(writes)
            raise OSError(errno.EIO, "the simulated disk failed")
        self._land(writes)

    def _land(self, writes: Writes) -> None:
        assert self._store is not None
        if self.skips_sync and self.unsynced is None:
            self.unsynced = (self._content.copy(), dict(self.synced))
        self._store.write(writes)
        if writes.truncate_from is not None:
            for index in range(writes.truncate_from, self.last + 1):
                self.synced.pop(index, None)
                self.damaged.discard(index)
            self.last = min(self.last, writes.truncate_from - 1)
        for entry in writes.entries:
            self.synced[entry.index] = (entry.term, entry.crc)
            self.last = entry.index
        if writes.hard_state is not None:
            self.hard = writes.hard_state

    def process_died(self, *, power: bool) -> None:
        """The process is gone; with ``power`` so is what was not synced."""
        if self._under_way is not None and not self.full and self._source.random() < 0.5:
            self._land(self._under_way)
        self._under_way = None
        self.broken = False
        if self._store is not None:
            self._store.close()
            self._store = None
        if power and self.unsynced is not None:
            content, synced = self.unsynced
            self._content, self.synced, self.unsynced = content, synced, None
            self.last = max(synced, default=0)

    def sync(self) -> None:
        """What a defect left unsynced reaches the disk by itself, some time later."""
        self.unsynced = None

    # ----------------------------------------------------------------------------------------------------- damage
    def flip(self) -> int | None:
        """Damage a byte of some entry; its index, or None if there is none to damage."""
        if self._directory is not None or not self._content.entries:
            return None
        index = self._source.choice(list(self._content.entries))
        if index == 1:
            return None
        self._content.flip(index, self._source.randrange(1 << 16), 1 << self._source.randrange(8))
        self.damaged.add(index)
        return index

    def remove(self) -> None:
        """End of the run."""
        if self._store is not None:
            self._store.close()
            self._store = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
