"""Logs to fill a store with, and the two kinds of store, each with a home that outlives it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.log_store import (
    BLOCK_ENTRIES,
    Checkpoint,
    Entry,
    EntryRecord,
    HardState,
    LogStore,
    Writes,
    entry_crc,
)
from lanyinglog.store.memory import MemoryDisk, MemoryStore

MAP_BYTES = 1 << 28


def entry(index: int, term: int = 1, command: bytes | None = None) -> Entry:
    command = f"command {index} of term {term}".encode() if command is None else command
    return Entry(index, term, command, entry_crc(index, term, command))


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [entry(index, term) for index in range(first, last + 1)]


def records(counts: Sequence[int], *, first: int = 1, first_seq: int = 1, timestamp: int = 1_000) -> list[EntryRecord]:
    """A record for each of ``counts`` messages, 100 ns between the entries."""
    made = []
    for index, count in enumerate(counts, start=first):
        made.append(EntryRecord(index, first_seq, count, timestamp, (0,) if count == 0 else ()))
        first_seq += count
        timestamp += max(0, count - 1) + 100
    return made


def applied(counts: Sequence[int]) -> Writes:
    """A log of ``len(counts)`` entries, all applied, in one transaction."""
    last = len(counts)
    return Writes(
        entries=entries(1, last),
        hard_state=HardState(1, "n1", last),
        checkpoint=Checkpoint(
            last,
            records(counts),
            {b"row-%d" % index: b"value-%d" % index for index in range(1, 4)},
            [(7, index // BLOCK_ENTRIES) for index in range(1, last + 1)],
        ),
    )


class Home:
    """Where a store's content lives: a data directory, or a `MemoryDisk`."""

    def open(self) -> LogStore:
        raise NotImplementedError


@dataclass
class LmdbHome(Home):
    directory: Path

    def open(self) -> LmdbStore:
        return LmdbStore.open(self.directory, node="n1", cluster="c", map_bytes=MAP_BYTES)


@dataclass
class MemoryHome(Home):
    disk: MemoryDisk = field(default_factory=MemoryDisk)

    def open(self) -> MemoryStore:
        return MemoryStore(self.disk)


@dataclass
class Model:
    """A log as a reader of the contract would keep it: lists and dicts, every question answered by looking at all."""

    entries: list[Entry] = field(default_factory=list)
    records: list[EntryRecord] = field(default_factory=list)
    hard: HardState = field(default_factory=HardState)
    rows: dict[bytes, bytes] = field(default_factory=dict)
    postings: set[tuple[int, int]] = field(default_factory=set)

    def write(self, writes: Writes) -> None:
        if writes.truncate_from is not None:
            del self.entries[writes.truncate_from - 1 :]
        self.entries += writes.entries
        hard = writes.hard_state or self.hard
        self.hard = HardState(hard.term, hard.vote, min(hard.commit, len(self.entries)))
        if writes.checkpoint is not None:
            self.records += writes.checkpoint.records
            self.postings |= set(writes.checkpoint.postings)
            for key, row in writes.checkpoint.rows.items():
                if row is None:
                    self.rows.pop(key, None)
                else:
                    self.rows[key] = row

    def index_of_seq(self, seq: int) -> int | None:
        return next((one.index for one in self.records if one.first_seq <= seq < one.first_seq + one.count), None)

    def index_of_time(self, timestamp: int) -> int | None:
        return next((one.index for one in self.records if one.count and one.timestamp + one.count > timestamp), None)

    def next_block(self, topic_ids: Sequence[int], block: int) -> int | None:
        return min((at for topic, at in self.postings if topic in topic_ids and at >= block), default=None)

    def up_to(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        found: list[Entry] = []
        for one in self.entries[first - 1 : last]:
            found.append(one)
            if sum(len(each.command) for each in found) >= bytes_max:
                break
        return found


def check_same(store: LogStore, model: Model, rng: random.Random) -> None:
    """``store`` answers every question as ``model`` does."""
    last, done = len(model.entries), len(model.records)
    assert store.bounds() == (1, last)
    assert store.hard_state() == model.hard
    assert store.applied() == done
    assert store.rows() == sorted(model.rows.items())
    assert store.entries(1, last + 5, bytes_max=1 << 40) == model.entries
    assert store.records(0, last + 5) == model.records
    assert [store.term(one.index) for one in model.entries] == [one.term for one in model.entries]
    assert [store.entry(one.index) for one in model.entries] == model.entries
    first, size = rng.randrange(1, last + 2), rng.randrange(200)
    assert store.entries(first, last, bytes_max=size) == model.up_to(first, last, size)
    newest = model.records[-1] if model.records else EntryRecord(0, 1, 0, 0)
    for seq in range(newest.first_seq + newest.count + 3):
        assert store.index_of_seq(seq) == model.index_of_seq(seq), seq
    times = {one.timestamp + shift for one in model.records for shift in (-1, 0, 1, one.count - 1, one.count)}
    for timestamp in times | {0, 1 << 62}:
        assert store.index_of_time(timestamp) == model.index_of_time(timestamp), timestamp
    for topics in ([], [1], [2], [3], [1, 2], [3, 1, 9]):
        for block in range(5):
            assert store.next_block(topics, block) == model.next_block(topics, block), (topics, block)
