"""One task reads many sockets: each in its turn, and only while it is on the list."""

from __future__ import annotations

import select
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest
import trio
import trio.testing

from lanyinglog.session import poller as poller_module
from lanyinglog.session.poller import Poller

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


async def test_each_is_read_when_it_has_something_and_not_before() -> None:
    with pairs(3) as made:
        async with running() as poller:
            heard: list[tuple[int, object]] = []
            for place, (near, _) in enumerate(made):
                poller.add(near.fileno(), lambda received, _, at=place: heard.append((at, received)))
            await trio.testing.wait_all_tasks_blocked()
            assert heard == []
            made[2][1].send(b"two")
            await trio.testing.wait_all_tasks_blocked()
            made[0][1].send(b"zero")
            await trio.testing.wait_all_tasks_blocked()
            assert heard == [(2, b"two"), (0, b"zero")]
            for near, _ in made:
                poller.discard(near.fileno())


@pytest.mark.parametrize("at_once", [1, 2, 5])
async def test_whoever_has_more_is_read_again_but_after_the_others(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """However few reads fill what may be read before others run."""
    piece = 16
    monkeypatch.setattr(poller_module, "RECEIVE_BYTES", piece)
    monkeypatch.setattr(poller_module, "READ_BYTES_AT_ONCE", at_once * piece)
    monkeypatch.setattr(poller_module, "READ_AT_ONCE", 4)
    count = 11
    with pairs(count) as made:
        async with running() as poller:
            calls: Counter[int] = Counter()
            most_ahead = 0

            def take(place: int, received: bytes | OSError) -> None:
                nonlocal most_ahead
                assert received == b"%x" % place * piece
                calls[place] += 1
                least = min(calls[other] for other in range(count))
                most_ahead = max(most_ahead, calls[place] - least)

            for place, (near, far) in enumerate(made):
                far.send(b"%x" % place * piece * 3)
                poller.add(near.fileno(), lambda received, _, at=place: take(at, received))
            await trio.testing.wait_all_tasks_blocked()
            assert calls == dict.fromkeys(range(count), 3)
            assert most_ahead == 1


@pytest.mark.parametrize("bound", ["sockets", "bytes"])
async def test_others_run_between_two_helpings(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    helping = 7
    if bound == "bytes":
        monkeypatch.setattr(poller_module, "READ_BYTES_AT_ONCE", helping * 100)
    else:
        monkeypatch.setattr(poller_module, "READ_AT_ONCE", helping)
    count = 3 * helping  # so others, who run once a pass, run between the first and the last helping
    with pairs(count) as made:
        poller = Poller()
        served = 0

        def take(received: bytes | OSError, _: float) -> None:
            nonlocal served
            assert received == b"x" * 100
            served += 1

        for near, far in made:
            far.send(b"x" * 100)
            poller.add(near.fileno(), take)
        seen: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            while served < count:
                await trio.lowlevel.checkpoint()
                seen.append(served)
            nursery.cancel_scope.cancel()
        assert {helping, 2 * helping} & set(seen)
        assert not [one for one in seen if one % helping]


async def test_all_are_read_before_the_first_is_heard() -> None:
    with pairs(3) as made:
        async with running() as poller:
            unread: list[bool] = []

            def take(received: bytes | OSError, _: float) -> None:
                assert received == b"x"
                unread.append(any(select.select([near for near, _ in made], [], [], 0)[0]))

            for near, far in made:
                far.send(b"x")
                poller.add(near.fileno(), take)
            await trio.testing.wait_all_tasks_blocked()
            assert unread == [False, False, False]


async def test_the_end_and_a_reset_are_told() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ends = []
    with listener:
        for _ in range(2):
            far = socket.create_connection(listener.getsockname())
            near, _ = listener.accept()
            near.setblocking(False)
            ends.append((near, far))
    async with running() as poller:
        heard: list[tuple[int, object]] = []

        def take(place: int, received: bytes | OSError) -> None:
            heard.append((place, received if isinstance(received, bytes) else type(received)))
            poller.discard(ends[place][0].fileno())

        for place, (near, _) in enumerate(ends):
            poller.add(near.fileno(), lambda received, _, at=place: take(at, received))
        ends[0][1].shutdown(socket.SHUT_WR)
        await trio.testing.wait_all_tasks_blocked()
        ends[1][1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ends[1][1].close()
        await trio.testing.wait_all_tasks_blocked()
        assert heard == [(0, b""), (1, ConnectionResetError)]
    for pair in ends:
        for end in pair:
            end.close()


async def test_who_was_discarded_by_another_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its bytes were read already, as those of the second, or not, as those of the third."""
    monkeypatch.setattr(poller_module, "READ_BYTES_AT_ONCE", 2)
    with pairs(3) as made:
        poller = Poller()
        heard: list[int] = []

        def take(place: int) -> None:
            heard.append(place)
            for near, _ in made:
                poller.discard(near.fileno())

        for place, (near, far) in enumerate(made):
            far.send(b"x")
            poller.add(near.fileno(), lambda _, __, at=place: take(at))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert len(heard) == 1
        assert len(select.select([near for near, _ in made], [], [], 0)[0]) == 1


async def test_who_is_new_at_a_descriptor_does_not_get_what_was_read_for_the_one_before() -> None:
    with pairs(2) as made:
        poller = Poller()
        heard: list[object] = []

        def first(received: bytes | OSError, _: float) -> None:
            heard.append(received)
            for near, _far in made:  # whichever of the two was read first takes the other's place away
                poller.discard(near.fileno())
                poller.add(near.fileno(), second)

        def second(received: bytes | OSError, _: float) -> None:
            heard.append((received, "second"))

        for near, far in made:
            far.send(b"x")
            poller.add(near.fileno(), first)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            await trio.testing.wait_all_tasks_blocked()
            made[1][1].send(b"y")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert heard == [b"x", (b"y", "second")]


async def test_what_the_system_took_for_readable_and_is_not_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of a socket, and before that is read another may have got its number."""
    monkeypatch.setattr(poller_module, "READ_BYTES_AT_ONCE", 1)  # one a pass
    with pairs(2) as made:
        async with running() as poller:
            heard: list[object] = []
            for near, far in made:
                far.send(b"x")

                def take(received: bytes | OSError, _: float) -> None:
                    heard.append(received)
                    for other, _far in made:
                        with suppress(BlockingIOError):
                            other.recv(100)  # as if it were somebody else's by now

                poller.add(near.fileno(), take)
            await trio.testing.wait_all_tasks_blocked()
            assert heard == [b"x"]
            made[0][1].send(b"again")
            await trio.testing.wait_all_tasks_blocked()
            assert heard == [b"x", b"again"]


async def test_once_ended_it_takes_nobody_and_gives_up_everybody_without_a_word() -> None:
    with pairs(2) as made:
        async with running() as poller:
            poller.add(made[0][0].fileno(), pytest.fail)
            await trio.testing.wait_all_tasks_blocked()
        poller.discard(made[0][0].fileno())
        poller.add(made[1][0].fileno(), pytest.fail)
        poller.discard(made[1][0].fileno())
