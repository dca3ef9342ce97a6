"""The Raft log as the engine sees it: a list of entries; in memory what is hot or not yet on disk, the rest stored.

The engine calls it like a list and never waits: what it changes gathers here and goes to disk as one `Writes`, one
transaction and one sync, taken by `begin_write` and reported done by `end_write`. Each change that must be durable
before anything reflecting it leaves the node raises `version`; `durable_version` follows (audit 10; the replica holds
messages back until then).

Invariants
1. ``durable_index <= last_index``; entries above it exist in memory alone and are never evicted.
2. The commit index handed to the engine never exceeds the last entry (audit 9).
3. A slice of more than one entry is lazy: it reads them as they are iterated, so no message ever pulls the log into
   memory (audit 21).
4. ``first_index`` moves when a trim is taken for writing, before the store loses anything: nobody asks for what goes.
5. Writes are taken one at a time and reach the store in the order of the changes.

Not here: what a change means (engine), whether it is allowed (guard), when to write (commit loop).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, overload

from lanyinglog.store.log_store import Checkpoint, Entry, HardState, LogStore, Writes, entry_crc

EngineEntry = tuple[bytes, int, int]
"""command, index, term: the engine's own order."""


class Watcher(Protocol):
    """Is told of each change of the log, in the middle of the engine's step: `membership.Membership`."""

    def added(self, index: int, command: bytes) -> None: ...
    def cut(self, index: int) -> None: ...


