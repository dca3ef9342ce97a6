"""The memory twin of `LmdbStore`: the same contract without a disk, for tests and for simulated clusters.

A `MemoryDisk` is what a data directory is: it outlives the store that uses it, so a simulated node that is killed
drops its `MemoryStore` and starts a new one on the same disk. Entries and records lie on it in the bytes of the real
format, so that a flipped byte is found by the real check.

Faults are asked for in advance and happen at the next `write`: it raises, with all of its effects or none. There is
nothing between, as LMDB's transactions have nothing between: a power cut in the middle of a write is a choice of the
two, made by who simulates it.

Deterministic; one thread. Costs a few microseconds a call.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lanyinglog.errors import StoreError
from lanyinglog.store import layout
from lanyinglog.store.log_store import BLOCK_ENTRIES, Entry, EntryRecord, HardState, SnapshotHead, Trim, Writes
from lanyinglog.store.search import find_seq, find_time
from lanyinglog.store.state import State, advance, installed

INSTALL_STEP_KEYS = 8
"""Keys that one step of an installation removes or moves: few, so that tests can stop between many."""


@dataclass(slots=True)
class MemoryDisk:
    """The durable content: entries and records as encoded values, rows, the blocks of each topic id, and the state."""

    state: State = field(default_factory=State)
    entries: dict[int, bytes] = field(default_factory=dict)
    records: dict[int, bytes] = field(default_factory=dict)
    rows: dict[bytes, bytes] = field(default_factory=dict)
    postings: dict[int, list[int]] = field(default_factory=dict)
    base: dict[bytes, bytes] = field(default_factory=dict)
    staged: dict[bytes, bytes] = field(default_factory=dict)
    arrivals: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> MemoryDisk:
        """The content as it is now; neither of the two changes the other from here on."""
        postings = {topic_id: list(blocks) for topic_id, blocks in self.postings.items()}
        return MemoryDisk(
            *(self.state, dict(self.entries), dict(self.records), dict(self.rows), postings),
            *(dict(self.base), dict(self.staged), dict(self.arrivals)),
        )

    def flip(self, index: int, byte: int, mask: int = 0xFF) -> None:
        """Damages byte ``byte`` of the stored value of entry ``index``, modulo its length: header, command."""
        self.entries[index] = _flipped(self.entries[index], byte, mask)

    def flip_record(self, index: int, byte: int, mask: int = 0xFF) -> None:
        """Damages byte ``byte`` of the stored record of entry ``index``, modulo its length."""
        self.records[index] = _flipped(self.records[index], byte, mask)


def _flipped(value: bytes, byte: int, mask: int) -> bytes:
    place = byte % len(value)
    return b"".join((value[:place], bytes((value[place] ^ mask,)), value[place + 1 :]))


class MemoryStore:
    """`LogStore` on a `MemoryDisk`. ``writes_done`` counts the writes that took effect."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = MemoryDisk() if disk is None else disk
        self.writes_done = 0
        self._fault: tuple[Exception, bool] | None = None
        self._failure: Exception | None = None
        self._closed = False

    # -------------------------------------------------------------------------------------------------------- faults
    def fail_next_write(self, error: Exception, *, lands: bool = False) -> None:
        """The next `write` raises ``error``, its effects all on disk if ``lands``, else none of them.

        After an `OSError` every later write raises it again, as on a real disk; a `StorageFull` passes."""
        self._fault = (error, lands)

    def flip(self, index: int, byte: int, mask: int = 0xFF) -> None:
        """See `MemoryDisk.flip`."""
        self.disk.flip(index, byte, mask)

    def flip_record(self, index: int, byte: int, mask: int = 0xFF) -> None:
        """See `MemoryDisk.flip_record`."""
        self.disk.flip_record(index, byte, mask)

    def snapshot(self) -> MemoryDisk:
        """A copy of what is durable now."""
        return self.disk.copy()

    # ------------------------------------------------------------------------------------------------------- numbers
    def bounds(self) -> tuple[int, int]:
        return self.disk.state.first, self.disk.state.last

    def hard_state(self) -> HardState:
        return self.disk.state.hard

    def applied(self) -> int:
        return self.disk.state.applied

    def bytes_used(self) -> int:
        return sum(map(len, self.disk.entries.values())) + sum(map(len, self.disk.rows.values()))

    def has_room(self) -> bool:
        return True

    def joined(self) -> bool:
        return self.disk.state.joined

    def installing(self) -> bool:
        return self.disk.state.installing

    # ------------------------------------------------------------------------------------------------------- writing
    def write(self, writes: Writes) -> None:
        self._check_open()
        after = advance(self.disk.state, writes) if self._failure is None else self.disk.state
        self._transact(lambda: self._put(writes, after))

    def install_step(self) -> bool:
        self._check_open()
        if self.disk.state.installing:
            self._transact(self._take_step)
        return self.disk.state.installing

    def _transact(self, change: Callable[[], None]) -> None:
        if self._failure is not None:
            raise self._failure
        fault, self._fault = self._fault, None
        if fault is None or fault[1]:
            change()
            self.writes_done += 1
        if fault is not None:
            if isinstance(fault[0], OSError):
                self._failure = fault[0]
            raise fault[0]

    def _put(self, writes: Writes, after: State) -> None:
        disk = self.disk
        for mend in writes.mends:
            disk.entries[mend.entry.index] = layout.encode_entry(mend.entry)
            disk.records[mend.record.index] = layout.encode_record(mend.record)
        if writes.truncate_from is not None:
            for index in range(writes.truncate_from, disk.state.last + 1):
                disk.entries.pop(index)
        for entry in writes.entries:
            disk.entries[entry.index] = layout.encode_entry(entry)
        postings = after.postings
        if writes.checkpoint is not None:
            disk.records.update({one.index: layout.encode_record(one) for one in writes.checkpoint.records})
            _put_rows(disk.rows, writes.checkpoint.rows)
            for topic_id, block in writes.checkpoint.postings:
                blocks = disk.postings.setdefault(topic_id, [])
                if _at_or_after(blocks, block) != block:
                    insort(blocks, block)
                    postings += 1
        if writes.trim is not None:
            postings -= self._put_trim(writes.trim)
        self._put_stage(writes)
        disk.state = after._replace(
            postings=postings,
            rows=len(disk.rows),
            base_rows=len(disk.base),
            staged_rows=len(disk.staged),
        )

    def _put_trim(self, trim: Trim) -> int:
        disk = self.disk
        for index in range(disk.state.first, trim.first):
            del disk.entries[index], disk.records[index]
        _put_rows(disk.base, trim.rows)
        gone = 0
        for topic_id, block in trim.postings:
            blocks = disk.postings.get(topic_id, [])
            if _at_or_after(blocks, block) == block:
                blocks.remove(block)
                gone += 1
        return gone

    def _put_stage(self, writes: Writes) -> None:
        if writes.stage is not None:
            if writes.stage.restart:
                self.disk.staged.clear()
            self.disk.staged.update(writes.stage.rows)
        if writes.install is not None:
            self.disk.arrivals = {entry.index: layout.encode_entry(entry) for entry in writes.install}

    def _take_step(self) -> None:
        """As `installation.take_step`, on dictionaries."""
        disk = self.disk
        head = disk.state.staging
        assert head is not None
        old: tuple[dict[Any, Any], ...] = (disk.entries, disk.records, disk.postings, disk.rows, disk.base)
        if len(disk.staged) == head.rows and any(old):
            table = next(filter(None, old))
            for key in list(table)[:INSTALL_STEP_KEYS]:
                del table[key]
        elif disk.staged:
            for key in sorted(disk.staged)[:INSTALL_STEP_KEYS]:
                disk.rows[key] = disk.base[key] = disk.staged.pop(key)
        else:
            disk.entries, disk.arrivals = disk.arrivals, {}
            disk.state = installed(disk.state)

    # ------------------------------------------------------------------------------------------------------- reading
    def entry(self, index: int) -> Entry:
        self._check_open()
        return layout.decode_entry(index, self.disk.entries[index])

    def entries(self, first: int, last: int, *, bytes_max: int) -> list[Entry]:
        if first < self.disk.state.first:
            raise KeyError(first)
        found: list[Entry] = []
        taken = 0
        for index in range(first, min(last, self.disk.state.last) + 1):
            found.append(self.entry(index))
            taken += len(found[-1].command)
            if taken >= bytes_max:
                break
        return found

    def term(self, index: int) -> int:
        self._check_open()
        return layout.decode_term(index, self.disk.entries[index])

    def rows(self) -> list[tuple[bytes, bytes]]:
        self._check_open()
        return sorted(self.disk.rows.items())

    def base(self) -> SnapshotHead:
        return self.disk.state.base

    def base_rows(self, first: int, *, after: bytes = b"", bytes_max: int | None = None) -> list[tuple[bytes, bytes]]:
        self._check_open()
        if first != self.disk.state.first:
            raise KeyError(first)
        found: list[tuple[bytes, bytes]] = []
        size = 0
        for key, row in sorted(self.disk.base.items()):
            if key > after and (bytes_max is None or size < bytes_max):
                found.append((key, row))
                size += len(key) + len(row)
        return found

    def record(self, index: int) -> EntryRecord:
        self._check_open()
        return layout.decode_record(index, self.disk.records[index])

    def records(self, first: int, last: int) -> list[EntryRecord]:
        state = self.disk.state
        return [self.record(index) for index in range(max(first, state.first), min(last, state.applied) + 1)]

    def index_of_seq(self, seq: int) -> int | None:
        return find_seq(self.record, self.disk.state.first, self.disk.state.applied, seq)

    def index_of_time(self, timestamp: int) -> int | None:
        return find_time(self.record, self.disk.state.first, self.disk.state.applied, timestamp)

    def next_block(self, topic_ids: Sequence[int], block: int) -> int | None:
        self._check_open()
        first = self.disk.state.first
        if topic_ids and first > 1 and first % BLOCK_ENTRIES and block == first // BLOCK_ENTRIES:
            return block
        found = [_at_or_after(self.disk.postings.get(topic_id, []), block) for topic_id in topic_ids]
        return min((each for each in found if each is not None), default=None)

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the memory store is closed")


def _put_rows(table: dict[bytes, bytes], rows: Mapping[bytes, bytes | None]) -> None:
    for key, row in rows.items():
        assert 1 <= len(key) <= layout.KEY_BYTES_MAX, f"a row key of {len(key)} bytes"
        if row is None:
            table.pop(key, None)
        else:
            table[key] = row


def _at_or_after(blocks: Sequence[int], block: int) -> int | None:
    place = bisect_left(blocks, block)
    return blocks[place] if place < len(blocks) else None
