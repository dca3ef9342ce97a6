"""Twenty thousand frames that are almost right: each is taken or refused in the words of the protocol, and no more."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest
from wire.examples import EXAMPLES, check_contents
from wire.fuzz import Fuzzer

from lanyinglog.errors import LanyingError, ProtocolError
from lanyinglog.wire.connection import Connection, Role, State
from lanyinglog.wire.messages import CLIENT_MESSAGES, NODE_MESSAGES, Hello, Welcome, to_frame

STREAMS = 12_000
"""Of each side; a fifth has a good frame in front, a third one behind."""


def opened(role: Role) -> Connection:
    one = Connection(role)
    if role is Role.NODE:
        assert list(one.receive(to_frame(Hello(), 0)))
        one.send(EXAMPLES[Welcome], 0)
    else:
        one.send(Hello(), 0)
        assert list(one.receive(to_frame(EXAMPLES[Welcome], 0)))
    return one


def feed(one: Connection, fuzzer: Fuzzer, stream: bytes) -> str:
    """How it went; anything but a `LanyingError` goes through."""
    taken = 0
    try:
        for piece in fuzzer.pieces(stream):
            for received in one.receive(piece):
                taken += 1
                check_contents(received.message)
            if one.state is State.CLOSED:
                return "closed by an error"
    except ProtocolError as error:
        assert one.state in (State.BROKEN, State.CLOSED)
        assert len(error.message) < 1_000
        return "refused"
    except LanyingError:
        return "contents refused"
    return "waits" if one.inside_frame else "taken"


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
def test_frames_that_are_almost_right_are_refused_or_taken(role: Role) -> None:
    fuzzer = Fuzzer(7, NODE_MESSAGES if role is Role.CLIENT else CLIENT_MESSAGES)
    outcomes = Counter(feed(opened(role), fuzzer, stream) for stream in fuzzer.streams(STREAMS))
    # Each way through is taken often, else the fuzzer stays on the surface.
    assert min(outcomes[way] for way in ("refused", "contents refused", "waits", "taken")) > STREAMS // 200, outcomes


def test_strangers_are_refused_in_words() -> None:
    fuzzer = Fuzzer(8)
    outcomes = Counter(feed(Connection(Role.NODE), fuzzer, stream) for stream in fuzzer.streams(4_000))
    assert outcomes["refused"] > 3_000, outcomes


def test_frames_that_are_almost_right_cost_no_memory() -> None:
    fuzzer = Fuzzer(9)
    sides = [opened(role) for role in Role]
    tracemalloc.start()
    try:
        for place, stream in enumerate(fuzzer.streams(2_000)):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            feed(sides[place % 2], fuzzer, stream)
            # 64 KiB of header become lists in lists: some 70 bytes of memory a byte, and no lengths are believed.
            assert tracemalloc.get_traced_memory()[1] - before < 8 << 20
            sides[place % 2] = opened(sides[place % 2].role)
    finally:
        tracemalloc.stop()
