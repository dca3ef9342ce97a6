"""What a node says to a client. `lanyinglog.wire.messages` has the rules that all messages keep."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import google_crc32c

from lanyinglog import codec, errors
from lanyinglog.errors import LanyingError, Outcome
from lanyinglog.record import BATCH_BYTES_MAX, MESSAGES_MAX, RUN_HEADER_BYTES
from lanyinglog.service import Ack, Item, TopicStat
from lanyinglog.wire.fields import SEQ_MAX, TEXT_BYTES_MAX, U32_MAX, Fields
from lanyinglog.wire.frames import HEAD_BYTES, HEADER_BYTES_MAX, encode_frame_head, encode_packed_head
from lanyinglog.wire.message import Message, Scope

FRAME_BYTES_MAX = BATCH_BYTES_MAX + HEADER_BYTES_MAX + HEAD_BYTES
"""The largest frame on a client's connection: a publish or a push of one batch of the largest size."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a node accepts on this connection: bytes, messages a batch, unacknowledged batches a producer, counts."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    batch_bytes_max: int = BATCH_BYTES_MAX
    messages_max: int = MESSAGES_MAX
    producer_window: int = 16
    subscriptions_max: int = 64


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """The answer to `Hello`: the version both speak from here on, who the node is, and its limits.

    ``leader_client`` is the client address of the leader of the first log, if the node knows it.
    """

    KIND, NAME, SCOPE = 65, "welcome", Scope.CONNECTION
    version: int
    node: str
    cluster: str
    leader_client: str | None
    limits: Limits

    def header(self) -> dict[str, Any]:
        limits = self.limits
        return {
            "version": self.version,
            "node": self.node,
            "cluster": self.cluster,
            "leader_client": self.leader_client,
            "frame_bytes_max": limits.frame_bytes_max,
            "batch_bytes_max": limits.batch_bytes_max,
            "messages_max": limits.messages_max,
            "producer_window": limits.producer_window,
            "subscriptions_max": limits.subscriptions_max,
        }

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        names = ("frame_bytes_max", "batch_bytes_max", "messages_max", "producer_window", "subscriptions_max")
        return cls(
            fields.integer("version", 1, 0xFFFF),
            fields.text("node"),
            fields.text("cluster"),
            fields.text_or_none("leader_client"),
            Limits(*(fields.integer(name, 1, U32_MAX) for name in names)),
        )


@dataclass(frozen=True, slots=True)
class Acked(Message):
    """The batch of this request id is committed (P1); see `lanyinglog.service.Ack` for the fields.

    All numbers are 0 for a duplicate that is so old that the log no longer remembers which they were.
    """

    KIND, NAME = 66, "acked"
    first_seq: int
    count: int
    timestamp: int
    duplicate: bool = False

    @classmethod
    def of(cls, ack: Ack) -> Self:
        return cls(ack.first_seq, ack.count, ack.timestamp, ack.duplicate)

    def header(self) -> dict[str, Any]:
        return {
            "first_seq": self.first_seq,
            "count": self.count,
            "timestamp": self.timestamp,
            "duplicate": self.duplicate,
        }

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(
            fields.integer("first_seq"),
            fields.integer("count", 0, MESSAGES_MAX),
            fields.integer("timestamp"),
            fields.flag("duplicate"),
        )


_ACKED = struct.Struct(">12sQ7sI11sQ10sB")
_TRUE, _FALSE = 0xC3, 0xC2


def encode_acked(request: int, ack: Ack) -> bytes:
    """The frame of an `Acked`, which a node says more often than anything else; its integers are of full width."""
    packed = _ACKED.pack(
        b"\x84\xa9first_seq\xcf",
        ack.first_seq,
        b"\xa5count\xce",
        ack.count,
        b"\xa9timestamp\xcf",
        ack.timestamp,
        b"\xa9duplicate",
        _TRUE if ack.duplicate else _FALSE,
    )
    return encode_packed_head(Acked.KIND, request, packed, 0)


@dataclass(frozen=True, slots=True)
class Subscribed(Message):
    """The subscription begins with the message ``next_seq``; ``last_seq`` is the newest committed one right now.

    ``next_seq`` is above the seq that was asked for if retention has dropped that one.
    """

    KIND, NAME = 67, "subscribed"
    next_seq: int
    last_seq: int

    def header(self) -> dict[str, Any]:
        return {"next_seq": self.next_seq, "last_seq": self.last_seq}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(fields.integer("next_seq", 1), fields.integer("last_seq"))


_ITEM = struct.Struct("<QQI")
ITEM_HEAD_BYTES = _ITEM.size
_COUNT = struct.Struct("<I")
_COUNT_AT = 12  # of the number of messages in a run's header (`lanyinglog.record`)


