"""Who sent what: the table that makes a retried batch harmless (P4) and keeps a producer's batches in order (P5).

A producer numbers its batches 1, 2, 3 ... For each producer the table remembers the last number and what the last
`WINDOW` batches were given, so that a retry within the window is answered with the original numbers. A batch is

- **new** when its number follows the last one (or is 1 for a producer that is not known),
- a **duplicate** when its number is not above the last one,
- **out of order** when it skips a number, or **unknown** when the producer is not known and the number is not 1.

A producer is forgotten when it was idle for `IDLE_NS_MAX` or when there are more than `PRODUCERS_MAX`, the one idle
longest first. "Idle" is measured in entry timestamps, never by a clock: every node forgets the same at the same entry.
A step from one batch to the next counts for `STEP_NS_MAX` at most: timestamps are as good as the leader's clock, and
one that is weeks ahead for a moment must not make the log forget whom it has to know (P4).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass

from lanyinglog import codec
from lanyinglog.errors import BatchOutOfOrder, LanyingError, ProducerUnknown
from lanyinglog.service import Ack

WINDOW = 16
"""Batches a producer may have unacknowledged; as many acknowledgements are remembered."""
PRODUCERS_MAX = 1_000_000
IDLE_NS_MAX = 7 * 24 * 3600 * 1_000_000_000
STEP_NS_MAX = 3600 * 1_000_000_000
"""What a step from one batch to the next adds to the time of the table, at most."""
FORGET_PER_BATCH_MAX = 16
"""Idle producers forgotten at one batch, so that apply stays short however many idle out at once."""
_ACK = struct.Struct("<QQQ")  # first seq, messages, timestamp
_OLDER_BYTES = (WINDOW - 1) * _ACK.size
_TIME = b""
"""The key of the table's own time among the rows; no producer has it."""


@dataclass(slots=True)
class Producer:
    """``acks`` are those of the newest batches, the last of them ``number``, as `_ACK`s: a fifth of the memory of
    tuples. ``used_ns`` is when the last one came, by the table's own time (`Producers`)."""

    number: int
    acks: bytes
    used_ns: int

    @property
    def last_timestamp(self) -> int:
        return int(_ACK.unpack_from(self.acks, len(self.acks) - _ACK.size)[2])


class Producers:
    """The table, least recently used first, and the keys changed since `take_changes`.

    It has a time of its own, that of the entries without their large steps."""

    def __init__(
        self,
        *,
        producers_max: int = PRODUCERS_MAX,
        idle_ns_max: int = IDLE_NS_MAX,
        step_ns_max: int = STEP_NS_MAX,
    ) -> None:
        self._time_ns = 0
        self._newest_timestamp = 0
        self._step_ns_max = step_ns_max
        self._table: OrderedDict[bytes, Producer] = OrderedDict()
        self._changed: set[bytes] = set()
        self._producers_max = producers_max
        self._idle_ns_max = idle_ns_max
        self._nobody_idle_ns = 0  # up to this time nobody has been idle for too long

    def __len__(self) -> int:
        return len(self._table)

    def verdict(self, producer: bytes, number: int) -> Ack | LanyingError | None:
        """None if the batch is new, else its answer: the original `Ack`, or why it can't be stored."""
        known = self._table.get(producer)
        if known is None:
            if number == 1:
                return None
            return ProducerUnknown(f"producer {producer.hex()} is not known here, and batch {number} is not its first")
        if number == known.number + 1:
            return None
        if number > known.number:
            return BatchOutOfOrder(f"batch {number} of producer {producer.hex()} came, {known.number + 1} comes next")
        place = number - known.number - 1  # counted from the end
        at = len(known.acks) + place * _ACK.size
        if at < 0:
            return Ack(0, 0, 0, duplicate=True)  # stored long ago, its numbers no longer remembered
        first_seq, count, timestamp = _ACK.unpack_from(known.acks, at)
        return Ack(first_seq, count, timestamp, duplicate=True)

    def accept(self, producer: bytes, number: int, ack: Ack) -> None:
        """Remember a new batch; then forget who is over a bound."""
        table = self._table
        known = table.get(producer)
        step = ack.timestamp - self._newest_timestamp
        self._time_ns = used_ns = self._time_ns + (step if step < self._step_ns_max else self._step_ns_max)
        self._newest_timestamp = ack.timestamp
        if known is None:
            known = table[producer] = Producer(number, b"", used_ns)
        else:
            known.number = number
            known.used_ns = used_ns
            table.move_to_end(producer)
        known.acks = known.acks[-_OLDER_BYTES:] + _ACK.pack(ack.first_seq, ack.count, ack.timestamp)
        self._changed.add(producer)
        if used_ns > self._nobody_idle_ns or len(table) > self._producers_max:
            self._forget()

    def _forget(self) -> None:
        table = self._table
        for _ in range(FORGET_PER_BATCH_MAX):
            key = next(iter(table), None)  # who was used least lately
            if key is None:
                return
            idle_from_ns = table[key].used_ns + self._idle_ns_max
            if self._time_ns <= idle_from_ns and len(table) <= self._producers_max:
                self._nobody_idle_ns = idle_from_ns  # whoever is used from now on is idle later
                return
            del table[key]
            self._changed.add(key)

    # ------------------------------------------------------------------------------------------- checkpoint
    def take_changes(self) -> dict[bytes, bytes | None]:
        """Producer id -> its row, or None if forgotten, for all changed since the last call; `_TIME` -> the time."""
        changes: dict[bytes, bytes | None] = {}
        if self._changed:
            changes[_TIME] = codec.pack([self._time_ns, self._newest_timestamp])
        for key in sorted(self._changed):
            known = self._table.get(key)
            changes[key] = None if known is None else _row(known)
        self._changed.clear()
        return changes

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Take the table over from its rows. Timestamps are unique, so sorting by them restores the order of use."""
        loaded = []
        for key, value in rows.items():
            if key == _TIME:
                self._time_ns, self._newest_timestamp = codec.unpack(value)
                continue
            number, acks, used_ns = codec.unpack(value)
            loaded.append((key, Producer(number, b"".join(_ACK.pack(*ack) for ack in acks), used_ns)))
        loaded.sort(key=lambda pair: pair[1].last_timestamp)
        self._table = OrderedDict(loaded)
        self._nobody_idle_ns = 0


def _row(known: Producer) -> bytes:
    return codec.pack([known.number, list(_ACK.iter_unpack(known.acks)), known.used_ns])
