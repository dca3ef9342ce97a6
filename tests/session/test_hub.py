"""The hub among clients of different speed: who does not read costs its own connection, and loses nothing (P2, P8)."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from memory_service import MemoryLogService
from session.dialogue import House, batch, fill, house, socket_pair

from lanyinglog.service import Page
from lanyinglog.session.hub import Hub

pytestmark = pytest.mark.trio


@pytest.fixture(autouse=True)
def over_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that take what fits and no more."""
    monkeypatch.setattr(House, "pair", staticmethod(socket_pair))


async def test_who_stops_reading_at_the_head_of_the_log_delays_nobody_and_misses_nothing() -> None:
    """Together the messages are many times what the system keeps for who does not read."""
    service = MemoryLogService()
    count, size = 40, 100_000
    async with house(service) as at:
        slow = await (await at.client()).subscribe()
        fast = [await (await at.client()).subscribe() for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, count + 1):
            fill(service, [batch(number, "t", size=size)])
            for reader in fast:
                assert [message.seq for message in await reader.messages(1)] == [number]
        assert [message.seq for message in await slow.messages(count)] == list(range(1, count + 1))
        fill(service, [batch(count + 1, "t")])
        for reader in [slow, *fast]:
            assert len(await reader.messages(1)) == 1, "all are at the head again"


async def test_a_log_without_subscribers_wakes_nobody_and_the_first_one_is_served() -> None:
    service = MemoryLogService()
    hub = Hub(service)
    looked: list[int] = []
    wait_beyond = service.wait_beyond

    async def watched(seq: int) -> None:
        looked.append(seq)
        await wait_beyond(seq)

    service.wait_beyond = watched  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        for number in range(1, 6):
            fill(service, [batch(number, "t")])
            await trio.testing.wait_all_tasks_blocked()
        assert looked == []
        follower = Idle(cursor=5)
        hub.add(follower)
        await trio.testing.wait_all_tasks_blocked()
        assert follower.pages == [], "it has read all there is"
        fill(service, [batch(6, "t")])
        await trio.testing.wait_all_tasks_blocked()
        assert follower.pages == [6]
        nursery.cancel_scope.cancel()


class Idle:
    """A follower that takes what it is given; ``pages``: through which seq each was."""

    request, filters, told = 1, (">",), 0

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self.pages: list[int] = []

    def deliver(self, page: Page, frame: bytes) -> bool:
        self.pages.append(page.through)
        self.cursor = page.through
        return True

    def rouse(self) -> None:
        raise AssertionError("it can be served")
