"""One connection of the client: what its two users, sender and receiver, hear when it ends."""

from __future__ import annotations

import pytest

from lanyinglog.client.link import Link, LinkLost
from lanyinglog.config import Address
from lanyinglog.errors import Busy
from lanyinglog.wire.connection import Connection, Role
from lanyinglog.wire.messages import PROTOCOL_VERSION, Error, Hello, Limits, Ping, Welcome

pytestmark = pytest.mark.trio


class Script:
    """A byte stream whose other side says ``pieces``, whatever it hears."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def send(self, item: bytes) -> None: ...

    async def receive(self, max_bytes: int = 0) -> bytes:
        return self._pieces.pop(0)


def node_says(last: bytes | None) -> list[bytes]:
    node = Connection(Role.NODE)
    list(node.receive(Connection(Role.CLIENT).send(Hello(client="test"), 0)))
    welcome = node.send(Welcome(PROTOCOL_VERSION, "n1", "c", None, Limits(producer_window=16, subscriptions_max=1)), 0)
    return [welcome, node.send(Error.of(Busy("too many")), 0) if last is None else last]


@pytest.mark.parametrize("last", [b"\0" * 64, None], ids=["it broke the protocol", "it said why it closes"])
async def test_who_sends_behind_the_end_hears_that_the_link_is_lost(last: bytes | None) -> None:
    link = Link(Address("127.0.0.1", 1), Script(*node_says(last)))  # type: ignore[arg-type]
    await link._greet()
    with pytest.raises(LinkLost):
        await link.receive()
    with pytest.raises(LinkLost):
        await link.send(Ping(), 1)
