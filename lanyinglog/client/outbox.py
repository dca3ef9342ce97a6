"""What users have given a publisher and the pipeline has not taken yet: messages become batches here.

Messages are kept as they come and encoded once, when the pipeline has room for a batch: the longer that takes, the
more messages share a batch. A batch ends at a bound in bytes, messages or runs; a list of messages is cut there, and
what is left of it begins the next. A `Parcel` marked *whole* is a batch of its own, whatever is before and behind it.
Order is the order of the calls, across topics too (P5): a change of topic begins a new run.

A batch costs the nodes about the same whatever its size, so what compression shrinks should fill batches as well as
what it does not: how much the last batch shrank says how much goes into the next. If that shrinks less, to more than a
batch may have, it is cut up and encoded again.

What nobody waits for any more is withdrawn, and however much waits, that costs the same: a `Pending` knows its newest
parcel here, such a parcel the one before it of the same call and the draft it is in. These links are circles: taking a
draft undoes them, or else what was sent would be kept until the garbage collector comes by.

Adding is safe from any thread (a lock is held for some microseconds), so that the blocking client can fill the outbox
without a hop to the event loop. Taking belongs to the event loop. Once the outbox is shut, adding raises: what a thread
adds is either given to who settles it, or refused.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TypeVar

from lanyinglog import record, service
from lanyinglog.client.acks import Pending, raise_again
from lanyinglog.compression import CODEC_NONE
from lanyinglog.errors import BadBatch, LanyingError
from lanyinglog.topics import check_topic

MESSAGE_BYTES = 12
"""Lengths of payload, key and headers: what a message costs in its run beside its content, at most."""
RUN_BYTES = record.RUN_HEADER_BYTES + 1
BATCH_BYTES_MAX = record.BATCH_BYTES_MAX - 4_096
"""The greatest ``batch_bytes``: sizes are estimated from above, only the header of the batch comes on top."""
COMPANY_S = 0.01
"""How long messages that do not fill a batch wait, at most, for the answer to one that is on its way. The leader would
have them wait all the same, and one batch of ten costs everybody a tenth of ten; over a line on which an answer takes
longer than this they go on without it."""
SHRINKS_AGAIN = 0.7
"""Of what the last batch shrank by, so much is expected of the next."""
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Parcel:
    """Messages of one call and topic, as columns (`record.encode_columns`). ``bytes``: encoded, at most."""

    topic: str
    payloads: list[bytes]
    lengths: list[int]
    keys: list[bytes | None] | None
    headers: list[Mapping[str, str] | None] | None
    pending: Pending | None
    bytes: int
    draft: _Draft | None = None  # where it waits, if somebody may withdraw it
    earlier: Parcel | None = None  # of the same pending


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Encoded runs, and who waits for which messages: ``waiters`` are ``(pending, first, count)``, in order."""

    runs: tuple[record.RunParts, ...]
    count: int
    bytes: int
    waiters: tuple[tuple[Pending, int, int], ...]

    def waits_only(self, pending: Pending) -> bool:
        """Whether nobody but ``pending`` waits for any of it."""
        return all(waiter[0] is pending for waiter in self.waiters) and sum(w[2] for w in self.waiters) == self.count

    def settle(self, result: service.Ack | LanyingError) -> None:
        """Tell all waiters."""
        for pending, first, count in self.waiters:
            if isinstance(result, LanyingError):
                pending.settle(count, result)
            else:
                part = service.Ack(result.first_seq + first, count, result.timestamp + first, result.duplicate)
                pending.settle(count, part)


