"""What nodes say to each other: a closed set of values, and their bytes.

Each carries the sender's term. `Append` and its answer `Appended` carry a number besides, so that the leader can tell
an answer to what it sent last from one that was overtaken (audit 4, 7). Entries travel as raw bytes in a frame's body,
each with the CRC32C it got when the leader made it; the receiver checks it before anything looks inside.

Body of an append frame, little-endian, for each entry: u64 index, u64 term, u32 CRC32C, u32 length, command bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from lanyinglog.errors import ProtocolError
from lanyinglog.store.log_store import ENTRY_BYTES_MAX, Entry, entry_crc

PEER_FRAME_BYTES_MAX = 12 << 20
"""An append of `engine.APPEND_BYTES_MAX` may be crossed by one more entry (5 MiB + 4 MiB), with headers."""
_ENTRY = struct.Struct("<QQII")
_U63_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Append:
    """Leader to follower: entries behind ``(prev_index, prev_term)``, perhaps none, and how far all is committed."""

    kind: ClassVar[int] = 130
    term: int
    number: int
    prev_index: int
    prev_term: int
    commit: int
    entries: tuple[Entry, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of commands, which is nearly all of it."""
        return sum(len(entry.command) for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Appended:
    """Answer to an `Append`. Success: all up to ``match`` agrees and is on disk. Else: send from ``next`` on."""

    kind: ClassVar[int] = 131
    term: int
    number: int
    success: bool
    match: int
    next: int


@dataclass(frozen=True, slots=True)
class Committed:
    """Leader to follower, unanswered: the commit index moved. Saves an empty append and its answer for each commit."""

    kind: ClassVar[int] = 132
    term: int
    commit: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Leader to a follower whose window is full: I am still here."""

    kind: ClassVar[int] = 133
    term: int
    commit: int


@dataclass(frozen=True, slots=True)
class Alive:
    """Answer to a `Heartbeat`, and to any message of an older term, whose sender then steps down (audit 16)."""

    kind: ClassVar[int] = 134
    term: int


@dataclass(frozen=True, slots=True)
class VoteRequest:
    kind: ClassVar[int] = 135
    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class Vote:
    """Granted; a refusal is silent."""

    kind: ClassVar[int] = 136
    term: int


@dataclass(frozen=True, slots=True)
class PreVoteRequest:
    """Would you vote for me in ``next_term``? Changes nothing at either side (Raft dissertation, 9.6)."""

    kind: ClassVar[int] = 137
    term: int
    next_term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class PreVote:
    kind: ClassVar[int] = 138
    term: int
    next_term: int
    granted: bool


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """Leader to the follower that is to take over: start an election at once (Raft dissertation, 3.10)."""

    kind: ClassVar[int] = 139
    term: int


PeerMessage = (
    Append | Appended | Committed | Heartbeat | Alive | VoteRequest | Vote | PreVoteRequest | PreVote | TimeoutNow
)
_CLASSES: tuple[type[Any], ...] = (
    Append,
    Appended,
    Committed,
    Heartbeat,
    Alive,
    VoteRequest,
    Vote,
    PreVoteRequest,
    PreVote,
    TimeoutNow,
)
_BY_KIND: dict[int, type[Any]] = {cls.kind: cls for cls in _CLASSES}
_TYPES: dict[int, dict[str, type]] = {
    cls.kind: {field.name: bool if field.type == "bool" else int for field in fields(cls) if field.name != "entries"}
    for cls in _CLASSES
}


def to_parts(message: PeerMessage) -> tuple[int, dict[str, Any], Sequence[bytes]]:
    """``message`` as a frame's kind, header and body parts."""
    if not isinstance(message, Append):
        return message.kind, asdict(message), ()
    header = {name: getattr(message, name) for name in _TYPES[Append.kind]}
    body: list[bytes] = []
    for entry in message.entries:
        body += (_ENTRY.pack(entry.index, entry.term, entry.crc, len(entry.command)), entry.command)
    return message.kind, header, body


def from_parts(kind: int, header: Mapping[str, Any], body: bytes) -> PeerMessage:
    """The message in a frame. `ProtocolError` for an unknown kind, a wrong field, or an entry that fails its CRC32C."""
    cls = _BY_KIND.get(kind)
    if cls is None:
        raise ProtocolError(f"a peer frame of unknown kind {kind}")
    values = {name: _field(cls, header, name, wanted) for name, wanted in _TYPES[kind].items()}
    if cls is Append:
        return Append(**values, entries=_entries(body, after=values["prev_index"]))
    if body:
        raise ProtocolError(f"a {cls.__name__} frame with a body")
    message: PeerMessage = cls(**values)
    return message


def _field(cls: type[Any], header: Mapping[str, Any], name: str, wanted: type) -> Any:
    value = header.get(name)
    if type(value) is not wanted or (type(value) is int and not 0 <= value <= _U63_MAX):
        raise ProtocolError(f"{cls.__name__}.{name} is {value!r}")
    return value


def _entries(body: bytes, *, after: int) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    at = 0
    while at < len(body):
        if at + _ENTRY.size > len(body):
            raise ProtocolError("an entry's head is cut off")
        index, term, crc, length = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        command = body[at : at + length]
        if len(command) != length or not 1 <= length <= ENTRY_BYTES_MAX:
            raise ProtocolError(f"entry {index} of {length} bytes is cut off or over the limit")
        if index != after + 1 + len(entries) or index > _U63_MAX or term > _U63_MAX:
            raise ProtocolError(f"entry {index} does not follow {after + len(entries)}")
        if entry_crc(index, term, command) != crc:
            raise ProtocolError(f"entry {index} fails its CRC32C")
        entries.append(Entry(index, term, command, crc))
        at += length
    return tuple(entries)
