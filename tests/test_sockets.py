"""Reading a socket by the shortest way gives and raises what its stream does."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
import trio.testing

from lanyinglog.sockets import receiver_of

pytestmark = pytest.mark.trio


async def _connected() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of one TCP connection."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
    far = await listener.accept()
    await listener.aclose()
    return near, far


async def test_what_was_sent_comes_in_order_then_the_end() -> None:
    near, far = await _connected()
    async with near, far:
        receive = receiver_of(far)
        await near.send_all(b"one two")
        assert await receive(3) == b"one"
        assert await receive(100) == b" two"
        await near.send_eof()
        assert await receive(100) == b""


async def test_it_waits_for_what_comes_later_and_can_be_cancelled() -> None:
    near, far = await _connected()
    async with near, far:
        receive = receiver_of(far)
        with trio.move_on_after(0) as scope:
            await receive(100)
        assert scope.cancelled_caught
        found: list[bytes | bytearray] = []

        async def take() -> None:
            found.append(await receive(100))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            await near.send_all(b"late")
        assert found == [b"late"]


async def test_a_reset_connection_is_broken() -> None:
    near, far = await _connected()
    async with far:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await near.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await receiver_of(far)(100)


async def test_a_socket_that_is_closed_meanwhile_or_before_is_closed() -> None:
    near, far = await _connected()
    async with near:
        receive = receiver_of(far)

        async def take() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await receive(100)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            await far.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await receive(100)


async def test_another_stream_reads_as_it_does() -> None:
    near, far = trio.testing.memory_stream_pair()
    await near.send_all(b"x")
    assert await receiver_of(far)(100) == b"x"