@dataclass(frozen=True, slots=True)
class Push(Message):
    """The next stretch of a subscription: every matching message with ``prev < seq <= through`` is in ``items``.

    ``prev`` is the ``through`` of the push before it; the first one's is ``next_seq - 1`` of `Subscribed`. Runs come
    whole: the first may begin at or below ``prev`` if the subscription began in its middle. ``items`` may be empty:
    nothing matched. ``purged`` is how many that match are left out because they were purged, in this push and, as far
    as it is known, in those that follow. The frame's body is the items, each ``<QQI`` first_seq, timestamp (ns), length
    of the run, then the run; the header's ``crc`` covers these 20-byte heads, the runs have their own.
    """

    KIND, NAME, HAS_BODY = 68, "push", True
    prev: int
    through: int
    messages: int
    items: tuple[Item, ...]
    body_bytes: int
    """What the frame costs of the credit in bytes."""
    purged: int = 0

    def header(self) -> dict[str, Any]:
        heads = [_ITEM.pack(item.first_seq, item.timestamp, len(item.run)) for item in self.items]
        return _push_header(self.prev, self.through, self.messages, heads, self.purged)

    def body(self) -> Sequence[bytes | memoryview]:
        parts: list[bytes | memoryview] = []
        for item in self.items:
            parts += (_ITEM.pack(item.first_seq, item.timestamp, len(item.run)), item.run)
        return parts

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        prev, through = fields.integer("prev"), fields.integer("through")
        if through < prev:
            raise fields.fail(f"it goes back from {prev} to {through}")
        items = _read_items(fields, body, prev, through)
        messages = sum(item.count for item in items)
        if fields.integer("messages") != messages:
            raise fields.fail(f"it counts {fields.integer('messages')} messages, its runs {messages}")
        return cls(prev, through, messages, items, len(body), fields.integer_or_zero("purged"))


def _push_header(prev: int, through: int, messages: int, heads: Sequence[bytes], purged: int) -> dict[str, Any]:
    header = {"prev": prev, "through": through, "messages": messages, "crc": google_crc32c.value(b"".join(heads))}
    return header | {"purged": purged} if purged else header


def _read_items(fields: Fields, body: bytes, prev: int, through: int) -> tuple[Item, ...]:
    items: list[Item] = []
    heads: list[bytes] = []
    view = memoryview(body)
    at = 0
    last = prev  # the newest seq seen so far; the first run may begin below, but must end above it
    while at < len(body):
        run_at = at + ITEM_HEAD_BYTES
        if run_at + RUN_HEADER_BYTES > len(body):
            raise fields.fail("an item is cut off")
        first_seq, timestamp, run_bytes = _ITEM.unpack_from(body, at)
        heads.append(body[at:run_at])
        at = run_at + run_bytes
        if run_bytes < RUN_HEADER_BYTES or at > len(body):
            raise fields.fail(f"a run of {run_bytes} bytes does not fit")
        (count,) = _COUNT.unpack_from(body, run_at + _COUNT_AT)
        if not 1 <= count <= MESSAGES_MAX:
            raise fields.fail(f"a run of {count} messages")
        begins_in_order = first_seq > last or (not items and first_seq >= 1)
        if not begins_in_order or not last < first_seq + count - 1 <= through or timestamp > SEQ_MAX:
            raise fields.fail(f"a run of {count} from seq {first_seq} at {timestamp} between {last} and {through}")
        items.append(Item(first_seq, timestamp, count, view[run_at:at]))
        last = first_seq + count - 1
    if google_crc32c.value(b"".join(heads)) != fields.integer("crc", 0, U32_MAX):
        raise fields.fail("the heads of its items fail their CRC32C")
    return tuple(items)


def encode_push(
    request: int, *, prev: int, through: int, items: Sequence[Item], purged: int = 0
) -> tuple[bytes, int, int]:
    """A `Push` as ``(frame, messages, body bytes)``: what a node does for each page of each subscription."""
    heads = [_ITEM.pack(item.first_seq, item.timestamp, len(item.run)) for item in items]
    messages = sum([item.count for item in items])
    body_bytes = ITEM_HEAD_BYTES * len(items) + sum([len(item.run) for item in items])
    parts: list[bytes | memoryview] = [
        encode_frame_head(Push.KIND, request, _push_header(prev, through, messages, heads, purged), body_bytes)
    ]
    for head, item in zip(heads, items, strict=True):
        parts += (head, item.run)
    return b"".join(parts), messages, body_bytes


