"""One connection of the client: what its two users, sender and receiver, hear when it ends."""

from __future__ import annotations

import pytest
import trio

from lanyinglog.client.link import SEND_BYTES, SEND_BYTES_MAX, Link, LinkLost
from lanyinglog.config import Address
from lanyinglog.errors import Busy
from lanyinglog.wire.connection import Connection, Role
from lanyinglog.wire.messages import PROTOCOL_VERSION, Error, Hello, Limits, Ping, Pong, Transfer, Transferred, Welcome

pytestmark = pytest.mark.trio


class Script:
    """A byte stream whose other side says ``pieces``, whatever it hears."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def send(self, item: bytes) -> None: ...

    async def receive(self, max_bytes: int = 0) -> bytes:
        return self._pieces.pop(0)


def link_over(stream: Script) -> Link:
    return Link(Address("127.0.0.1", 1), stream)  # type: ignore[arg-type]


def node_says(last: bytes | None) -> list[bytes]:
    node = Connection(Role.NODE)
    list(node.receive(Connection(Role.CLIENT).send(Hello(client="test"), 0)))
    welcome = node.send(Welcome(PROTOCOL_VERSION, "n1", "c", None, Limits(producer_window=16, subscriptions_max=1)), 0)
    return [welcome, node.send(Error.of(Busy("too many")), 0) if last is None else last]


@pytest.mark.parametrize("last", [b"\0" * 64, None], ids=["it broke the protocol", "it said why it closes"])
async def test_who_sends_behind_the_end_hears_that_the_link_is_lost(last: bytes | None) -> None:
    link = link_over(Script(*node_says(last)))
    await link._greet()
    with pytest.raises(LinkLost):
        await link.receive()
    with pytest.raises(LinkLost):
        await link.send(Ping(), 1)


class Slow(Script):
    """The same, which takes a second for each piece in ``slow``, and no time for others."""

    def __init__(self, *pieces: bytes, slow: frozenset[int] = frozenset()) -> None:
        super().__init__(*pieces)
        self.taken: list[bytes] = []
        self._slow = slow

    async def send(self, item: bytes) -> None:
        if len(self.taken) in self._slow:
            await trio.sleep(1)
        self.taken.append(item)


async def sent(link: Link, stream: Slow) -> list[int]:
    """The sizes of the pieces in which 2 MiB leave, and nothing of it is lost."""
    before = len(stream.taken)
    frame = bytes(range(256)) * (8 << 10)
    await link._send_parts([frame])
    assert b"".join(stream.taken[before:]) == frame
    return [len(piece) for piece in stream.taken[before:]]


async def test_pieces_grow_while_they_go_quickly_and_are_small_again_when_one_does_not(autojump_clock: None) -> None:
    quick = Slow()
    link = link_over(quick)
    assert await sent(link, quick) == [SEND_BYTES << place for place in (0, 1, 2, 2, 2, 2, 2, 2, 2, 0)]
    assert (await sent(link, quick))[:2] == [SEND_BYTES, SEND_BYTES_MAX]
    slow = Slow(slow=frozenset({2, 3}))
    link = link_over(slow)
    assert (await sent(link, slow))[:6] == [SEND_BYTES << place for place in (0, 1, 2, 0, 0, 1)]


async def test_each_piece_that_went_is_a_sign_of_life(autojump_clock: None) -> None:
    stream = Slow(slow=frozenset(range(100)))
    link = link_over(stream)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sent, link, stream)
        await trio.sleep(5.5)
        assert link.heard_at - began == pytest.approx(5)
        nursery.cancel_scope.cancel()


class Slowly(Script):
    """A node that answers a request after ``answer_s``, and pings at once, but those only for ``alive_s``."""

    def __init__(self, *, answer_s: float, alive_s: float) -> None:
        super().__init__()
        self._wire = Connection(Role.NODE)
        self._answer_at = trio.current_time() + answer_s
        self._alive_until = trio.current_time() + alive_s
        self._asked = 0
        self.pings = 0

    async def send(self, item: bytes) -> None:
        for request, message in self._wire.receive(item):
            if isinstance(message, Hello):
                welcome = Welcome(PROTOCOL_VERSION, "n1", "c", None, Limits(producer_window=16, subscriptions_max=1))
                self._pieces.append(self._wire.send(welcome, 0))
            elif isinstance(message, Transfer):
                self._asked = request
            elif trio.current_time() < self._alive_until:
                self.pings += 1
                self._pieces.append(self._wire.send(Pong(), request))

    async def receive(self, max_bytes: int = 0) -> bytes:
        if not self._pieces:
            await trio.sleep_until(self._answer_at)
            return self._wire.send(Transferred("n2"), self._asked)
        return self._pieces.pop(0)


async def test_a_node_that_answers_pings_may_take_long_for_the_answer(autojump_clock: None) -> None:
    node = Slowly(answer_s=60.5, alive_s=100)
    link = link_over(node)
    await link._greet()
    assert await link.ask(Transfer(), silence_s=2) == Transferred("n2")
    assert node.pings == 60


async def test_a_node_that_falls_silent_is_given_up_though_it_would_answer_in_the_end(autojump_clock: None) -> None:
    node = Slowly(answer_s=60.5, alive_s=10.5)
    link = link_over(node)
    await link._greet()
    began = trio.current_time()
    with pytest.raises(LinkLost, match="silent for 2 s"):
        await link.ask(Transfer(), silence_s=2)
    assert trio.current_time() - began == pytest.approx(12)
