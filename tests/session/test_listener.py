"""Accepting on real sockets: as many clients as fit, a word for the others, and the end when the node stops."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from memory_service import MemoryLogService
from session.dialogue import IDENTITY, Client, batch, fill

from lanyinglog import config
from lanyinglog.session import listener, serve_clients
from lanyinglog.wire.messages import Acked, Hello, to_frame

pytestmark = pytest.mark.trio


class Door:
    """Where to connect, and the way to stop."""

    def __init__(self, port: int, scope: trio.CancelScope) -> None:
        self.port = port
        self.scope = scope

    async def stranger(self) -> Client:
        return Client(await trio.open_tcp_stream("127.0.0.1", self.port))

    async def client(self) -> Client:
        client = await self.stranger()
        await client.hello()
        return client


@asynccontextmanager
async def door(service: MemoryLogService | None = None, **limits: int) -> AsyncIterator[Door]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    served = service or MemoryLogService()
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(
                serve_clients,
                listeners,
                {served.name: served},
                identity=IDENTITY,
                limits=config.Limits(**limits),
            )
        )
        yield Door(listeners[0].socket.getsockname()[1], nursery.cancel_scope)
        nursery.cancel_scope.cancel()


async def test_clients_are_served_over_tcp() -> None:
    service = MemoryLogService()
    fill(service, [batch(number, count=100) for number in range(1, 51)])
    async with door(service) as at:
        client, other = await at.client(), await at.client()
        await client.publish(batch(1, producer=2), 1, Acked)
        reader = await other.subscribe()
        assert [message.seq for message in await reader.until(5_001)] == list(range(1, 5_002))
        await client.stream.aclose()
        await other.stream.aclose()


async def test_one_client_too_many_is_told_so_until_another_leaves() -> None:
    async with door(connections_max=2) as at:
        first, second = await at.client(), await at.client()
        third = await at.stranger()
        error = await third.expect_error("busy", 0)
        assert "2 clients" in error.message
        await third.expect_end()
        await third.stream.aclose()
        assert await first.is_served()
        await second.stream.aclose()
        with trio.fail_after(5):
            while True:  # until the node has noticed
                fourth = await at.stranger()
                try:
                    await fourth.hello()
                    break
                except (AssertionError, trio.BrokenResourceError):
                    await fourth.stream.aclose()
        assert await fourth.is_served()
        for client in (first, fourth):
            await client.stream.aclose()


async def test_those_turned_away_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REFUSALS_MAX", 1)
    async with door(connections_max=1) as at:
        served = await at.client()
        told = await at.stranger()
        await told.expect_error("busy", 0)  # and it stays, to hear more
        untold = await at.stranger()
        await untold.expect_end()
        for client in (served, told, untold):
            await client.stream.aclose()


async def test_garbage_over_tcp_ends_its_connection_and_no_other() -> None:
    async with door() as at:
        good = await at.client()
        for junk in (b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", bytes(200_000), to_frame(Hello(), 0)[:-1] + b"\0"):
            bad = await at.stranger()
            await bad.stream.send_all(junk)
            await bad.expect_error("protocol", 0)
            await bad.expect_end()
            await bad.stream.aclose()
            assert await good.is_served()
        await good.stream.aclose()


async def test_a_reset_ends_its_connection_and_no_other() -> None:
    async with door() as at:
        good, bad = await at.client(), await at.client()
        await bad.subscribe()
        assert isinstance(bad.stream, trio.SocketStream)
        bad.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        bad.stream.socket.close()
        assert await good.is_served()
        await good.stream.aclose()


async def test_when_the_node_stops_each_client_hears_of_it_and_the_port_is_closed() -> None:
    async with door() as at:
        clients = [await at.client() for _ in range(3)]
        at.scope.cancel()
        with trio.CancelScope(shield=True):
            for client in clients:
                await client.expect_error("shutting_down", 0)
                await client.expect_end()
                await client.stream.aclose()
    with pytest.raises(OSError):
        await trio.open_tcp_stream("127.0.0.1", at.port)


async def test_a_slow_subscriber_over_tcp_is_read_no_further_than_its_buffers() -> None:
    service = MemoryLogService()
    fill(service, [batch(number, size=500_000) for number in range(1, 41)])  # 20 MB
    async with door(service) as at:
        slow, fast = await at.client(), await at.client()
        slow_reader = await slow.subscribe()
        reader = await fast.subscribe()
        assert len(await reader.until(40)) == 40
        total = service.read_calls
        assert total < 70  # 40 of the fast one, and as many of the slow one as the kernel's buffers take
        assert len(await slow_reader.until(40)) == 40
        assert service.read_calls > total
        for client in (slow, fast):
            await client.stream.aclose()
