"""What nodes say to each other: a closed set of values, and their bytes.

Each carries the sender's term. `Append` and its answer `Appended` carry a number besides, so that the leader can tell
an answer to what it sent last from one that was overtaken (audit 4, 7). Entries travel as raw bytes in a frame's body,
each with the CRC32C it got when the leader made it; the receiver checks it before anything looks inside.

Body of an append frame, little-endian, for each entry: u64 index, u64 term, u32 CRC32C, u32 length, command bytes.
Body of a chunk frame, and of a copy frame: u32 number of rows; for each u16 length of its key, u32 length of the row,
u32 CRC32C of key and row, key, row; then entries as in an append.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import google_crc32c

from lanyinglog.errors import ProtocolError
from lanyinglog.store.log_store import ENTRY_BYTES_MAX, Entry, entry_crc

PEER_FRAME_BYTES_MAX = 12 << 20
"""An append of `engine.APPEND_BYTES_MAX` may be crossed by one more entry (5 MiB + 4 MiB), with headers."""
KEY_BYTES_MAX = 511
"""Of a row's key, as in the store."""
NAMES_MAX = 1_024
"""Nodes that one message names: a log's members, twice over."""
Names = tuple[str, ...]
_ENTRY = struct.Struct("<QQII")
_COUNT = struct.Struct("<I")
_ROW = struct.Struct("<HII")
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


@dataclass(frozen=True, slots=True)
class Offer:
    """Leader to a follower that lacks what its log begins with: the base that may be drawn (`snapshots`)."""

    kind: ClassVar[int] = 144
    term: int
    first: int
    last_seq: int
    last_timestamp: int
    rows: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Follower to leader: the rows behind key ``after``, please; ``received`` are on disk here."""

    kind: ClassVar[int] = 145
    term: int
    first: int
    received: int
    after: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """Answer to a `Fetch`: the rows; with the last of them (``done``) the entries ``first`` and ``first + 1``."""

    kind: ClassVar[int] = 146
    term: int
    first: int
    after: bytes
    done: bool
    rows: tuple[tuple[bytes, bytes], ...] = ()
    entries: tuple[Entry, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of rows and commands, which is nearly all of it."""
        rows = sum(len(key) + len(row) for key, row in self.rows)
        return rows + sum(len(entry.command) for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Join:
    """From a node that has an empty directory: where are you? It asks ``peers`` (`joining`)."""

    kind: ClassVar[int] = 147
    term: int
    number: int
    peers: Names = ()


@dataclass(frozen=True, slots=True)
class Joined:
    """Answer to a `Join`: the term of the sender; whether its log is empty; the last entry of it, if it leads; whether
    the asker is a voter by the sender's log, who the others are, and which of those in question left, by what is
    committed in it."""

    kind: ClassVar[int] = 148
    term: int
    number: int
    blank: bool
    leads: bool
    last: int
    votes: bool
    voters: Names = ()
    departed: Names = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What do you have stored as entry ``index``? The sender can't read its own (`repair`)."""

    kind: ClassVar[int] = 149
    term: int
    index: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Answer to a `Wanted`: the stored entry and one row, its record; or neither."""

    kind: ClassVar[int] = 150
    term: int
    index: int
    rows: tuple[tuple[bytes, bytes], ...] = ()
    entries: tuple[Entry, ...] = ()


PeerMessage = (
    Append
    | Appended
    | Committed
    | Heartbeat
    | Alive
    | VoteRequest
    | Vote
    | PreVoteRequest
    | PreVote
    | TimeoutNow
    | Offer
    | Fetch
    | Chunk
    | Join
    | Joined
    | Wanted
    | Copy
)
ELECTORAL = (VoteRequest, Vote, PreVoteRequest, PreVote, TimeoutNow)
LOG_TRAFFIC = (Append, Appended, Committed, Heartbeat, Alive)
"""Of these the engine alone says whether they bring something to do."""
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
    Offer,
    Fetch,
    Chunk,
    Join,
    Joined,
    Wanted,
    Copy,
)
_BY_KIND: dict[int, type[Any]] = {cls.kind: cls for cls in _CLASSES}
_WORDS: dict[str, type] = {"int": int, "bool": bool, "bytes": bytes, "Names": tuple}
"""Types of header fields; what else a message has travels in the body."""
_TYPES: dict[int, dict[str, type]] = {
    cls.kind: {field.name: _WORDS[str(field.type)] for field in fields(cls) if str(field.type) in _WORDS}
    for cls in _CLASSES
}


def to_parts(message: PeerMessage) -> tuple[int, dict[str, Any], Sequence[bytes]]:
    """``message`` as a frame's kind, header and body parts."""
    header = {name: getattr(message, name) for name in _TYPES[message.kind]}
    if not isinstance(message, Append | Chunk | Copy):
        return message.kind, header, ()
    body: list[bytes] = []
    if isinstance(message, Chunk | Copy):
        body.append(_COUNT.pack(len(message.rows)))
        for key, row in message.rows:
            body += (_ROW.pack(len(key), len(row), google_crc32c.value(key + row)), key, row)
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
    if cls is Chunk:
        rows, at = _rows(body)
        return Chunk(**values, rows=rows, entries=_entries(body[at:], after=values["first"] - 1))
    if cls is Copy:
        rows, at = _rows(body)
        return Copy(**values, rows=rows, entries=_entries(body[at:], after=values["index"] - 1))
    if body:
        raise ProtocolError(f"a {cls.__name__} frame with a body")
    message: PeerMessage = cls(**values)
    return message


def _field(cls: type[Any], header: Mapping[str, Any], name: str, wanted: type) -> Any:
    value = header.get(name)
    out_of_bounds = False
    if wanted is tuple and type(value) is list:
        value = tuple(value)
        out_of_bounds = len(value) > NAMES_MAX or not all(type(one) is str for one in value)
    elif type(value) is int:
        out_of_bounds = not 0 <= value <= _U63_MAX
    else:
        out_of_bounds = type(value) is bytes and len(value) > KEY_BYTES_MAX
    if type(value) is not wanted or out_of_bounds:
        raise ProtocolError(f"{cls.__name__}.{name} is {value!r}")
    return value


def _rows(body: bytes) -> tuple[tuple[tuple[bytes, bytes], ...], int]:
    """The rows at the start of ``body``, and where they end."""
    if len(body) < _COUNT.size:
        raise ProtocolError("a chunk without rows")
    (count,) = _COUNT.unpack_from(body)
    at = _COUNT.size
    if count * _ROW.size > len(body):
        raise ProtocolError(f"{count} rows in {len(body)} bytes")
    rows: list[tuple[bytes, bytes]] = []
    for _ in range(count):
        if at + _ROW.size > len(body):
            raise ProtocolError("a row's head is cut off")
        key_bytes, row_bytes, crc = _ROW.unpack_from(body, at)
        at += _ROW.size
        key, row = body[at : at + key_bytes], body[at + key_bytes : at + key_bytes + row_bytes]
        at += key_bytes + row_bytes
        if not 1 <= key_bytes <= KEY_BYTES_MAX or at > len(body):
            raise ProtocolError(f"a row of {key_bytes} and {row_bytes} bytes is cut off or over the limit")
        if google_crc32c.value(key + row) != crc:
            raise ProtocolError("a row fails its CRC32C")
        rows.append((key, row))
    return tuple(rows), at


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
