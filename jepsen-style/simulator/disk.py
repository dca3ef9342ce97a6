"""One node's data directory: it outlives the processes that use it, and it is what promises are checked against.

`synced` is the simulator's own record of what a power cut can't take: ``index -> (term, CRC)``, kept beside whichever
store is under test; what is trimmed, or stands behind a snapshot, counts as there. A transaction that was under way
when its process died is on the disk whole or not at all, as LMDB has it; which of the two is drawn by lot. A disk that
is replaced by an empty one remembers in `lost` what it had: it was there when others were told so.
"""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from lanyinglog.errors import CorruptEntry, StorageFull
from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.log_store import HardState, LogStore, Mend, Writes
from lanyinglog.store.memory import MemoryDisk, MemoryStore
from lanyinglog.store.state import State
from simulator.history import Violation

MAP_BYTES = 1 << 28


class Disk:
    """The disk of ``node``; on LMDB in ``directory`` if one is given, else in memory."""

    skips_sync = False  # a planted defect
    about_to_install: Callable[[int], None]
    """Told the first index of a snapshot before it replaces the log."""

    def __init__(self, node: str, source: random.Random, directory: Path | None = None) -> None:
        self.node = node
        self.synced: dict[int, tuple[int, int]] = {}
        self.first = 1
        self.last = 0
        """The first and last entry in ``synced``."""
        self.lost: dict[int, tuple[int, int]] = {}
        """What was in ``synced`` when the disk was replaced."""
        self.trimmed: dict[int, tuple[int, int]] = {}
        """What was in ``synced`` when retention took it."""
        self.wipes = 0
        self.hard = HardState()
        """Term and vote in ``synced``."""
        self.full = False
        self.broken = False
        """The next write fails with EIO, and so does every later one of that process."""
        self.slow = 1.0
        self.damaged: set[int] = set()
        """Entries with flipped bits, in themselves or in their record."""
        self.mended = 0
        self._source = source
        self._directory = directory
        self._content = _empty()
        self._store: LogStore | None = None
        self._under_way: Writes | None = None
        self._joined = False
        self.unsynced: tuple[MemoryDisk, dict[int, tuple[int, int]], int] | None = None
        """What a power cut goes back to, where a planted defect leaves out the sync."""

    # ------------------------------------------------------------------------------------------------ the process
    def open(self) -> LogStore:
        """A new process opens the directory. `CorruptEntry`, `StoreError`."""
        self._under_way = None
        if self._directory is None:
            self._store = MemoryStore(self._content)
        else:
            self._store = LmdbStore.open(self._directory, node=self.node, cluster="sim", map_bytes=MAP_BYTES)
        while self._store.install_step():
            pass  # as `node._finish_installation`
        return self._store

    @property
    def joined(self) -> bool:
        """Whether the node knows what it may have promised; as of the last process that wrote here."""
        return self._joined

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
            self.unsynced = (self._content.copy(), dict(self.synced), self.first)
        if writes.install is not None:
            self.about_to_install(writes.install[0].index)
        self._store.write(writes)
        for mend in writes.mends:
            self._check_mend(mend)
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
        self._joined = self._joined or writes.joined
        if writes.trim is not None:
            self._forget_below(writes.trim.first)
        if writes.install is not None:
            self._forget_below(writes.install[0].index)
            self.synced = {entry.index: (entry.term, entry.crc) for entry in writes.install}
            self.last = writes.install[-1].index
            self.damaged.clear()

    def _check_mend(self, mend: Mend) -> None:
        entry = mend.entry
        if self.synced.get(entry.index) != (entry.term, entry.crc):
            words = f"{self.node} mends entry {entry.index} with one that it never had"
            raise Violation("what is mended is as it was", words, ("node", self.node), ("entry", entry.index))
        if entry.index in self.damaged:
            self.damaged.discard(entry.index)
            self.mended += 1

    def _forget_below(self, first: int) -> None:
        for index in range(self.first, first):
            gone = self.synced.pop(index, None)
            if gone is not None:
                self.trimmed[index] = gone
            self.damaged.discard(index)
        self.first = first

    def install_step(self) -> bool:
        """A step of the installation; whether there are more. `StorageFull`, `OSError` as `finish`."""
        assert self._store is not None
        if self.full:
            raise StorageFull("the simulated disk is full")
        if self.broken:
            raise OSError(errno.EIO, "the simulated disk failed")
        return self._store.install_step()

    def holds(self, index: int, entry: tuple[int, int]) -> bool:
        """Whether ``entry``, (term, CRC), or a state that has it in it, is here at ``index``."""
        synced, first = (self.unsynced[1], self.unsynced[2]) if self.unsynced is not None else (self.synced, self.first)
        return index < first or synced.get(index) == entry

    def held(self, index: int, entry: tuple[int, int]) -> bool:
        """Whether it is here, or was when the disk was lost."""
        return self.holds(index, entry) or self.lost.get(index) == entry

    def wipe(self) -> None:
        """The disk is replaced by an empty one; no process is using it."""
        assert self._store is None
        self.lost.update(self.synced)
        self.lost.update(self.trimmed)
        self.synced, self.first, self.last, self.hard = {}, 1, 0, HardState()
        self.damaged.clear()
        self.unsynced, self._joined = None, False
        self.wipes += 1
        self._content = _empty()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

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
            content, synced, first = self.unsynced
            self._content, self.synced, self.first, self.unsynced = content, synced, first, None
            self.last = max(synced, default=0)

    def sync(self) -> None:
        """What a defect left unsynced reaches the disk by itself, some time later."""
        self.unsynced = None

    # ----------------------------------------------------------------------------------------------------- damage
    def flip(self) -> int | None:
        """Damage a byte of some entry, or of its record; its index, or None if there is none to damage."""
        if self._directory is not None or not self._content.entries:
            return None
        index = self._source.choice(list(self._content.entries))
        if index == 1:
            return None
        byte, mask = self._source.randrange(1 << 16), 1 << self._source.randrange(8)
        if byte % 3 == 0 and index in self._content.records:
            self._content.flip_record(index, byte, mask)
        else:
            self._content.flip(index, byte, mask)
        self.damaged.add(index)
        return index

    def has_whole(self, index: int) -> bool:
        """Whether entry ``index`` is there and fails no check, whatever became of its record."""
        try:
            return self._directory is None and MemoryStore(self._content).entry(index).index == index
        except (KeyError, CorruptEntry):
            return False

    def remove(self) -> None:
        """End of the run."""
        if self._store is not None:
            self._store.close()
            self._store = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def _empty() -> MemoryDisk:
    """As a directory is made: its node does not know what it may have promised in another one."""
    return MemoryDisk(State(joined=False))
