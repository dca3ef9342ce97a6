"""What a client says to a node. `lanyinglog.wire.messages` has the rules that all messages keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from lanyinglog.wire.fields import Fields
from lanyinglog.wire.message import Message, Scope

PROTOCOL_VERSION = 1
FILTERS_MAX = 64
"""Filters a subscription may have."""
CREDIT_MAX = 1 << 40
"""The largest credit that one frame may give, in messages or bytes."""
LIMITS_MAX = 64
"""Limits that one frame may change; a log has fewer."""
DEFAULT_LOG = "main"


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """The first frame of a connection: which versions the client speaks, and what it calls itself."""

    KIND, NAME, SCOPE = 1, "hello", Scope.CONNECTION
    version_min: int = PROTOCOL_VERSION
    version_max: int = PROTOCOL_VERSION
    client: str = ""

    def header(self) -> dict[str, Any]:
        return {"versions": [self.version_min, self.version_max], "client": self.client}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        low, high = fields.integers("versions", count=2, low=1, high=0xFFFF)
        if low > high:
            raise fields.fail(f"versions {low} to {high} are no range")
        return cls(low, high, fields.text("client"))


@dataclass(frozen=True, slots=True)
class Publish(Message):
    """One batch (see `lanyinglog.record`) for a log; answered with `Acked` or `Error`."""

    KIND, NAME, HAS_BODY = 2, "publish", True
    batch: bytes
    log: str = DEFAULT_LOG

    def header(self) -> dict[str, Any]:
        return {"log": self.log}

    def body(self) -> Sequence[bytes | memoryview]:
        return (self.batch,)

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(body, fields.text("log"))


class Origin(StrEnum):
    """Where a subscription starts: at a seq, the oldest message, the next new one, or a time."""

    SEQ = "seq"
    FIRST = "first"
    NEW = "new"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Start:
    """``value`` is the seq (from 1) or the time (ns since the epoch); unused for the other two."""

    origin: Origin
    value: int = 0


@dataclass(frozen=True, slots=True)
class Subscribe(Message):
    """Opens a subscription, whose id is this frame's request id; answered with `Subscribed`, then `Push` frames."""

    KIND, NAME = 3, "subscribe"
    filters: tuple[str, ...]
    start: Start
    credit_messages: int
    credit_bytes: int
    log: str = DEFAULT_LOG

    def header(self) -> dict[str, Any]:
        origin, value = self.start.origin, self.start.value
        return {
            "log": self.log,
            "filters": self.filters,
            "start": {origin.value: value if origin in (Origin.SEQ, Origin.TIME) else True},
            "credit_messages": self.credit_messages,
            "credit_bytes": self.credit_bytes,
        }

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(
            fields.texts("filters", count_max=FILTERS_MAX),
            _read_start(fields),
            fields.integer("credit_messages", 0, CREDIT_MAX),
            fields.integer("credit_bytes", 0, CREDIT_MAX),
            fields.text("log"),
        )


def _read_start(fields: Fields) -> Start:
    start = Fields("subscribe.start", inner := fields.map("start"))
    match list(inner):
        case ["seq"]:
            return Start(Origin.SEQ, start.integer("seq", 1))
        case ["time"]:
            return Start(Origin.TIME, start.integer("time"))
        case [("first" | "new") as name] if start.flag(name):
            return Start(Origin(name))
    raise fields.fail("start has exactly one of seq (from 1), time (ns), first (true) and new (true)")


@dataclass(frozen=True, slots=True)
class Credit(Message):
    """Gives the subscription of this request id leave for so many more messages and bytes; has no answer."""

    KIND, NAME = 4, "credit"
    credit_messages: int
    credit_bytes: int

    def header(self) -> dict[str, Any]:
        return {"credit_messages": self.credit_messages, "credit_bytes": self.credit_bytes}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(fields.integer("credit_messages", 0, CREDIT_MAX), fields.integer("credit_bytes", 0, CREDIT_MAX))


@dataclass(frozen=True, slots=True)
class Unsubscribe(Message):
    """Ends the subscription of this request id; always answered with `Unsubscribed`, behind its last push."""

    KIND, NAME = 5, "unsubscribe"