class Journal:
    """Keeps ``cache_bytes_max`` bytes of the newest entries in memory, besides those not yet on disk."""

    def __init__(self, store: LogStore, *, cache_bytes_max: int) -> None:
        self._store = store
        self.watcher: Watcher | None = None
        self._cache_bytes_max = cache_bytes_max
        first, last = store.bounds()
        self.first_index = first
        self.last_index = last
        self.last_term = store.term(last) if last >= first else 0
        self._first_term = store.term(first) if last >= first else 0
        stored = store.hard_state()
        self.hard_state = HardState(stored.term, stored.vote, min(stored.commit, last))
        self.durable_index = last
        self.version = 0
        self.durable_version = 0
        self.term_version = 0  # the version at which term or vote last changed
        self._cache: dict[int, Entry] = {}
        self._cache_first = last + 1
        self._cache_bytes = 0
        self.unwritten_bytes = 0  # commands of entries that are not on disk
        self._last_read: Entry | None = None
        # Changes since the last `begin_write`:
        self._truncate_from: int | None = None
        self._append_from = last + 1
        self._hard_state_changed = False
        # The write under way:
        self.writing = False
        self._writing_version = 0
        self._writing_last = 0

    # ------------------------------------------------------------------------------------ called by the engine
    def __len__(self) -> int:
        return self.last_index - self.first_index + 1

    @overload
    def __getitem__(self, place: int) -> EngineEntry: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[EngineEntry]: ...
    def __getitem__(self, place: int | slice) -> EngineEntry | Sequence[EngineEntry]:
        if place == -1:
            return b"", self.last_index, self.last_term  # the engine asks for index and term alone, at every turn
        if place == 0:
            return b"", self.first_index, self._first_term  # likewise
        if isinstance(place, slice):
            start, stop, _ = place.indices(self.last_index - self.first_index + 1)
            if stop - start == 1:
                return (self._engine_entry(self.first_index + start),)
            return LazySlice(self._engine_entry, self.first_index + start, self.first_index + max(start, stop))
        return self._engine_entry(self.first_index + place if place >= 0 else self.last_index + 1 + place)

    def add(self, command: bytes, idx: int, term: int) -> None:
        assert idx == self.last_index + 1, f"entry {idx} added behind {self.last_index}"
        self._cache[idx] = Entry(idx, term, command, entry_crc(idx, term, command))
        self._cache_bytes += len(command)
        self.unwritten_bytes += len(command)
        self.last_index, self.last_term = idx, term
        if idx == self.first_index:
            self._first_term = term
        self.version += 1
        self._evict()
        if self.watcher is not None:
            self.watcher.added(idx, command)

    def deleteEntriesFrom(self, place: int) -> None:  # the engine's name
        index = self.first_index + place
        if index > self.last_index:
            return
        assert index > self.hard_state.commit, f"entry {index} is committed and can't be dropped"
        for gone in range(max(index, self._cache_first), self.last_index + 1):
            dropped = len(self._cache.pop(gone).command)
            self._cache_bytes -= dropped
            self.unwritten_bytes -= dropped if gone > self.durable_index else 0
        self._last_read = None
        self.last_index = index - 1
        self.last_term = self._term(self.last_index)
        self._cache_first = min(self._cache_first, index)
        if index <= self.durable_index or (self.writing and index <= self._writing_last):
            self._truncate_from = index if self._truncate_from is None else min(index, self._truncate_from)
        self._append_from = min(self._append_from, index)
        self.durable_index = min(self.durable_index, index - 1)
        self._writing_last = min(self._writing_last, index - 1)
        self.version += 1
        if self.watcher is not None:
            self.watcher.cut(index)

    def deleteEntriesTo(self, place: int) -> None:  # the engine's name
        raise AssertionError("the engine must not compact: retention is the log's own business")

    def clear(self) -> None:
        raise AssertionError("the engine must not clear the journal (audit 3)")

    def setRaftCommitIndex(self, commit: int) -> None:  # the engine's name
        state = self.hard_state
        if commit != state.commit:
            assert commit > state.commit, f"commit index falls from {state.commit} to {commit}"
            self.hard_state = HardState(state.term, state.vote, commit)
            self._hard_state_changed = True  # goes with the next write; Raft may forget it

    def getRaftCommitIndex(self) -> int:  # the engine's name
        return max(1, self.hard_state.commit)

    def setCurrentTerm(self, term: int, vote: str | None) -> None:  # the engine's name
        state = self.hard_state
        if (term, vote) != (state.term, state.vote):
            assert term >= state.term, f"term falls from {state.term} to {term}"
            self.hard_state = HardState(term, vote, state.commit)
            self._hard_state_changed = True
            self.version += 1
            self.term_version = self.version

    def getCurrentTerm(self) -> int:  # the engine's name
        return self.hard_state.term

    def getVotedForNodeId(self) -> str | None:  # the engine's name
        return self.hard_state.vote

    def onOneSecondTimer(self) -> None:  # the engine's name
        """The engine's hour for lazy work; this journal has none."""

    def _destroy(self) -> None:
        """The store is closed by who opened it."""

    # ------------------------------------------------------------------------------------ called by guard and log
    def entry(self, index: int) -> Entry:
        """The entry, from memory or the store. `KeyError` if there is none, `CorruptEntry` if it is damaged."""
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        if self._last_read is not None and self._last_read.index == index:
            return self._last_read
        if not self.first_index <= index <= self.last_index:
            raise KeyError(index)
        self._last_read = self._store.entry(index)
        return self._last_read

    def cached(self, index: int) -> Entry | None:
        """The entry if it is in memory."""
        return self._cache.get(index)

    def term(self, index: int) -> int:
        """The term of an entry. `KeyError` if there is none."""
        if not self.first_index <= index <= self.last_index:
            raise KeyError(index)
        return self.last_term if index == self.last_index else self._term(index)

    @property
    def dirty(self) -> bool:
        """Whether something waits that must reach the disk before the node may speak of it."""
        return self.version > (self._writing_version if self.writing else self.durable_version)

    def touch(self) -> None:
        """Something else than the log must reach the disk."""
        self.version += 1

    @property
    def unsaved_bytes(self) -> int:
        """Commands that the next `begin_write` takes along."""
        return sum(len(self._cache[index].command) for index in range(self._append_from, self.last_index + 1))

    def trim(self, first: int) -> None:
        """The log begins at ``first`` from here on; what is below goes with the write that is taken now."""
        assert self.first_index <= first < self.last_index, f"{first} of {self.first_index} to {self.last_index}"
        for index in range(max(self.first_index, self._cache_first), first):
            self._cache_bytes -= len(self._cache.pop(index).command)
        self._cache_first = max(self._cache_first, first)
        self._last_read = None
        self._first_term = self.term(first)
        self.first_index = first

    def begin_write(self, checkpoint: Checkpoint | None = None) -> Writes:
        """All changes so far as one transaction. The caller writes it and then calls `end_write`."""
        assert not self.writing, "one write at a time"
        writes = Writes(
            truncate_from=self._truncate_from,
            entries=[self._cache[index] for index in range(self._append_from, self.last_index + 1)],
            hard_state=self.hard_state if self._hard_state_changed else None,
            checkpoint=checkpoint,
        )
        self._truncate_from = None
        self._append_from = self.last_index + 1
        self._hard_state_changed = False
        self.writing = True
        self._writing_version = self.version
        self._writing_last = self.last_index
        return writes

    def end_write(self) -> None:
        """The transaction taken last is on disk."""
        assert self.writing
        self.writing = False
        self.durable_version = self._writing_version
        for index in range(self.durable_index + 1, self._writing_last + 1):
            self.unwritten_bytes -= len(self._cache[index].command)
        self.durable_index = max(self.durable_index, self._writing_last)
        self._evict()

    # ------------------------------------------------------------------------------------------------- inside
    def _engine_entry(self, index: int) -> EngineEntry:
        entry = self.entry(index)
        return entry.command, entry.index, entry.term

    def _term(self, index: int) -> int:
        cached = self._cache.get(index)
        return cached.term if cached is not None else self._store.term(index)

    def _evict(self) -> None:
        while self._cache_bytes > self._cache_bytes_max and self._cache_first <= self.durable_index:
            gone = self._cache.pop(self._cache_first)
            self._cache_bytes -= len(gone.command)
            self._cache_first += 1


class LazySlice(Sequence[EngineEntry]):
    """Entries ``start`` to ``stop`` (exclusive) of a journal, read when they are looked at."""

    def __init__(self, read: Callable[[int], EngineEntry], start: int, stop: int) -> None:
        self._read = read
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        return self._stop - self._start

    @overload
    def __getitem__(self, place: int) -> EngineEntry: ...
    @overload
    def __getitem__(self, place: slice) -> LazySlice: ...
    def __getitem__(self, place: int | slice) -> EngineEntry | LazySlice:
        if isinstance(place, slice):
            start, stop, _ = place.indices(len(self))
            return LazySlice(self._read, self._start + start, self._start + max(start, stop))
        index = self._start + place if place >= 0 else self._stop + place
        if not self._start <= index < self._stop:
            raise IndexError(place)
        return self._read(index)

    def __iter__(self) -> Iterator[EngineEntry]:
        return map(self._read, range(self._start, self._stop))

    def __reversed__(self) -> Iterator[EngineEntry]:
        return map(self._read, range(self._stop - 1, self._start - 1, -1))
