"""The hub among clients of different speed: who does not read costs its own connection, and loses nothing (P2, P8)."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from memory_service import MemoryLogService
from session.dialogue import House, batch, fill, house, socket_pair

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