class Outbox:
    """The queue before the pipeline. ``batch_bytes`` and ``batch_messages`` bound a batch, ``plain_bytes_max`` what
    goes into one before it is compressed; see the module."""

    def __init__(
        self, *, batch_bytes: int, batch_messages: int, plain_bytes_max: int, linger_s: float, compression: int
    ) -> None:
        self._batch_bytes = batch_bytes
        self._plain_bytes_max = min(max(plain_bytes_max, batch_bytes), record.DECODED_BYTES_MAX)
        self._draft_bytes = batch_bytes  # what goes into the next batch, before compression
        self._batch_messages = batch_messages
        self._linger_s = linger_s
        self._compression = compression
        self._lock = threading.Lock()
        # Full, or whole: to be taken in this order (a set that has one, so that any may be withdrawn), then ...
        self._closed: OrderedDict[_Draft | Batch, None] = OrderedDict()
        self._open = _Draft()
        self._whole: dict[Pending, Batch] = {}  # those of the closed that are whole, by who waits
        self._failure: Exception | None = None  # why nothing more is taken in
        self.messages = 0
        """Messages added and not taken."""
        self.added = 0
        """Messages added since ever, but for those that were withdrawn."""
        self.bytes = 0
        """What they are worth in encoded bytes, about."""

    def add(self, parcel: Parcel) -> bool:
        """Put ``parcel`` behind all others; whether `take` has something now that it had not.

        What does not fit the open batch begins a new one. Raises the failure of an outbox that is shut."""
        with self._lock:
            self._raise_failure()
            before = len(self._closed) + bool(self._open.parcels)
            if not self._open.fits(parcel, self._draft_bytes, self._batch_messages):
                self._close()
            self._open.add(parcel)
            if parcel.pending is not None:
                parcel.earlier, parcel.pending.queued = parcel.pending.queued, parcel
            self._count(len(parcel.payloads), parcel.bytes)
            if self._open.bytes >= self._draft_bytes:
                self._close()
            return before == 0 or len(self._closed) >= before

    def extend(self, topic: str, payloads: list[bytes], lengths: list[int], pending: Pending | None = None) -> bool:
        """Like an `add` of each of ``payloads``, which may be more than a batch holds, with their ``lengths``
        (`checked_payloads`); ``pending`` waits for all."""
        run_bytes = RUN_BYTES + len(topic.encode())
        with self._lock:
            room, places = self._open.room(topic, self._draft_bytes, self._batch_messages)
        room = min(room, self._batch_bytes)
        size = sum(lengths) + len(payloads) * MESSAGE_BYTES + run_bytes
        if 0 < len(payloads) <= places and size <= room:  # there is nothing to cut up
            return self.add(Parcel(topic, payloads, lengths, None, None, pending, size))
        ends = list(accumulate(lengths))

        def size_through(i: int) -> int:
            return ends[i] + (i + 1) * MESSAGE_BYTES

        at = before = 0
        news, begun = False, True
        while at < len(payloads):
            end = min(len(payloads), at + places)
            stop = bisect_right(range(end), before + room - run_bytes, at, key=size_through)
            room, places = self._batch_bytes, self._batch_messages
            if begun and stop == at:
                begun = False  # not even one fits what is left of the open batch
                continue
            stop, begun = max(stop, at + 1), False  # one message always fits a batch of its own
            through = size_through(stop - 1)
            size = through - before + run_bytes
            news |= self.add(Parcel(topic, payloads[at:stop], lengths[at:stop], None, None, pending, size))
            at, before = stop, through
        return news

    def add_whole(self, batch: Batch) -> None:
        """Put an encoded ``batch`` behind all others; it stays one batch (P3). Raises as `add` does."""
        with self._lock:
            self._raise_failure()
            self._close()
            self._closed[batch] = None
            self._whole.update((pending, batch) for pending, _, _ in batch.waiters)
            self._count(batch.count, batch.bytes)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise_again(self._failure)

    def _count(self, messages: int, size: int) -> None:
        self.messages += messages
        self.bytes += size
        self.added += messages

    def _close(self) -> None:
        if self._open.parcels:
            self._closed[self._open] = None
            self._open = _Draft()

    def ready_in(self, *, hurry: bool, company: bool = False) -> float | None:
        """Seconds until `take` gives a batch: 0 for now, None if there is nothing. ``hurry`` ends the linger; with
        ``company``, a batch on its way, one that is not full lingers for `COMPANY_S` at least."""
        with self._lock:
            if self._closed:
                return 0.0
            if not self._open.parcels:
                return None
            linger_s = max(self._linger_s, COMPANY_S) if company else self._linger_s
            return 0.0 if hurry else max(0.0, self._open.since + linger_s - time.monotonic())

    def take(self) -> Batch | None:
        """The next batch, encoded; what is open is closed for it. None if there is nothing."""
        with self._lock:
            if not self._closed:
                self._close()
            if not self._closed:
                return None
            first, _ = self._closed.popitem(last=False)
            self.messages -= first.count
            self.bytes -= first.bytes
            if isinstance(first, Batch):
                for pending, _, _ in first.waiters:
                    self._whole.pop(pending, None)
                return first
        return self._encode(first)

    def _encode(self, draft: _Draft) -> Batch:
        """``draft`` as a batch, or its beginning, if it turns out to be too much for one; what is left is put back."""
        try:
            batch = encode(list(draft.parcels), self._compression)
        except BadBatch:
            first, *rest = draft.cut(self._batch_bytes, self._batch_messages)
            if not rest:
                raise
            with self._lock:
                self._draft_bytes = self._batch_bytes
                for one in reversed(rest):
                    self._closed[one] = None
                    self._closed.move_to_end(one, last=False)
                self.messages += sum(one.count for one in rest)
                self.bytes += sum(one.bytes for one in rest)
            return encode(list(first.parcels), self._compression)
        if self._compression != CODEC_NONE:
            fitting = int(SHRINKS_AGAIN * draft.bytes / batch.bytes * self._batch_bytes)
            self._draft_bytes = min(max(fitting, self._batch_bytes), self._plain_bytes_max)
        return batch

    def drain(self) -> list[Batch]:
        """All there is, as batches that are only to be settled: they are not encoded."""
        with self._lock:
            self._close()
            drained = [one if isinstance(one, Batch) else one.unencoded() for one in self._closed]
            self._closed.clear()
            self._whole.clear()
            self.messages = self.bytes = 0
        return drained

    def shut(self, failure: Exception) -> list[Batch]:
        """`drain` it for good: from now on adding raises ``failure``."""
        with self._lock:
            self._failure = failure
        return self.drain()

    def withdraw(self, pending: Pending) -> int:
        """Drop all that ``pending`` alone waits for; how many messages that were. From the event loop's thread."""
        with self._lock:
            before = self.messages
            batch = self._whole.get(pending)
            if batch is not None and batch.waits_only(pending):
                del self._closed[batch], self._whole[pending]
                self._uncount(batch.count, batch.bytes)
            parcel, pending.queued = pending.queued, None
            while parcel is not None:
                if parcel.draft is not None:
                    self._drop(parcel, parcel.draft)
                parcel = parcel.earlier
            return before - self.messages

    def _drop(self, parcel: Parcel, draft: _Draft) -> None:
        draft.remove(parcel)
        self._uncount(len(parcel.payloads), parcel.bytes)
        if not draft.parcels and draft is not self._open:
            del self._closed[draft]

    def _uncount(self, messages: int, size: int) -> None:
        self.messages -= messages
        self.bytes -= size
        self.added -= messages


