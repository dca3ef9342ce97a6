"""A node that is far away is reached, and one that does not answer is given up as early as if all were near."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from anyio._backends._trio import TrioBackend
from anyio.abc import ByteStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from anyio.streams.tls import TLSStream
from certificates import Authority

from lanyinglog.client.link import Link, LinkLost
from lanyinglog.client.timing import Timing
from lanyinglog.config import Address
from lanyinglog.tls import client_context, server_context
from lanyinglog.wire.connection import Connection, Role
from lanyinglog.wire.messages import PROTOCOL_VERSION, Limits, Welcome

pytestmark = pytest.mark.trio
ADDRESS = Address("127.0.0.1", 1)
LONG_S = 0.5
"""The longest round trip that docs/client.md promises."""


class FarEnd(ByteStream):
    """One end of a line on which everything takes ``delay_s``."""

    def __init__(
        self, out: MemoryObjectSendStream[Any], into: MemoryObjectReceiveStream[Any], *, delay_s: float
    ) -> None:
        self._out, self._into, self._delay_s = out, into, delay_s

    async def send(self, item: bytes) -> None:
        await self._out.send((anyio.current_time() + self._delay_s, bytes(item)))

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        arrives_at, item = await self._into.receive()
        await anyio.sleep_until(arrives_at)
        return bytes(item)

    async def send_eof(self) -> None:
        await self._out.aclose()

    async def aclose(self) -> None:
        self._out.close()
        self._into.close()


def line(*, round_trip_s: float) -> tuple[FarEnd, FarEnd]:
    there, back = (anyio.create_memory_object_stream[Any](math.inf) for _ in range(2))
    delay_s = round_trip_s / 2
    return FarEnd(there[0], back[1], delay_s=delay_s), FarEnd(back[0], there[1], delay_s=delay_s)


async def serve(stream: ByteStream, tls: ssl.SSLContext | None, silent_at: str) -> None:
    """A node that says welcome, unless it falls silent before."""
    if tls is not None and silent_at != "TLS":
        stream = await TLSStream.wrap(stream, server_side=True, ssl_context=tls)
    if silent_at:
        await anyio.sleep_forever()
    node = Connection(Role.NODE)
    while not list(node.receive(await stream.receive())):
        pass
    limits = Limits(producer_window=16, subscriptions_max=1)
    await stream.send(node.send(Welcome(PROTOCOL_VERSION, "n1", "c", None, limits), 0))


@asynccontextmanager
async def node_at(
    monkeypatch: pytest.MonkeyPatch, *, round_trip_s: float = 0.0, tls: ssl.SSLContext | None, silent_at: str = ""
) -> AsyncIterator[None]:
    """Whoever connects reaches such a node; the system takes one round trip for it."""

    async def connect(*_: object) -> ByteStream:
        await anyio.sleep(math.inf if silent_at == "TCP" else round_trip_s)
        ours, theirs = line(round_trip_s=round_trip_s)
        tasks.start_soon(serve, theirs, tls, silent_at)
        return ours

    monkeypatch.setattr(TrioBackend, "connect_tcp", connect)
    async with anyio.create_task_group() as tasks:
        yield
        tasks.cancel_scope.cancel()


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def contexts(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """For the node and for the client."""
    if not request.param:
        return None, None
    authority = Authority(tmp_path / "ca")
    node, client = authority.issue("node", ADDRESS.host), authority.issue("client")
    return server_context(node), client_context(client)


async def test_a_node_half_a_second_away_is_reached(
    contexts: Any, monkeypatch: pytest.MonkeyPatch, autojump_clock: None
) -> None:
    for_node, for_client = contexts
    steps = 2 if for_client is None else 3
    async with node_at(monkeypatch, round_trip_s=LONG_S, tls=for_node):
        began = trio.current_time()
        link = await Link.open(ADDRESS, Timing(), for_client)
        assert link.welcome.node == "n1"
        assert trio.current_time() - began == pytest.approx(steps * LONG_S)
        await link.aclose()


@pytest.mark.parametrize(
    ("silent_at", "words"),
    [("TCP", "did not answer within"), ("TLS", "did not answer the TLS handshake"), ("hello", "did not answer within")],
)
async def test_a_node_that_does_not_answer_is_given_up_at_its_first_silence(
    silent_at: str, words: str, contexts: Any, monkeypatch: pytest.MonkeyPatch, autojump_clock: None
) -> None:
    for_node, for_client = contexts
    if for_client is None and silent_at == "TLS":
        pytest.skip("no such step")
    async with node_at(monkeypatch, tls=for_node, silent_at=silent_at):
        began = trio.current_time()
        with pytest.raises(LinkLost, match=words):
            await Link.open(ADDRESS, Timing(), for_client)
        assert trio.current_time() - began == pytest.approx(Timing().connect_s)
