"""The way out: what is committed and may be read, newest first from memory, history from the store.

Every applied entry passes `append` with its record and its runs. The newest stay in memory, parsed once however many
subscribers read them; a page of them is views into the stored bytes. What is older is read from the store by `History`,
in a worker thread, a bounded stretch at a time, with no transaction left open.

The two meet without a seam: memory holds at least every entry whose record is not yet in the store.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lanyinglog.machine.state_machine import Applied, RunPlace, places
from lanyinglog.raft.journal import Journal
from lanyinglog.service import Item, Page
from lanyinglog.store.log_store import BLOCK_ENTRIES, EntryRecord, LogStore

HOT_ENTRIES_MAX = 4_096
HOT_RUNS_MAX = 65_536
_COLD_ENTRIES_MAX = 256
"""Entries one cold read looks at: bounds the time in the thread when filters match nothing."""
Matches = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class _Hot:
    record: EntryRecord
    runs: tuple[RunPlace, ...]


class _PageBuilder:
    """Gathers the items of one page until a bound is reached."""

    def __init__(
        self, *, after: int, matches: Matches, purged: Mapping[str, int], messages_max: int, bytes_max: int
    ) -> None:
        self.through = after
        self._after = after
        self._matches = matches
        self._purged = purged
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._items: list[Item] = []
        self._passed_over = 0
        self._messages = 0
        self._bytes = 0

    @property
    def full(self) -> bool:
        return self._messages >= self._messages_max or self._bytes >= self._bytes_max

    def add(self, runs: Sequence[RunPlace], command: bytes, last_seq: int) -> bool:
        """Take an entry's runs, the last message of which is ``last_seq``; False when the page got full in it."""
        view = memoryview(command)
        for topic, first_seq, timestamp, count, start, stop in runs:
            last = first_seq + count - 1
            if last <= self._after:
                continue
            if not self._matches(topic):
                pass
            elif self._purged and first_seq <= self._purged.get(topic, 0):
                self._passed_over += last - max(self._after, first_seq - 1)
            else:
                if self.full:
                    return False
                self._items.append(Item(first_seq, timestamp, count, view[start:stop]))
                self._messages += count
                self._bytes += stop - start
            self.through = last
        self.through = max(self.through, last_seq)
        return not self.full

    def page(self) -> Page:
        return Page(self._items, self.through, self._messages, self._bytes, self._passed_over)


class Tail:
    """The newest applied entries of a log, in memory."""

    def __init__(self, *, journal: Journal, last_seq: int) -> None:
        self._journal = journal
        self._hot: list[_Hot] = []
        self._seqs: list[int] = []  # the last seq of each, for bisection
        self._start = 0  # entries before this place are dropped, and removed now and then
        self._runs = 0
        self.last_seq = last_seq
        self._stored = 0

    def append(self, applied: Applied) -> None:
        """The next applied entry."""
        self.last_seq = applied.record.first_seq + applied.record.count - 1
        self._hot.append(_Hot(applied.record, applied.runs))
        self._seqs.append(self.last_seq)
        self._runs += len(applied.runs)
        self._trim()

    def stored(self, applied: int) -> None:
        """The records up to entry ``applied`` are in the store now; memory need not keep them."""
        self._stored = applied
        self._trim()

    def trimmed(self) -> None:
        """The log begins later than before: memory keeps nothing of what is going."""
        self._trim()

    def _trim(self) -> None:
        while self._start < len(self._hot) and self._hot[self._start].record.index <= self._stored:
            over = len(self._hot) - self._start > HOT_ENTRIES_MAX or self._runs > HOT_RUNS_MAX
            if not over and self._journal.cached(self._hot[self._start].record.index) is not None:
                break
            self._runs -= len(self._hot[self._start].runs)
            self._start += 1
        if self._start > HOT_ENTRIES_MAX:
            del self._hot[: self._start]
            del self._seqs[: self._start]
            self._start = 0

    @property
    def first_seq(self) -> int | None:
        """The seq from which on memory has all; None if it has nothing."""
        return self._hot[self._start].record.first_seq if self._start < len(self._hot) else None

    def holds(self, seq: int) -> bool:
        """Whether a read from ``seq`` on can be answered from memory."""
        return self._start < len(self._hot) and seq >= self._hot[self._start].record.first_seq

    def read(
        self, *, after: int, matches: Matches, purged: Mapping[str, int], messages_max: int, bytes_max: int
    ) -> Page:
        """Like `LogService.read`, for what `holds` says is here. ``purged``: `TopicTable.purged`."""
        builder = _PageBuilder(
            after=after, matches=matches, purged=purged, messages_max=messages_max, bytes_max=bytes_max
        )
        place = max(self._start, bisect_right(self._seqs, after, self._start))
        while place < len(self._hot):
            hot = self._hot[place]
            if hot.runs:
                command = self._journal.entry(hot.record.index).command
                if not builder.add(hot.runs, command, self._seqs[place]):
                    break
            place += 1
        return builder.page()

    def seq_at_time(self, timestamp: int) -> int | None:
        """The first message at or after ``timestamp``; None if an earlier one than memory holds may be the answer."""
        hot = self._hot
        if self._start >= len(hot) or timestamp <= hot[self._start].record.timestamp:
            return None
        place = bisect_right(hot, timestamp, self._start, key=lambda one: one.record.timestamp) - 1
        return _seq_at_time(hot[place].record, timestamp)