class _Draft:
    """A batch that is being filled. ``since`` is when it began (monotonic seconds)."""

    __slots__ = ("bytes", "count", "parcels", "runs", "since", "topic")

    def __init__(self) -> None:
        self.parcels: dict[Parcel, None] = {}  # a set that has an order
        self.count = 0
        self.bytes = 0
        self.runs = 0
        self.topic = ""
        self.since = 0.0

    def fits(self, parcel: Parcel, batch_bytes: int, batch_messages: int) -> bool:
        """Whether the batch stays within its bounds; the first parcel always fits."""
        if not self.parcels:
            return True
        return (
            self.bytes + parcel.bytes <= batch_bytes
            and self.count + len(parcel.payloads) <= batch_messages
            and self.runs + (parcel.topic != self.topic) <= record.RUNS_MAX
        )

    def room(self, topic: str, batch_bytes: int, batch_messages: int) -> tuple[int, int]:
        """How many bytes, that of another run included, and messages of ``topic`` fit it besides; 0 if none."""
        if self.parcels and topic != self.topic and self.runs == record.RUNS_MAX:
            return 0, 0
        return batch_bytes - self.bytes, batch_messages - self.count

    def add(self, parcel: Parcel) -> None:
        if not self.parcels:
            self.since = time.monotonic()
        if parcel.topic != self.topic:
            self.runs += 1
            self.topic = parcel.topic
        self.count += len(parcel.payloads)
        self.bytes += parcel.bytes
        self.parcels[parcel] = None
        if parcel.pending is not None:
            parcel.draft = self

    def cut(self, batch_bytes: int, batch_messages: int) -> list[_Draft]:
        """The same parcels in the same order, as drafts that fit whether they shrink or not; at least one."""
        drafts = [_Draft()]
        for parcel in self.parcels:
            if not drafts[-1].fits(parcel, batch_bytes, batch_messages):
                drafts.append(_Draft())
            drafts[-1].add(parcel)
        return drafts

    def unencoded(self) -> Batch:
        """What tells all waiters, and can't be sent."""
        return Batch((), self.count, self.bytes, _waiters(self.parcels))

    def remove(self, parcel: Parcel) -> None:
        del self.parcels[parcel]
        parcel.draft = None
        self.count -= len(parcel.payloads)
        self.bytes -= parcel.bytes


def parcel_of(
    topic: str, payload: bytes, key: bytes | None, headers: Mapping[str, str] | None, pending: Pending | None
) -> Parcel:
    """One message as a parcel. `BadTopic`, `BadBatch`, `TypeError`: checked now, so that encoding can't fail later."""
    check_topic(topic)
    payload = _checked_bytes("payload", payload)
    size = len(payload) + MESSAGE_BYTES + RUN_BYTES + len(topic.encode())
    if key is not None:
        key = _checked_bytes("key", key)
        size += len(key)
    if headers:
        headers = dict(headers)
        size += len(record.pack_headers(headers))
    keys: list[bytes | None] | None = [key] if key is not None else None
    parcel = Parcel(topic, [payload], [len(payload)], keys, [headers] if headers else None, pending, size)
    content = size - MESSAGE_BYTES - RUN_BYTES
    if content > record.MESSAGE_BYTES_MAX:
        raise too_large(content)
    return parcel


