"""What the workloads write: every message says who wrote it, and can be told from a damaged one.

A message has an id, ``lane << 32 | counter``: lanes are writers that do one thing after the other, counters rise by one
from 0. Topic and payload follow from the id, so that a history need not hold them and any reader can check them.
"""

from __future__ import annotations

COUNTER_BITS = 32
_COUNTER_MASK = (1 << COUNTER_BITS) - 1
TOPICS = 12
_FILLER = bytes(range(33, 127)) * 4
SPREAD = 1 << 15
"""Lanes from here on spread their messages over topics, one after the other; the others keep to one topic."""


def message_id(lane: int, counter: int) -> int:
    """The id of a lane's message number ``counter``."""
    return lane << COUNTER_BITS | counter


def lane_of(identity: int) -> int:
    return identity >> COUNTER_BITS


def counter_of(identity: int) -> int:
    return identity & _COUNTER_MASK


def topic_number(identity: int) -> int:
    """Which of the `TOPICS` the message belongs to."""
    lane = identity >> COUNTER_BITS
    return (lane + (identity if lane >= SPREAD else 0)) % TOPICS


NAMES = tuple(f"suite.{'even' if number % 2 == 0 else 'odd'}.t{number}" for number in range(TOPICS))


def topic_of(identity: int) -> str:
    return NAMES[topic_number(identity)]


def payload_of(identity: int) -> bytes:
    """``lane:counter`` and a filler whose length and bytes depend on both."""
    lane, counter = identity >> COUNTER_BITS, identity & _COUNTER_MASK
    mixed = (lane * 7919 + counter * 104729) % 94
    return b"%d:%d %s" % (lane, counter, _FILLER[mixed : mixed + 20 + (lane + counter) % 150])


def identify(topic: str, payload: bytes) -> int | None:
    """The id of a message; None if it is not, to the byte, one that a workload wrote."""
    lane, colon, rest = payload[:32].partition(b":")
    counter, space, _ = rest.partition(b" ")
    if not (colon and space and lane.isdigit() and counter.isdigit()):
        return None
    identity = int(lane) << COUNTER_BITS | int(counter)
    if payload_of(identity) != payload or topic_of(identity) != topic:
        return None
    return identity
