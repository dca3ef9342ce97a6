"""Open-loop load: when each message is *to be* sent, decided before the first is.

A closed loop waits for one answer before it sends the next, so a stall of a second costs it one slow sample instead of
a thousand: coordinated omission. Here message *i* is due at ``begins + i / rate`` whatever happens, its latency counts
from that moment, and a sender who is late sends all that is due at once.

`stamp` puts the due time into the payload, so that whoever receives it, in whatever order and process of this machine,
knows the latency: `CLOCK_MONOTONIC` is one clock for all of them.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

MAGIC = b"\xf1LYBENCH"
"""In front of each stamp, so that a reader who does not know the protocol finds it in a stream of bytes."""
_STAMP = struct.Struct("<8sQ")
STAMP_BYTES = _STAMP.size


@dataclass(frozen=True, slots=True)
class Schedule:
    """``count`` messages, ``rate`` of them a second."""

    rate: float
    count: int

    @classmethod
    def lasting(cls, seconds: float, *, rate: float) -> Schedule:
        """As many messages as are due within ``seconds``."""
        return cls(rate, max(1, round(seconds * rate)))

    def due_ns(self, begins_ns: int, index: int) -> int:
        """When message ``index`` is due."""
        return begins_ns + round(index * 1e9 / self.rate)

    def due_count(self, begins_ns: int, now_ns: int) -> int:
        """How many messages are due by now."""
        if now_ns < begins_ns:
            return 0
        guess = min(self.count, int((now_ns - begins_ns) * self.rate / 1e9) + 1)
        while guess < self.count and self.due_ns(begins_ns, guess) <= now_ns:
            guess += 1
        while guess > 0 and self.due_ns(begins_ns, guess - 1) > now_ns:
            guess -= 1
        return guess


def now_ns() -> int:
    """The clock of all stamps."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def stamp(due_ns: int, payload_bytes: int) -> bytes:
    """A payload of ``payload_bytes`` that says when it was due."""
    return _STAMP.pack(MAGIC, due_ns).ljust(payload_bytes, b".")


def latency_s(payload: bytes, received_ns: int) -> float:
    """Seconds from the moment a stamped payload was due to the moment it was received."""
    magic, due_ns = _STAMP.unpack_from(payload)
    if magic != MAGIC:
        raise ValueError("a payload without a stamp")
    return float(received_ns - due_ns) / 1e9