def too_large(size: int, which: str = "the message") -> BadBatch:
    """What to raise for a message of ``size`` bytes in all; ``which`` says which of several."""
    return BadBatch(
        f"{which} has {size} bytes, with its topic, key and headers; at most {record.MESSAGE_BYTES_MAX} are allowed"
    )


def checked_payloads(topic: str, payloads: Sequence[bytes]) -> tuple[list[bytes], list[int]]:
    """``payloads`` as a list of bytes, and their lengths; `TypeError` if one is something else, `BadBatch` if one is
    too large."""
    payloads = list(payloads)
    try:
        lengths = list(map(bytes.__len__, payloads))  # one look at each tells that it is bytes, and its length
    except TypeError:
        payloads = [_checked_bytes("payload", payload) for payload in payloads]
        lengths = list(map(len, payloads))
    topic_bytes = len(topic.encode())
    room = record.MESSAGE_BYTES_MAX - topic_bytes
    if sum(lengths) > room and max(lengths) > room:  # most lists are less in all, which is quicker told
        place = next(place for place, length in enumerate(lengths) if length > room)
        raise too_large(lengths[place] + topic_bytes, f"message {place + 1} of {len(lengths)}")
    return payloads, lengths


def _checked_bytes(name: str, value: bytes) -> bytes:
    if type(value) is bytes:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)  # a copy: the caller may change its buffer
    raise TypeError(f"{name} must be bytes, not {type(value).__name__}")


def encode(parcels: Sequence[Parcel], compression: int) -> Batch:
    """``parcels`` as a batch: neighbours of one topic become one run. `BadBatch` if over a limit."""
    runs = []
    count = sum(len(parcel.payloads) for parcel in parcels)
    at = 0
    while at < len(parcels):
        stop = at + 1
        while stop < len(parcels) and parcels[stop].topic == parcels[at].topic:
            stop += 1
        runs.append(_encode_run(parcels[at:stop], compression))
        at = stop
    size = record.BATCH_HEADER_BYTES + sum(len(head) + len(body) for head, body in runs)
    if size > record.BATCH_BYTES_MAX or count > record.MESSAGES_MAX or len(runs) > record.RUNS_MAX:
        raise BadBatch(
            f"a batch of {size} bytes, {count} messages, {len(runs)} runs;"
            f" at most {record.BATCH_BYTES_MAX}, {record.MESSAGES_MAX}, {record.RUNS_MAX} are allowed"
        )
    plain_bytes = sum(record.decoded_bytes_of(head) for head, _ in runs)
    if plain_bytes > record.DECODED_BYTES_MAX:
        raise BadBatch(f"a batch of {plain_bytes} decoded bytes; at most {record.DECODED_BYTES_MAX} are allowed")
    return Batch(tuple(runs), count, size, _waiters(parcels))


def _waiters(parcels: Iterable[Parcel]) -> tuple[tuple[Pending, int, int], ...]:
    """Who waits for which messages of a batch of ``parcels``: see `Batch`. They have left the outbox."""
    waiters = []
    count = 0
    for parcel in parcels:
        if (pending := parcel.pending) is not None:
            waiters.append((pending, count, len(parcel.payloads)))
            if pending.queued is parcel:
                pending.queued = None
            parcel.draft = parcel.earlier = None  # what is earlier left before
        count += len(parcel.payloads)
    return tuple(waiters)


def _encode_run(parcels: Sequence[Parcel], compression: int) -> record.RunParts:
    topic = parcels[0].topic
    if len(parcels) == 1:
        parcel = parcels[0]
        payloads, lengths, keys, headers = parcel.payloads, parcel.lengths, parcel.keys, parcel.headers
    else:
        payloads = list(chain.from_iterable([parcel.payloads for parcel in parcels]))
        lengths = list(chain.from_iterable([parcel.lengths for parcel in parcels]))
        keys = _column([(parcel.keys, len(parcel.payloads)) for parcel in parcels])
        headers = _column([(parcel.headers, len(parcel.payloads)) for parcel in parcels])
    run = record.encode_in_parts(topic, payloads, keys, headers, lengths=lengths, compression=compression)
    if compression == CODEC_NONE or sum(map(len, run)) <= sum(lengths):
        return run
    # What does not shrink is sent as it is: the limit of a batch was checked against the plain size.
    return record.encode_in_parts(topic, payloads, keys, headers, lengths=lengths)


def _column(parts: Sequence[tuple[list[T | None] | None, int]]) -> list[T | None] | None:
    """Columns of several parcels as one; None if none has any. A part is ``(column or None, its length)``."""
    if all(column is None for column, _ in parts):
        return None
    return [value for column, count in parts for value in (column if column is not None else [None] * count)]
