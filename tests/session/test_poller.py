"""One task waits for many sockets: each is served, in line, and only while it is on the list."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing

from lanyinglog.session.poller import SERVED_AT_ONCE, Poller

pytestmark = pytest.mark.trio


@contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """``count`` connections: the near ends are for the poller."""
    made = [socket.socketpair() for _ in range(count)]
    try:
        for near, _ in made:
            near.setblocking(False)
        yield made
    finally:
        for pair in made:
            for end in pair:
                end.close()


@asynccontextmanager
async def running() -> AsyncIterator[Poller]:
    poller = Poller()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        yield poller
        nursery.cancel_scope.cancel()


async def test_each_is_called_when_it_has_something_to_read_and_not_before() -> None:
    with pairs(3) as made:
        async with running() as poller:
            heard: list[tuple[int, bytes]] = []
            for place, (near, _) in enumerate(made):
                poller.add(near.fileno(), lambda _, at=place, end=near: heard.append((at, end.recv(100))))
            await trio.testing.wait_all_tasks_blocked()
            assert heard == []
            made[2][1].send(b"two")
            await trio.testing.wait_all_tasks_blocked()
            made[0][1].send(b"zero")
            await trio.testing.wait_all_tasks_blocked()
            assert heard == [(2, b"two"), (0, b"zero")]
            for near, _ in made:
                poller.discard(near.fileno())


async def test_who_does_not_read_all_is_called_again_but_after_the_others() -> None:
    count = 3 * SERVED_AT_ONCE
    with pairs(count) as made:
        async with running() as poller:
            calls: Counter[int] = Counter()
            most_ahead = 0

            def read_a_byte(place: int, end: socket.socket) -> None:
                nonlocal most_ahead
                assert end.recv(1)
                calls[place] += 1
                least = min(calls[other] for other in range(count))
                most_ahead = max(most_ahead, calls[place] - least)

            for place, (near, far) in enumerate(made):
                far.send(b"abc")
                poller.add(near.fileno(), lambda _, at=place, end=near: read_a_byte(at, end))
            await trio.testing.wait_all_tasks_blocked()
            assert calls == dict.fromkeys(range(count), 3)
            assert most_ahead == 1


async def test_others_run_between_two_helpings() -> None:
    count = 3 * SERVED_AT_ONCE  # so others, who run once a pass, run between the first and the last helping
    with pairs(count) as made:
        poller = Poller()
        served = 0

        def read(end: socket.socket) -> None:
            nonlocal served
            assert end.recv(100)
            served += 1

        for near, far in made:
            far.send(b"x")
            poller.add(near.fileno(), lambda _, end=near: read(end))
        seen: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            while served < count:
                await trio.lowlevel.checkpoint()
                seen.append(served)
            nursery.cancel_scope.cancel()
        assert {SERVED_AT_ONCE, 2 * SERVED_AT_ONCE} & set(seen)


async def test_the_end_and_a_reset_are_something_to_read() -> None:
    with pairs(2) as made:
        async with running() as poller:
            heard: list[int] = []

            def on_readable(place: int) -> None:
                heard.append(place)
                poller.discard(made[place][0].fileno())

            for place, (near, _) in enumerate(made):
                poller.add(near.fileno(), lambda _, at=place: on_readable(at))
            made[0][1].shutdown(socket.SHUT_WR)
            await trio.testing.wait_all_tasks_blocked()
            made[1][1].close()
            await trio.testing.wait_all_tasks_blocked()
            assert heard == [0, 1]


async def test_who_was_discarded_by_another_is_not_called() -> None:
    with pairs(2) as made:
        poller = Poller()
        heard: list[int] = []

        def on_readable(place: int) -> None:
            heard.append(place)
            for near, _ in made:
                poller.discard(near.fileno())

        for place, (near, far) in enumerate(made):
            far.send(b"x")
            poller.add(near.fileno(), lambda _, at=place: on_readable(at))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert len(heard) == 1


async def test_once_ended_it_takes_nobody_and_gives_up_everybody_without_a_word() -> None:
    with pairs(2) as made:
        async with running() as poller:
            poller.add(made[0][0].fileno(), pytest.fail)
            await trio.testing.wait_all_tasks_blocked()
        poller.discard(made[0][0].fileno())
        poller.add(made[1][0].fileno(), pytest.fail)
        poller.discard(made[1][0].fileno())