@dataclass(frozen=True, slots=True)
class Status(Message):
    """Asks for the node's view of a log; answered with `StatusReply`."""

    KIND, NAME = 6, "status"
    log: str = DEFAULT_LOG

    def header(self) -> dict[str, Any]:
        return {"log": self.log}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(fields.text("log"))


@dataclass(frozen=True, slots=True)
class Topics(Message):
    """Asks for the topics behind ``after`` in the order of their names; answered with one page, a `TopicsReply`."""

    KIND, NAME = 7, "topics"
    log: str = DEFAULT_LOG
    after: str = ""

    def header(self) -> dict[str, Any]:
        return {"log": self.log, "after": self.after}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(fields.text("log"), fields.text("after"))


@dataclass(frozen=True, slots=True)
class Transfer(Message):
    """Asks the leader of a log to hand over to ``node``, or to whom it thinks best; answered with `Transferred`."""

    KIND, NAME = 9, "transfer"
    log: str = DEFAULT_LOG
    node: str | None = None

    def header(self) -> dict[str, Any]:
        return {"log": self.log, "node": self.node}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(fields.text("log"), fields.text_or_none("node"))


@dataclass(frozen=True, slots=True)
class Newest(Message):
    """Asks the leader of a log for its newest message; answered with `NewestReply` once it knows that it leads."""

    KIND, NAME = 21, "newest"
    log: str = DEFAULT_LOG

    def header(self) -> dict[str, Any]:
        return {"log": self.log}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(fields.text("log"))


@dataclass(frozen=True, slots=True)
class LogInfo(Message):
    """Asks what a log keeps and has; answered with `LogInfoReply`."""

    KIND, NAME = 16, "log_info"
    log: str = DEFAULT_LOG

    def header(self) -> dict[str, Any]:
        return {"log": self.log}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(fields.text("log"))


@dataclass(frozen=True, slots=True)
class LogSet(Message):
    """Asks the leader of a log to change its limits: ``changes`` maps ``age_s``, ``bytes``, ``messages`` to a number,
    or to nil for no limit; what it leaves out stays. Answered with `LogInfoReply` once that is committed."""

    KIND, NAME = 17, "log_set"
    changes: Mapping[str, int | None]
    log: str = DEFAULT_LOG

    def header(self) -> dict[str, Any]:
        return {"log": self.log, "changes": dict(self.changes)}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        changes = fields.map("changes")
        numbers = Fields("log_set.changes", changes)
        if len(changes) > LIMITS_MAX:
            raise fields.fail(f"changes has {len(changes)} keys, more than {LIMITS_MAX}")
        read = {name: None if value is None else numbers.integer(name) for name, value in changes.items()}
        return cls(read, fields.text("log"))


@dataclass(frozen=True, slots=True)
class TopicPurge(Message):
    """Asks the leader of a log to purge what topics that match ``filter`` have so far; ``number`` (random, 1 or more)
    lets the request be repeated. Answered with `LogInfoReply` once that is committed."""

    KIND, NAME = 20, "topic_purge"
    filter: str
    number: int
    log: str = DEFAULT_LOG

    def header(self) -> dict[str, Any]:
        return {"log": self.log, "filter": self.filter, "number": self.number}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(fields.text("filter"), fields.integer("number", low=1), fields.text("log"))


@dataclass(frozen=True, slots=True)
class MemberAdd(Message):
    """Asks the leader of a log to have ``node``, at the peer address ``peer``, join; answered with `MembersReply`
    once that is committed. It votes as soon as it has caught up."""

    KIND, NAME = 18, "member_add"
    node: str
    peer: str
    log: str = DEFAULT_LOG

    def header(self) -> dict[str, Any]:
        return {"log": self.log, "node": self.node, "peer": self.peer}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(fields.text("node"), fields.text("peer"), fields.text("log"))


@dataclass(frozen=True, slots=True)
class MemberRemove(Message):
    """Asks the leader of a log to have ``node`` leave for good; answered with `MembersReply` once that is committed."""

    KIND, NAME = 19, "member_remove"
    node: str
    log: str = DEFAULT_LOG

    def header(self) -> dict[str, Any]:
        return {"log": self.log, "node": self.node}

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        return cls(fields.text("node"), fields.text("log"))


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Answered with `Pong`, behind all that was sent before."""

    KIND, NAME = 8, "ping"
