"""What the log means: seq, timestamps, topics, producers and retention as a pure function of the entries, in order.

`StateMachine.apply` is **total** (audit 12): a command it can't honour yields an error result, the same on every node,
and never an exception. It reads no clock and no random numbers: time enters only inside an entry.

Invariants
1. ``last_seq`` rises by exactly the number of messages accepted; a refused or repeated batch takes no seq (P2, P4).
2. The timestamp of a message is above that of the message before it, whatever the leader's clock did (P2).
3. A batch's messages have consecutive seqs and timestamps, all or none of them (P3).
4. ``first_index`` and ``first_seq``, where the log begins by the newest trim, never fall and never pass what was
   applied before the trim.
5. `take_checkpoint` is the whole difference since the last one: rows loaded into a new machine, then the
   entries after its applied index, give the same machine.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from lanyinglog import codec, record
from lanyinglog.errors import BadBatch, BadRequest, LanyingError, TooManyTopics
from lanyinglog.machine import retention
from lanyinglog.machine.commands import (
    KIND_BATCH,
    KIND_MEMBERS,
    KIND_PURGE,
    KIND_SETTINGS,
    KIND_TRIM,
    parse_entry,
)
from lanyinglog.machine.members import Members
from lanyinglog.machine.producers import Producers
from lanyinglog.machine.purge import REMEMBERED, Purge
from lanyinglog.machine.retention import Retention
from lanyinglog.machine.topic_table import TopicTable
from lanyinglog.service import Ack
from lanyinglog.store.log_store import Checkpoint, EntryRecord, disk_bytes
from lanyinglog.topics import matcher

Result = Ack | LanyingError
"""What became of one command; an `Ack` of no messages for one that is no batch."""

_ROW_META = b"m"
_ROW_PRODUCER = b"p"
_ROW_TOPIC = b"t"
_ROW_RETENTION = b"r"
_ROW_MEMBERS = b"c"
_ROW_PURGES = b"g"


RunPlace = tuple[str, int, int, int, int, int]
"""Topic, first seq, first timestamp (ns) and messages of a run, and where it lies: bytes start to stop of the entry's
command. A plain tuple: see `record.SkimmedRun`."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying one entry gave: ``results`` has one for each of its commands, ``runs`` those accepted."""

    record: EntryRecord
    results: tuple[Result, ...]
    runs: tuple[RunPlace, ...]


