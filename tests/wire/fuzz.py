"""Frames that are almost right: what an attacker, a broken client or a broken cable would send.

Junk alone dies on its first 16 bytes. So each case starts from good messages and changes what one layer holds: a bit
anywhere; a length, kind, id or flag of the head; a field of the header; the body. What lies behind a checksum is
sealed again, so that the layer behind it is reached.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import google_crc32c
import msgpack
from wire.examples import EXAMPLES, request_of

from lanyinglog.wire.frames import HEAD_BYTES
from lanyinglog.wire.messages import CLIENT_MESSAGES, NODE_MESSAGES, Message

HOSTILE: list[Any] = [
    None, True, False, 0, 1, -1, 63, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
    -(1 << 63), 0.5, float("nan"), float("inf"), "", "a", "a..b", "\x00", "x" * 255, "x" * 256, "x" * 9_000, "é" * 200,
    b"", b"main", [], [[]], [0, 0], [1, 1], [2, 1], [None] * 70, ["a"] * 65, {}, {"seq": 0}, {"seq": 1 << 63},
    {"time": 5}, {"first": True}, {"new": False}, {"first": True, "new": True}, {"!": 1}, {"x": {"y": {"z": []}}},
]  # fmt: skip
RAW_HEADERS = [
    b"", b"\x80", b"\x81", b"\xc1", b"\x90", b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff" * 900,
    b"\x81\xa3log" + b"\x91" * 1_000 + b"\x01", b"\x91" * 60_000, b"\x81\xc4\x03log\xa4main", b"\x81\x01\x02",
    b"\x81\xa3log\xc7\x00\x05", b"\x81\xa5start\x81\xc4\x03seq\x01", b"\x81\xa3log\xdb\x7f\xff\xff\xff",
    b"\x82\xa3log\xa1a\xa3log\xa1b", b"\x81\xa3log\xa2\xff\xfe",
]  # fmt: skip


def seal(
    packed: bytes, body: bytes, *, kind: int, request: int, flags: int = 0, header_bytes: int | None = None
) -> bytes:
    """A frame of any content whose length and CRC32C are right."""
    head = struct.pack("<BBHI", kind, flags, (len(packed) if header_bytes is None else header_bytes) & 0xFFFF, request)
    start = struct.pack("<I", HEAD_BYTES - 4 + len(packed) + len(body)) + head
    crc = google_crc32c.extend(google_crc32c.value(start), packed)
    return start + struct.pack("<I", crc) + packed + body


class Fuzzer:
    """Streams of frames of one side; the same ``seed`` makes the same ones."""

    def __init__(self, seed: int, kinds: tuple[type[Message], ...] = CLIENT_MESSAGES + NODE_MESSAGES) -> None:
        self._random = random.Random(seed)
        self._kinds = kinds

    def streams(self, count: int) -> Iterator[bytes]:
        """``count`` streams, each of one frame that is wrong in some way and perhaps a good one around it."""
        choice = self._random.choice
        ways = (self._bits, self._head, self._field, self._raw_header, self._body, self._cut, self._resized, self._item)
        for _ in range(count):
            frame = choice(ways)(choice(self._kinds))
            before = self._good(choice(self._kinds)) if self._random.random() < 0.2 else b""
            behind = self._good(choice(self._kinds)) if self._random.random() < 0.3 else b""
            yield before + frame + behind

    def pieces(self, stream: bytes) -> Iterator[bytes]:
        """``stream`` in a few pieces of any size."""
        cuts = sorted(self._random.randrange(len(stream) + 1) for _ in range(self._random.choice((0, 0, 1, 3))))
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            yield stream[start:stop]

    def _parts(self, kind: type[Message]) -> tuple[dict[str, Any], bytes, int, int]:
        message = EXAMPLES[kind]
        return dict(message.header()), b"".join(message.body()), kind.KIND, request_of(kind)

    def _good(self, kind: type[Message]) -> bytes:
        header, body, number, request = self._parts(kind)
        return seal(msgpack.packb(header), body, kind=number, request=request)

    # ---------------------------------------------------------------------------------------------- what can be wrong
    def _bits(self, kind: type[Message]) -> bytes:
        frame = bytearray(self._good(kind))
        for _ in range(self._random.choice((1, 1, 1, 2, 8))):
            frame[self._random.randrange(len(frame))] ^= 1 << self._random.randrange(8)
        return bytes(frame)

    def _head(self, kind: type[Message]) -> bytes:
        header, body, number, request = self._parts(kind)
        changed: dict[str, int] = {"kind": number, "request": request}
        name = self._random.choice(("kind", "request", "flags", "header_bytes"))
        changed[name] = {
            "kind": self._random.randrange(256),
            "request": self._random.choice((0, 1, 0xFFFF_FFFF)),
            "flags": self._random.randrange(1, 256),
            "header_bytes": self._random.randrange(0x10000),
        }[name]
        return seal(msgpack.packb(header), body, **changed)

    def _field(self, kind: type[Message]) -> bytes:
        header, body, number, request = self._parts(kind)
        name = self._random.choice([*header, "more", "!critical"])
        if name in header and self._random.random() < 0.2:
            del header[name]
        else:
            header[name] = self._random.choice(HOSTILE)
        return seal(msgpack.packb(header), body, kind=number, request=request)

    def _raw_header(self, kind: type[Message]) -> bytes:
        _, body, number, request = self._parts(kind)
        return seal(self._random.choice(RAW_HEADERS), body, kind=number, request=request)

    def _body(self, kind: type[Message]) -> bytes:
        header, body, number, request = self._parts(kind)
        other = bytearray(body or b"a body")
        way = self._random.randrange(4)
        if way == 0:
            other[self._random.randrange(len(other))] ^= 1 << self._random.randrange(8)
        elif way == 1:
            del other[self._random.randrange(len(other)) :]
        elif way == 2:
            other += self._random.randbytes(self._random.choice((1, 20, 5_000)))
        else:
            at = self._random.randrange(len(other))
            other[at : at + 4] = struct.pack("<I", self._random.choice((0, 1, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF)))
        return seal(msgpack.packb(header), bytes(other), kind=number, request=request)

    def _cut(self, kind: type[Message]) -> bytes:
        frame = self._good(kind)
        return frame[: self._random.randrange(len(frame))]

    def _resized(self, kind: type[Message]) -> bytes:
        length = self._random.choice((0, 1, 11, 12, 13, 100, 4_092, 4_093, 1 << 20, (1 << 31) - 1, (1 << 32) - 1))
        return struct.pack("<I", length) + self._good(kind)[4:]

    def _item(self, kind: type[Message]) -> bytes:
        """A push whose heads lie and whose checksum over them is right."""
        heads, body = [], b""
        for _ in range(self._random.choice((0, 1, 2, 5))):
            run = self._random.randbytes(self._random.choice((0, 19, 20, 21, 60)))
            numbers = (self._random.choice((0, 1, 5, 6, 1 << 62, (1 << 64) - 1)) for _ in range(2))
            head = struct.pack("<QQI", *numbers, self._random.choice((len(run), 0, 20, 0xFFFF_FFFF)))
            heads.append(head)
            body += head + run
        crc = google_crc32c.value(b"".join(heads))
        through = self._random.choice((4, 5, 1 << 62))
        header = {"prev": 4, "through": through, "messages": self._random.choice((0, 1, 1 << 31)), "crc": crc}
        return seal(msgpack.packb(header), body, kind=68, request=1)
