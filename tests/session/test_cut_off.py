"""A node that hears no leader serves what it has and keeps nobody waiting for what may never come to it."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from memory_service import MemoryLogService
from session.dialogue import FIRST, NEW, PLENTY, batch, fill, house

from lanyinglog.session.hub import CUT_OFF_CHECK_S
from lanyinglog.wire.messages import Origin, Start, Subscribe

pytestmark = [pytest.mark.trio, pytest.mark.usefixtures("streams")]


def three_messages() -> MemoryLogService:
    service = MemoryLogService()
    fill(service, [batch(1, ["a", "b", "b"])])
    return service


@pytest.mark.parametrize("filters", [(">",), ("a",), ("c",)], ids=["all", "some", "none"])
async def test_who_waits_for_new_messages_is_told_what_there_was_and_sent_away(
    filters: tuple[str, ...], autojump_clock: trio.testing.MockClock
) -> None:
    service = three_messages()
    async with house(service) as at:
        reader = await (await at.client()).subscribe(*filters)
        await reader.until(3)
        fill(service, [batch(2, "b")])
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        service.cut_off = True
        await reader.until(4)  # also where it was only looked through: who reads until there is done
        error = await reader.client.expect_error("no_leader", 7)
        assert "hears no leader" in error.message
        assert trio.current_time() <= began + 1.01 * CUT_OFF_CHECK_S
        assert await reader.client.is_served(), "the connection goes on"


async def test_history_is_served_to_its_end_first() -> None:
    service = three_messages()
    service.cut_off = True
    async with house(service) as at:
        reader = await (await at.client()).subscribe(messages=1)
        assert [message.seq for message in await reader.messages(1)] == [1]
        await reader.give(PLENTY, PLENTY)
        assert [message.seq for message in await reader.until(3)] == [2, 3]
        await reader.client.expect_error("no_leader", 7)


STARTS = {"new": NEW, "first, of nothing": FIRST, "a seq that it lacks": Start(Origin.SEQ, 4)}
STARTS["a time that it lacks"] = Start(Origin.TIME, 1 << 62)


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
async def test_who_would_get_nothing_is_refused_at_once(start: Start) -> None:
    service = MemoryLogService() if start is FIRST else three_messages()
    service.cut_off = True
    async with house(service) as at:
        client = await at.client()
        await client.send(Subscribe((">",), start, PLENTY, PLENTY), 7)
        await client.expect_error("no_leader", 7)
        service.cut_off = False
        reader = await client.subscribe(start=start)
        fill(service, [batch(2 if service.last_seq else 1, "a")])
        await reader.messages(1)