class StateMachine:
    """The derived state of one log on one node."""

    def __init__(self, *, producers: Producers | None = None, topics: TopicTable | None = None) -> None:
        self.applied = 0
        self.last_seq = 0
        self.last_timestamp = 0
        self.producers = producers if producers is not None else Producers()
        self.topics = topics if topics is not None else TopicTable()
        self.end_bytes = 0
        """`disk_bytes` of all entries applied since the log began."""
        self.retention = Retention()
        self.first_index = 1
        self.first_seq = 1
        self.members: Members | None = None
        """The newest committed ones; None while nobody has changed what the settings say."""
        self._retention_changed = False
        self._members_changed = False
        self._purges: tuple[int, ...] = ()
        self._purges_changed = False
        self._records: list[EntryRecord] = []

    def apply(self, index: int, command: bytes) -> Applied:
        """Entry ``index``, which follows `applied`, with its ``command`` bytes. Total: never raises on content."""
        assert index == self.applied + 1, f"entry {index} applied after {self.applied}"
        first_seq = self.last_seq + 1
        try:
            entry = parse_entry(command)
        except ValueError:
            entry = parse_entry(b"\x01")  # every node finds it unreadable alike: an entry without messages
        timestamp = max(entry.timestamp, self.last_timestamp + 1)
        base = timestamp
        results: list[Result] = []
        runs: list[RunPlace] = []
        dropped: list[int] = []
        for ordinal, (kind, start, stop) in enumerate(entry.commands):
            if kind == KIND_BATCH:
                result = self._apply_batch(index, command, start, stop, timestamp, runs)
            else:
                result = self._apply_command(index, command[start:stop], kind, timestamp)
            results.append(result)
            if isinstance(result, Ack) and not result.duplicate:
                timestamp += result.count
            else:
                dropped.append(ordinal)
        self.applied = index
        self.end_bytes += disk_bytes(len(command))
        done = EntryRecord(
            index,
            first_seq,
            self.last_seq + 1 - first_seq,
            base if runs else self.last_timestamp,
            tuple(dropped),
            self.end_bytes,
        )
        self._records.append(done)
        return Applied(done, tuple(results), tuple(runs))

    def _apply_command(self, index: int, body: bytes, kind: int, timestamp: int) -> Result:
        """What is no batch."""
        try:
            if kind == KIND_SETTINGS:
                self.retention = retention.changed(self.retention, body)
            elif kind == KIND_TRIM:
                self._trim(index, retention.decode_trim(body))
            elif kind == KIND_MEMBERS:
                self.members, self._members_changed = Members.decode(body), True
                return Ack(self.last_seq + 1, 0, timestamp)
            elif kind == KIND_PURGE:
                self._purge(Purge.decode(body))
                return Ack(self.last_seq + 1, 0, timestamp)
            else:
                return BadBatch(f"a command of unknown kind {kind}")
        except BadRequest as error:
            return error
        self._retention_changed = True
        return Ack(self.last_seq + 1, 0, timestamp)

    def _trim(self, index: int, point: retention.TrimPoint) -> None:
        """The log begins at ``point``. `BadRequest` if it already begins there or behind it: the proposal of a leader
        that was overtaken."""
        if (
            not self.first_index < point.first_index <= index
            or not self.first_seq <= point.first_seq <= self.last_seq + 1
        ):
            raise BadRequest(f"a trim to {point}; the log begins at entry {self.first_index}, seq {self.first_seq}")
        self.first_index, self.first_seq = point

    def _purge(self, purge: Purge) -> None:
        if purge.number not in self._purges:
            self._purges = (*self._purges, purge.number)[-REMEMBERED:]
            self._purges_changed = True
            self.topics.purge(matcher([purge.filter]))

    def _apply_batch(
        self, index: int, command: bytes, start: int, stop: int, timestamp: int, runs: list[RunPlace]
    ) -> Result:
        try:
            producer, number, batch_runs = record.skim_batch(command, start, stop)
        except (struct.error, UnicodeDecodeError, IndexError, AssertionError) as error:
            return BadBatch(f"a batch that can't be read: {error}")
        verdict = self.producers.verdict(producer, number)
        if verdict is not None:
            return verdict
        topics = self.topics
        if not topics.has_room_for(batch_runs):
            return TooManyTopics(f"batch {number} names a new topic and the log is full of them")
        first_seq = seq = self.last_seq + 1
        next_timestamp = timestamp
        for topic, count, start, stop in batch_runs:
            runs.append((topic, seq, next_timestamp, count, start, stop))
            seq += count
            next_timestamp += count
            topics.count(topic, index, count, stop - start, seq - 1, next_timestamp - 1)
        self.last_seq = seq - 1
        self.last_timestamp = next_timestamp - 1
        ack = Ack(first_seq, seq - first_seq, timestamp)
        self.producers.accept(producer, number, ack)
        return ack

    # ------------------------------------------------------------------------------------------- checkpoint
    def take_checkpoint(self) -> Checkpoint:
        """All that changed since the last call, as of `applied`. The caller must store it or hand it in again."""
        rows: dict[bytes, bytes | None] = {_ROW_META: codec.pack([self.last_seq, self.last_timestamp, self.end_bytes])}
        if self._retention_changed:
            limits = self.retention
            row = [self.first_index, self.first_seq, limits.age_s, limits.bytes, limits.messages]
            rows[_ROW_RETENTION] = codec.pack(row)
            self._retention_changed = False
        if self._members_changed and self.members is not None:
            rows[_ROW_MEMBERS] = self.members.encode()
            self._members_changed = False
        if self._purges_changed:
            rows[_ROW_PURGES] = codec.pack(self._purges)
            self._purges_changed = False
        rows.update((_ROW_PRODUCER + key, value) for key, value in self.producers.take_changes().items())
        topic_rows, postings = self.topics.take_changes()
        rows.update((_ROW_TOPIC + key, value) for key, value in topic_rows.items())
        records = self._records
        self._records = []
        return Checkpoint(self.applied, records, rows, postings)

    @property
    def entries_since_checkpoint(self) -> int:
        """Entries applied since `take_checkpoint` was last called."""
        return len(self._records)

    def load(self, applied: int, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Become the machine whose checkpoints gave ``rows`` at ``applied``."""
        tables: dict[bytes, dict[bytes, bytes]] = {_ROW_PRODUCER: {}, _ROW_TOPIC: {}}
        for key, value in rows:
            if key == _ROW_META:
                self.last_seq, self.last_timestamp, self.end_bytes = codec.unpack(value)
            elif key == _ROW_RETENTION:
                self.first_index, self.first_seq, *limits = codec.unpack(value)
                self.retention = Retention(*limits)
            elif key == _ROW_MEMBERS:
                self.members = Members.decode(value)
            elif key == _ROW_PURGES:
                self._purges = tuple(codec.unpack(value))
            else:
                tables[key[:1]][key[1:]] = value
        self.applied = applied
        self.producers.load(tables[_ROW_PRODUCER])
        self.topics.load(tables[_ROW_TOPIC])


def places(command: bytes, done: EntryRecord) -> tuple[RunPlace, ...]:
    """The runs of an entry that was applied before, from its record: what `Applied.runs` was, without any state."""
    if done.count == 0:
        return ()
    seq, timestamp = done.first_seq, done.timestamp
    runs = []
    for ordinal, (kind, at, end) in enumerate(parse_entry(command).commands):
        if ordinal in done.dropped or kind != KIND_BATCH:
            continue
        for topic, count, start, stop in record.skim_batch(command, at, end)[2]:
            runs.append((topic, seq, timestamp, count, start, stop))
            seq += count
            timestamp += count
    return tuple(runs)