@dataclass(frozen=True, slots=True)
class Unsubscribed(Message):
    """No more pushes for this request id; it may be used again. Also sent if there was no such subscription."""

    KIND, NAME = 69, "unsubscribed"


@dataclass(frozen=True, slots=True)
class StatusReply(Message):
    """The node's view of the log: the object of `lanyinglog.service.LogService.status`; the body is its msgpack."""

    KIND, NAME, HAS_BODY = 70, "status_reply", True
    status: Mapping[str, Any]

    def body(self) -> Sequence[bytes | memoryview]:
        return (codec.pack(dict(self.status)),)

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(codec.unpack_map(body))


@dataclass(frozen=True, slots=True)
class TopicsReply(Message):
    """A page of topics by name; if ``more``, ask again with ``after`` the last name.

    The body is a msgpack list of ``[topic, messages, bytes, last_seq, last_timestamp]``.
    """

    KIND, NAME, HAS_BODY = 71, "topics_reply", True
    topics: tuple[TopicStat, ...]
    more: bool = False

    def header(self) -> dict[str, Any]:
        return {"more": self.more}

    def body(self) -> Sequence[bytes | memoryview]:
        return (codec.pack([[t.topic, t.messages, t.bytes, t.last_seq, t.last_timestamp] for t in self.topics]),)

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        rows = codec.unpack(body)
        if type(rows) is not list or not all(_is_topic_row(row) for row in rows):
            raise fields.fail("its body is no list of [topic, messages, bytes, last_seq, last_timestamp]")
        return cls(tuple(TopicStat(*row) for row in rows), fields.flag("more"))


def _is_topic_row(row: object) -> bool:
    return (
        type(row) is list
        and len(row) == 5
        and type(row[0]) is str
        and all(type(value) is int and 0 <= value <= SEQ_MAX for value in row[1:])
    )


@dataclass(frozen=True, slots=True)
class NewestReply(Message):
    """The answer to `Newest`: all that was committed when that was asked has a seq of at most ``last_seq``."""

    KIND, NAME = 82, "newest_reply"
    last_seq: int

    def header(self) -> dict[str, Any]:
        return {"last_seq": self.last_seq}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(fields.integer("last_seq"))


@dataclass(frozen=True, slots=True)
class LogInfoReply(Message):
    """What the log keeps and has: the object of `lanyinglog.service.LogService.log_info`; the body is its msgpack."""

    KIND, NAME, HAS_BODY = 80, "log_info_reply", True
    info: Mapping[str, Any]

    def body(self) -> Sequence[bytes | memoryview]:
        return (codec.pack(dict(self.info)),)

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(codec.unpack_map(body))


@dataclass(frozen=True, slots=True)
class MembersReply(Message):
    """Who belongs to the log now: the object of `lanyinglog.service.LogService.members`; the body is its msgpack."""

    KIND, NAME, HAS_BODY = 81, "members_reply", True
    members: Mapping[str, Any]

    def body(self) -> Sequence[bytes | memoryview]:
        return (codec.pack(dict(self.members)),)

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(codec.unpack_map(body))


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """The answer to `Ping`."""

    KIND, NAME = 72, "pong"


@dataclass(frozen=True, slots=True)
class Transferred(Message):
    """The answer to `Transfer`: ``leader`` leads now."""

    KIND, NAME = 74, "transferred"
    leader: str

    def header(self) -> dict[str, Any]:
        return {"leader": self.leader}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(fields.text("leader"))


@dataclass(frozen=True, slots=True)
class Error(Message):
    """A request failed; with request id 0 the connection did, and is closed behind it (`lanyinglog.errors`)."""

    KIND, NAME, SCOPE = 73, "error", Scope.EITHER
    code: str
    outcome: Outcome
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: LanyingError) -> Self:
        return cls(error.code, error.outcome, _clipped(error.message), error.hint)

    def exception(self) -> LanyingError:
        """The error to raise at the client; its outcome is what the node said."""
        return errors.from_wire(self.code, self.message, hint=self.hint, outcome=self.outcome)

    def header(self) -> dict[str, Any]:
        return {"code": self.code, "outcome": self.outcome.value, "message": self.message, "hint": self.hint}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        outcome = fields.text("outcome")
        if outcome not in list(Outcome):
            raise fields.fail(f"outcome {outcome!r} is neither definite nor unknown")
        message = fields.text("message", bytes_max=TEXT_BYTES_MAX)
        return cls(fields.text("code"), Outcome(outcome), message, fields.text_or_none("hint"))


def _clipped(text: str) -> str:
    return text.encode(errors="replace")[:TEXT_BYTES_MAX].decode(errors="ignore")
