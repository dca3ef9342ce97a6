"""The memory twin of `LmdbStore`: the same contract without a disk, for tests and for simulated clusters.

A `MemoryDisk` is what a data directory is: it outlives the store that uses it, so a simulated node that is killed
drops its `MemoryStore` and starts a new one on the same disk. Entries lie on it in the bytes of the real format, so
that a flipped byte is found by the real check.

Faults are asked for in advance and happen at the next `write`: it raises, with all of its effects or none. There is
nothing between, as LMDB's transactions have nothing between: a power cut in the middle of a write is a choice of the
two, made by who simulates it.

Deterministic; one thread. Costs a few microseconds a call.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lanyinglog.errors import StoreError
from lanyinglog.store import layout
from lanyinglog.store.log_store import Entry, EntryRecord, HardState, Writes
from lanyinglog.store.search import find_seq, find_time
from lanyinglog.store.state import State, advance


@dataclass(slots=True)
class MemoryDisk:
    """The durable content: entries as encoded values, records, rows, the blocks of each topic id, and the state."""

    state: State = field(default_factory=State)
    entries: dict[int, bytes] = field(default_factory=dict)
    records: dict[int, EntryRecord] = field(default_factory=dict)
    rows: dict[bytes, bytes] = field(default_factory=dict)
    postings: dict[int, list[int]] = field(default_factory=dict)

    def copy(self) -> MemoryDisk:
        """The content as it is now; neither of the two changes the other from here on."""
        postings = {topic_id: list(blocks) for topic_id, blocks in self.postings.items()}
        return MemoryDisk(self.state, dict(self.entries), dict(self.records), dict(self.rows), postings)

    def flip(self, index: int, byte: int, mask: int = 0xFF) -> None:
        """Damages byte ``byte`` of the stored value of entry ``index``, modulo its length: header, command."""
        value = bytearray(self.entries[index])
        value[byte % len(value)] ^= mask
        self.entries[index] = bytes(value)


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

    # ------------------------------------------------------------------------------------------------------- writing
    def write(self, writes: Writes) -> None:
        self._check_open()
        if self._failure is not None:
            raise self._failure
        after = advance(self.disk.state, writes)
        fault, self._fault = self._fault, None
        if fault is None or fault[1]:
            self._put(writes, after)
        if fault is not None:
            if isinstance(fault[0], OSError):
                self._failure = fault[0]
            raise fault[0]

    def _put(self, writes: Writes, after: State) -> None:
        disk = self.disk
        if writes.truncate_from is not None:
            for index in range(writes.truncate_from, disk.state.last + 1):
                disk.entries.pop(index)
        for entry in writes.entries:
            disk.entries[entry.index] = layout.encode_entry(entry)
        postings = after.postings
        if writes.checkpoint is not None:
            disk.records.update({record.index: record for record in writes.checkpoint.records})
            for key, row in writes.checkpoint.rows.items():
                assert 1 <= len(key) <= layout.KEY_BYTES_MAX, f"a row key of {len(key)} bytes"
                if row is None:
                    disk.rows.pop(key, None)
                else:
                    disk.rows[key] = row
            for topic_id, block in writes.checkpoint.postings:
                blocks = disk.postings.setdefault(topic_id, [])
                if _at_or_after(blocks, block) != block:
                    insort(blocks, block)
                    postings += 1
        disk.state = replace(after, rows=len(disk.rows), postings=postings)
        self.writes_done += 1

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

    def record(self, index: int) -> EntryRecord:
        self._check_open()
        return self.disk.records[index]

    def records(self, first: int, last: int) -> list[EntryRecord]:
        state = self.disk.state
        return [self.record(index) for index in range(max(first, state.first), min(last, state.applied) + 1)]

    def index_of_seq(self, seq: int) -> int | None:
        return find_seq(self.record, self.disk.state.first, self.disk.state.applied, seq)

    def index_of_time(self, timestamp: int) -> int | None:
        return find_time(self.record, self.disk.state.first, self.disk.state.applied, timestamp)

    def next_block(self, topic_ids: Sequence[int], block: int) -> int | None:
        self._check_open()
        found = [_at_or_after(self.disk.postings.get(topic_id, []), block) for topic_id in topic_ids]
        return min((each for each in found if each is not None), default=None)

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the memory store is closed")


def _at_or_after(blocks: Sequence[int], block: int) -> int | None:
    place = bisect_left(blocks, block)
    return blocks[place] if place < len(blocks) else None
