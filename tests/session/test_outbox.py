"""The order in which things leave: replies before pushes, and no more of either than is bounded."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lanyinglog.session.outbox import Outbox

pytestmark = pytest.mark.trio


async def test_replies_leave_in_order_and_in_one_piece() -> None:
    outbox = Outbox(replies_bytes_max=100)
    for reply in (b"a", b"b", b"c"):
        outbox.put_reply(reply)
    assert await outbox.take() == b"abc"


async def test_replies_leave_before_the_push_that_waited_longer() -> None:
    outbox = Outbox(replies_bytes_max=100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.put_push, b"push")
        await trio.testing.wait_all_tasks_blocked()
        outbox.put_reply(b"reply")
        assert await outbox.take() == b"reply"
        assert await outbox.take() == b"push"


async def test_a_push_is_put_when_it_was_taken() -> None:
    outbox = Outbox(replies_bytes_max=100)
    done: list[bytes] = []

    async def put(push: bytes) -> None:
        await outbox.put_push(push)
        done.append(push)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, b"push")
        await trio.testing.wait_all_tasks_blocked()
        assert not done
        assert await outbox.take() == b"push"
        await trio.testing.wait_all_tasks_blocked()
        assert done == [b"push"]


async def test_a_push_that_was_withdrawn_does_not_leave() -> None:
    outbox = Outbox(replies_bytes_max=100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.put_push, b"push")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    outbox.put_reply(b"reply")
    outbox.finish()
    assert await outbox.take() == b"reply"
    assert await outbox.take() is None


async def test_room_is_waited_for_until_replies_are_taken() -> None:
    outbox = Outbox(replies_bytes_max=3)
    outbox.put_reply(b"ab")
    with trio.fail_after(1):
        await outbox.wait_room()
    outbox.put_reply(b"c")
    waited = False

    async def wait() -> None:
        nonlocal waited
        await outbox.wait_room()
        waited = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not waited
        await outbox.take()
    assert waited


async def test_a_writer_that_waits_hears_of_the_end() -> None:
    outbox = Outbox(replies_bytes_max=3)
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            assert await outbox.take() is None

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        outbox.finish()


class System:
    """Takes ``room`` bytes without waiting."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.got = b""

    def send_now(self, data: bytes) -> int:
        sent = min(self.room, len(data))
        self.room -= sent
        self.got += data[:sent]
        return sent


@pytest.mark.parametrize("room", range(17))
async def test_what_leaves_at_once_and_what_the_writer_sends_are_one_stream(room: int) -> None:
    system = System(room)
    outbox = Outbox(replies_bytes_max=100, send_now=system.send_now)

    async def write() -> None:
        while (chunk := await outbox.take()) is not None:
            system.got += chunk

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(4):
            outbox.put_reply(b"%d,." % number)
            await outbox.put_push(b"p%d." % number)
        outbox.finish()
    assert system.got == b"0,.p0.1,.p1.2,.p2.3,.p3."


async def test_replies_that_are_queued_leave_together_when_they_are_sent() -> None:
    system = System(100)
    outbox = Outbox(replies_bytes_max=100, send_now=system.send_now)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.take)
        await trio.testing.wait_all_tasks_blocked()
        outbox.queue_reply(b"a")
        outbox.queue_reply(b"b")
        await trio.testing.wait_all_tasks_blocked()
        assert system.got == b""
        assert not outbox.try_push(b"push")  # it would overtake them
        outbox.send_replies()
        assert system.got == b"ab"
        outbox.send_replies()  # there are none
        assert outbox.try_push(b"push")
        assert system.got == b"abpush"
        outbox.finish()


async def test_replies_that_the_system_does_not_take_make_no_room_until_the_writer_has_them() -> None:
    system = System(0)
    outbox = Outbox(replies_bytes_max=2, send_now=system.send_now)
    async with trio.open_nursery() as nursery:
        taken: list[bytes | None] = []

        async def take() -> None:
            taken.append(await outbox.take())

        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        outbox.queue_reply(b"ab")
        outbox.send_replies()
        assert not outbox.has_room
        with trio.fail_after(1):
            await outbox.wait_room()
    assert taken == [b"ab"] and system.got == b""


async def test_nothing_overtakes_what_has_begun_to_leave() -> None:
    system = System(2)
    outbox = Outbox(replies_bytes_max=100, send_now=system.send_now)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.take)
        await trio.testing.wait_all_tasks_blocked()
        assert outbox.try_push(b"push")
        system.room = 100
        outbox.put_reply(b"reply")
        assert not outbox.try_push(b"another")
        assert system.got == b"pu"
        outbox.finish()
    assert await outbox.take() == b"reply"


async def test_a_push_that_does_not_begin_to_leave_is_not_sent() -> None:
    outbox = Outbox(replies_bytes_max=100, send_now=System(0).send_now)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.take)
        await trio.testing.wait_all_tasks_blocked()
        assert not outbox.try_push(b"push")
        outbox.finish()
