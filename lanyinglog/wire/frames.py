"""Frames: how a byte stream between client and node, or between nodes, is cut into messages.

All integers are little-endian. A frame::

    0   4   N, the length of all that follows
    4   1   kind: 1-63 from a client, 64-127 from a node to a client, 128-255 between nodes
    5   1   flags, 0
    6   2   H, the length of the header
    8   4   request id
    12  4   CRC32C of bytes 0..12 and then the header
    16  H   header: a msgpack map with string keys
    ..      body: raw bytes, N - 12 - H of them

The CRC32C covers what the receiver acts upon, the length too: with a bit of that flipped, a receiver would take the
frames that follow for a body, and wait in silence for the rest of it. Bodies are batches and runs, which carry
checksums of their own, made by the producer and checked again by the subscriber.

A decoder refuses as early as it can: a hostile length on its first 4 bytes, flags and header length on its first
16, a damaged header before the body has arrived. So what it buffers is bounded by one frame and one read.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import google_crc32c

from lanyinglog import codec
from lanyinglog.errors import FrameTooLarge, ProtocolError

_HEAD = struct.Struct("<IBBHII")
_COVERED = struct.Struct("<IBBHI")  # the head but for its CRC32C
_LENGTH = struct.Struct("<I")
HEAD_BYTES = _HEAD.size
LENGTH_BYTES = _LENGTH.size
CRC_AT = HEAD_BYTES - LENGTH_BYTES
HEADER_BYTES_MAX = 0xFFFF
"""A header: its length is a u16."""
REQUEST_MAX = 0xFFFF_FFFF
"""The largest request id: a u32."""

_PIECE_BYTES_MIN = 4_096
"""What is fed in smaller pieces, behind something incomplete, is put together as it comes: many would cost more than
their bytes."""

_extend = google_crc32c.extend
_value = google_crc32c.value


class Frame(NamedTuple):
    """One frame as it was received: ``header`` unpacked, ``body`` untouched."""

    kind: int
    request: int
    header: dict[str, Any]
    body: bytes


def encode_frame_head(kind: int, request: int, header: dict[str, Any], body_bytes: int) -> bytes:
    """All of a frame but its body: for callers who send one body of ``body_bytes`` to many receivers."""
    packed = codec.pack(header)
    assert len(packed) <= HEADER_BYTES_MAX, f"a header of {len(packed)} bytes: large values belong into the body"
    return encode_packed_head(kind, request, packed, body_bytes)


def encode_packed_head(kind: int, request: int, packed: bytes, body_bytes: int) -> bytes:
    """`encode_frame_head` for who has the header as msgpack already, at most `HEADER_BYTES_MAX` of it."""
    size = len(packed)
    covered = _COVERED.pack(HEAD_BYTES - LENGTH_BYTES + size + body_bytes, kind, 0, size, request)
    return covered + _LENGTH.pack(_value(covered + packed)) + packed


def encode_frame(
    kind: int, request: int, header: dict[str, Any], body: Sequence[bytes | bytearray | memoryview] = ()
) -> bytes:
    """A whole frame; the parts of ``body`` follow one another."""
    head = encode_frame_head(kind, request, header, sum(map(len, body)))
    return b"".join((head, *body)) if body else head


class FrameDecoder:
    """Bytes in, frames out: `feed` what arrived, then call `next_frame` until it returns None.

    Invariants: 1. after `next_frame` returned None the buffer holds less than one frame of ``frame_bytes_max``;
    2. once it raised it raises the same error for ever, for the place of the next frame is unknown;
    3. each byte is copied a constant number of times, however it was cut into reads: once if a frame comes whole, or in
    pieces of some size.
    """

    def __init__(self, *, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        """The largest whole frame that is accepted, its head included; may be changed between frames."""
        self._pieces: list[bytes | bytearray] = []  # as they were fed
        self._at = 0  # of the first piece: where the next frame begins
        self._size = 0  # bytes from there on
        self._head: tuple[int, int, int, int] | None = None  # kind, request, H and the frame's bytes, once checked
        self._header: dict[str, Any] | None = None  # the next frame's header, once checked
        self._needed = LENGTH_BYTES  # buffered bytes below which there is nothing to look at
        self._error: ProtocolError | None = None
        self._repeated: tuple[bytes | None, dict[str, Any]] = (None, {})  # a header, for the next one is often the same

    @property
    def buffered_bytes(self) -> int:
        """Bytes of a frame that has begun and is not complete; 0 between frames."""
        return self._size

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes of the stream, in pieces of any size. Never raises for what they contain."""
        assert self._size < self._needed or self._error, "take all frames before feeding more bytes"
        if self._error is not None or not data:
            return
        if self._at:
            self._pieces[0] = self._pieces[0][self._at :]  # what was taken goes
            self._at = 0
        self._size += len(data)
        if not self._pieces or len(data) >= _PIECE_BYTES_MIN:
            self._pieces.append(bytes(data))
            return
        last = self._pieces[-1]
        if isinstance(last, bytearray):
            last += data
        else:
            self._pieces.append(bytearray(data))

    def repeated(self, data: bytes, kind: int, header: dict[str, Any] | None) -> tuple[int, bytes] | None:
        """Request and body of the frame that ``data`` is, if it comes next, is whole, of ``kind``, and has the header
        of the frame before it, whose ``header`` that is; there is no more to be done about it then. None for whatever
        else it is: then nothing has happened, and it is to be fed."""
        packed, last = self._repeated
        if last is not header or packed is None or self._size or self._error is not None or len(data) < HEAD_BYTES:
            return None
        length, found, flags, header_bytes, request, crc = _HEAD.unpack_from(data)
        body_at = HEAD_BYTES + header_bytes
        if (
            found != kind
            or flags
            or not body_at <= length + LENGTH_BYTES == len(data) <= self.frame_bytes_max
            or data[HEAD_BYTES:body_at] != packed
            or _extend(_value(data[:CRC_AT]), packed) != crc
        ):
            return None
        return request, data[body_at:]

    def next_frame(self) -> Frame | None:
        """The next complete frame, or None until more is fed. `FrameTooLarge` or another `ProtocolError`."""
        if self._error is not None:
            raise self._error
        if self._size < self._needed:
            return None
        try:
            if self._head is None and len(self._pieces) == 1 and self._size >= HEAD_BYTES:
                return self._take_at_once()
            return self._take()
        except ProtocolError as error:
            self._error = error
            self._pieces.clear()
            self._size = 0
            raise

    def _take_at_once(self) -> Frame | None:
        """`_take` for a small frame, which usually came whole: one look at all of it. Whatever is not as it should be
        is left to `_take`, which knows what to say about it."""
        data, at = self._pieces[0], self._at
        length, kind, flags, header_bytes, request, crc = _HEAD.unpack_from(data, at)
        body_at = at + HEAD_BYTES + header_bytes
        stop = at + LENGTH_BYTES + length
        if flags or length + LENGTH_BYTES > self.frame_bytes_max or not body_at <= stop <= len(data):
            return self._take()
        packed = bytes(data[at + HEAD_BYTES : body_at])
        if _extend(_value(bytes(data[at : at + CRC_AT])), packed) != crc:
            return self._take()
        header = self._repeated[1] if packed == self._repeated[0] else self._unpack(packed)
        self._needed = LENGTH_BYTES
        self._size = len(data) - stop
        if self._size:
            self._at = stop
        else:
            self._at = 0
            self._pieces = []
        return Frame(kind, request, header, bytes(data[body_at:stop]))

    def _unpack(self, packed: bytes) -> dict[str, Any]:
        header = codec.unpack_map(packed)
        for value in header.values():
            if isinstance(value, (dict, list)):
                return header
        self._repeated = (packed, header)  # nobody can change it for another
        return header

    def _take(self) -> Frame | None:
        """Looks at as much of the next frame as there is: length, then head, then header, then body."""
        if self._head is None:
            self._check_length(_LENGTH.unpack_from(self._front(LENGTH_BYTES), self._at)[0])
            if not self._has(HEAD_BYTES):
                return None
            self._head = self._checked_head(self._front(HEAD_BYTES))
        kind, request, header_bytes, frame_bytes = self._head
        body_at = HEAD_BYTES + header_bytes
        if self._header is None:
            if not self._has(body_at):
                return None
            self._header = self._checked_header(self._front(body_at), body_at)
        if not self._has(frame_bytes):
            return None
        frame = Frame(kind, request, self._header, self._cut(body_at, frame_bytes))
        self._head = self._header = None
        self._needed = LENGTH_BYTES
        return frame

    def _has(self, needed: int) -> bool:
        self._needed = needed
        return self._size >= needed

    def _front(self, needed: int) -> bytes | bytearray:
        """The first piece, with the next ``needed`` bytes, which are there, in it from `_at` on."""
        first = self._pieces[0]
        if len(first) - self._at < needed:
            first = b"".join(self._pieces)
            self._pieces = [first]
        return first

    def _cut(self, begin: int, end: int) -> bytes:
        """Bytes ``begin`` to ``end`` of the next frame, which ends there, in the last piece, and is dropped."""
        at, pieces = self._at, self._pieces
        last = pieces[-1]
        self._size -= end
        stop = len(last) - self._size  # where the frame ends in the last piece
        if len(pieces) == 1:
            found = bytes(last[at + begin : stop])
        else:
            with memoryview(pieces[0]) as head, memoryview(last) as tail:
                found = b"".join((head[at + begin :], *pieces[1:-1], tail[:stop]))
        self._at = stop if self._size else 0
        self._pieces = [last] if self._size else []
        return found

    def _check_length(self, length: int) -> None:
        if length + LENGTH_BYTES > self.frame_bytes_max:
            raise FrameTooLarge(
                f"a frame announces {length + LENGTH_BYTES} bytes; at most {self.frame_bytes_max} are allowed here"
            )
        if length < HEAD_BYTES - LENGTH_BYTES:
            raise ProtocolError(f"a frame announces {length} bytes behind its length; its head alone has 12")

    def _checked_head(self, first: bytes | bytearray) -> tuple[int, int, int, int]:
        length, kind, flags, header_bytes, request, _ = _HEAD.unpack_from(first, self._at)
        if flags != 0:
            raise ProtocolError(f"a frame of kind {kind} has flags {flags:#x}; version 1 knows none")
        if HEAD_BYTES - LENGTH_BYTES + header_bytes > length:
            raise ProtocolError(f"a frame's header of {header_bytes} bytes does not fit its {length} bytes")
        return kind, request, header_bytes, length + LENGTH_BYTES

    def _checked_header(self, first: bytes | bytearray, stop: int) -> dict[str, Any]:
        at = self._at
        packed = bytes(first[at + HEAD_BYTES : at + stop])
        covered = bytes(first[at : at + CRC_AT])
        if _extend(_value(covered), packed) != _HEAD.unpack_from(first, at)[5]:
            raise ProtocolError("a frame's header fails its CRC32C")
        return codec.unpack_map(packed)
