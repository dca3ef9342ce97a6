"""The few frames of AMQP 0-9-1 that a producer with confirms and a consumer need. Bytes only, no socket.

A frame is type, channel, length, payload and 0xCE; a method's payload begins with class and method (AMQP 0-9-1, 4.2.3).
The handshake is sent in one piece, without waiting for the server's half of it: what it says is known.
"""

from __future__ import annotations

import struct

from benchmarks.processes import Trouble

METHOD, HEADER, BODY = 1, 2, 3
ACK, NACK = (60, 80), (60, 120)
CLOSINGS = {(10, 50), (20, 40), NACK}
FRAME_BYTES_MAX = 131_072
GREETING_REPLIES = 5
"""To `greeting`: start, tune, open-ok, channel.open-ok, confirm.select-ok."""
_HEAD = struct.Struct(">BHI")
_PAIR = struct.Struct(">HH")
_END = b"\xce"


def frame(kind: int, payload: bytes, *, channel: int = 1) -> bytes:
    """A whole frame."""
    return _HEAD.pack(kind, channel, len(payload)) + payload + _END


def method(pair: tuple[int, int], arguments: bytes = b"", *, channel: int = 1) -> bytes:
    """A method's frame."""
    return frame(METHOD, _PAIR.pack(*pair) + arguments, channel=channel)


def short(text: str) -> bytes:
    """A short string."""
    return struct.pack(">B", len(text)) + text.encode()


def long(text: bytes) -> bytes:
    """A long string, or the body of a table."""
    return struct.pack(">I", len(text)) + text


def table(entries: dict[str, str]) -> bytes:
    """A table of strings."""
    return long(b"".join(short(name) + b"S" + long(value.encode()) for name, value in entries.items()))


def greeting() -> bytes:
    """Everything up to an open channel in confirm mode, as the user that every new server has."""
    start_ok = table({}) + short("PLAIN") + long(b"\0guest\0guest") + short("en_US")
    return b"".join(
        (
            b"AMQP\0\0\x09\x01",
            method((10, 11), start_ok, channel=0),
            method((10, 31), struct.pack(">HIH", 2047, FRAME_BYTES_MAX, 0), channel=0),
            method((10, 40), short("/") + short("") + b"\0", channel=0),
            method((20, 10), short("")),
            method((85, 10), b"\0"),
        )
    )


def declare(queue: str, kind: str) -> bytes:
    """A durable queue of ``kind``: quorum or stream. One reply."""
    return method((50, 10), b"\0\0" + short(queue) + b"\x02" + table({"x-queue-type": kind}))


def publish(queue: str, payload: bytes) -> bytes:
    """A persistent message, confirmed later."""
    persistent = struct.pack(">HHQHB", 60, 0, len(payload), 0x1000, 2)
    return (
        method((60, 40), b"\0\0" + short("") + short(queue) + b"\0") + frame(HEADER, persistent) + frame(BODY, payload)
    )


def consume(queue: str, *, prefetch: int, offset: str | None) -> bytes:
    """A consumer that acknowledges; ``offset`` (first, next) is for streams. Two replies."""
    where = table({"x-stream-offset": offset} if offset else {})
    qos = method((60, 10), struct.pack(">IHB", 0, prefetch, 0))
    return qos + method((60, 20), b"\0\0" + short(queue) + short("") + b"\0" + where)


def acknowledge_through(tag: int) -> bytes:
    """All deliveries up to ``tag`` are done with."""
    return method(ACK, struct.pack(">QB", tag, 1))


def take_frames(buffer: bytearray) -> list[tuple[int, bytes]]:
    """Whole frames off the front: type and payload. `Trouble` with the server's words if it closes or refuses."""
    frames = []
    at = 0
    while len(buffer) - at >= _HEAD.size:
        kind, _, length = _HEAD.unpack_from(buffer, at)
        stop = at + _HEAD.size + length + 1
        if stop > len(buffer):
            break
        payload = bytes(buffer[at + _HEAD.size : stop - 1])
        if kind == METHOD and _PAIR.unpack_from(payload) in CLOSINGS:
            raise Trouble(f"RabbitMQ: {payload[4:].decode(errors='replace')}")
        frames.append((kind, payload))
        at = stop
    del buffer[:at]
    return frames


class Confirms:
    """Counts confirmed messages: confirms come one by one or for all up to a number, in any order."""

    def __init__(self) -> None:
        self._floor = 0  # all up to here are confirmed
        self._above: set[int] = set()

    def __call__(self, buffer: bytearray) -> int:
        """`pipeline.CountReplies`."""
        return sum(self._confirmed(payload) for kind, payload in take_frames(buffer) if kind == METHOD)

    def _confirmed(self, payload: bytes) -> int:
        if _PAIR.unpack_from(payload) != ACK:
            return 0
        tag, multiple = struct.unpack_from(">QB", payload, _PAIR.size)
        if not multiple:
            self._above.add(tag)
            return 1
        known = {one for one in self._above if one <= tag}
        self._above -= known
        count = max(0, int(tag) - self._floor) - len({one for one in known if one > self._floor})
        self._floor = max(self._floor, int(tag))
        return count