def _seq_at_time(done: EntryRecord, timestamp: int) -> int:
    """Message *i* of an entry has ``timestamp + i``: the first at or after ``timestamp``, or one behind the entry."""
    return done.first_seq + min(max(0, timestamp - done.timestamp), done.count)


class History:
    """Reads of what is on disk. Every method blocks and belongs into a worker thread."""

    def __init__(self, store: LogStore) -> None:
        self._store = store

    def read(
        self,
        *,
        after: int,
        matches: Matches,
        purged: Mapping[str, int],
        topic_numbers: Sequence[int] | None,
        last_index: int,
        messages_max: int,
        bytes_max: int,
    ) -> Page:
        """Like `LogService.read`, up to the last stored record, and no further than entry ``last_index``.

        ``topic_numbers`` None means all topics; else those of the topics that match as of ``last_index``: behind it
        there may be more of them, which have other numbers and would be skipped.
        `CorruptEntry` names an entry that fails its checksum: it is not served. `KeyError`: the front of the log went
        while it was read.
        """
        builder = _PageBuilder(
            after=after, matches=matches, purged=purged, messages_max=messages_max, bytes_max=bytes_max
        )
        index = self._store.index_of_seq(after + 1)
        stored = min(last_index, self._store.applied())
        looked_at = 0
        while index is not None and index <= stored and looked_at < _COLD_ENTRIES_MAX:
            index = self._skip(index, stored, topic_numbers, builder)
            last = min(stored, index + BLOCK_ENTRIES - 1 - index % BLOCK_ENTRIES)
            entries = self._store.entries(index, last, bytes_max=bytes_max)
            if not entries:
                break
            records = self._store.records(index, entries[-1].index)
            if len(records) < len(entries):
                raise KeyError(index)  # a trim between the two look-ups: each sees the log as it is then
            for entry, done in zip(entries, records, strict=True):
                looked_at += 1
                index = entry.index + 1
                if not builder.add(places(entry.command, done), entry.command, done.first_seq + done.count - 1):
                    return builder.page()
        return builder.page()

    def _skip(self, index: int, stored: int, numbers: Sequence[int] | None, builder: _PageBuilder) -> int:
        """The next entry from ``index`` on whose block has one of the topics; what is skipped counts as covered."""
        if numbers is None:
            return index
        block = self._store.next_block(numbers, index // BLOCK_ENTRIES)
        if block == index // BLOCK_ENTRIES:
            return index
        target = stored + 1 if block is None else min(block * BLOCK_ENTRIES, stored + 1)
        done = self._store.record(target - 1)
        builder.through = max(builder.through, done.first_seq + done.count - 1)
        return target

    def seq_at_time(self, timestamp: int) -> int | None:
        """The first stored message at or after ``timestamp``; None if all are earlier. `KeyError` as in `read`."""
        index = self._store.index_of_time(timestamp)
        if index is None:
            return None
        return _seq_at_time(self._store.record(index), timestamp)
