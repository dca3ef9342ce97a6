"""Reading and writing a socket by the shortest way gives and raises what its stream does."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
import trio.testing

from lanyinglog.sockets import Strangers, left, receiver_of, sender_of, why_broken, writer_of

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


async def test_what_is_written_arrives_whole_however_slowly_it_is_taken() -> None:
    near, far = await _connected()
    data = bytes(range(256)) * (64 << 10)  # 16 MiB: more than the system buffers
    taken = bytearray()
    async with near, far, trio.open_nursery() as nursery:
        nursery.start_soon(writer_of(near), data)
        await trio.testing.wait_all_tasks_blocked()
        while len(taken) < len(data):
            taken += await far.receive_some(300_000)
    assert taken == data


async def test_writing_can_be_cancelled_while_it_waits() -> None:
    near, far = await _connected()
    async with near, far:
        with trio.move_on_after(0.01) as scope:
            await writer_of(near)(bytes(16 << 20))
        assert scope.cancelled_caught


async def test_writing_to_who_is_gone_is_broken_and_to_what_was_closed_is_closed() -> None:
    near, far = await _connected()
    async with near:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            for _ in range(10):
                await writer_of(near)(b"x" * 1_000)
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await writer_of(near)(b"x")


async def test_writing_ends_when_the_socket_is_closed_under_it() -> None:
    near, far = await _connected()
    async with far, trio.open_nursery() as nursery:

        async def write() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await writer_of(near)(bytes(16 << 20))

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        await near.aclose()


async def test_a_stream_that_is_no_socket_writes_by_itself() -> None:
    near, far = trio.testing.memory_stream_pair()
    await writer_of(near)(b"words")
    assert await far.receive_some() == b"words"


async def test_parts_arrive_as_one_however_they_are_cut() -> None:
    near, far = await _connected()
    parts = [b"head", b"", bytes(range(256)) * (16 << 10), memoryview(b"x" * 1_000_000), b"tail"]
    taken = bytearray()
    async with near, far, trio.open_nursery() as nursery:
        send_now = sender_of(near)
        assert send_now is not None
        rest = left(parts, send_now(*parts))
        assert rest, "the system takes less than all of it"
        nursery.start_soon(writer_of(near), *rest)
        while len(taken) < sum(map(len, parts)):
            taken += await far.receive_some(300_000)
    assert taken == b"".join(parts)


@pytest.mark.parametrize("taken", range(8))
async def test_what_is_left_begins_behind_what_was_taken(taken: int) -> None:
    parts = [b"ab", b"", b"cde", memoryview(b"fg")]
    assert b"".join(left(parts, taken)) == b"abcdefg"[taken:]


async def test_the_reason_of_a_failed_connection_is_the_systems() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(OSError, match="all attempts") as caught:
        await trio.open_tcp_stream("127.0.0.1", port)
    assert why_broken(caught.value) == "Connection refused"


async def test_a_reason_is_found_behind_what_wraps_it() -> None:
    broken = trio.BrokenResourceError()
    broken.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    assert why_broken(broken) == "Connection reset by peer"
    assert why_broken(trio.TooSlowError()) == "it did not answer in time"
    assert why_broken(trio.ClosedResourceError()) == "ClosedResourceError"


async def test_of_too_many_strangers_the_oldest_makes_room(autojump_clock: trio.testing.MockClock) -> None:
    strangers, ended = Strangers(most=2, within_s=10.0), []

    async def stay(name: str) -> None:
        try:
            with strangers.one_more():
                await trio.sleep_forever()
        except trio.TooSlowError:
            ended.append((name, trio.current_time()))

    async with trio.open_nursery() as nursery:
        started = trio.current_time()
        for name in ("first", "second", "third"):
            nursery.start_soon(stay, name)
            await trio.sleep(1)
        with strangers.one_more():
            pass  # who is quick gets through, and its place is free again
        nursery.start_soon(stay, "fourth")
    assert [(name, round(at - started)) for name, at in ended] == [
        ("first", 2),
        ("second", 3),
        ("third", 12),
        ("fourth", 13),
    ]
