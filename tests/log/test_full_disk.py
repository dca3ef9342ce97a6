"""A node whose disk is full declines what is new, finishes what it has begun, and sees by itself when there is room."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from lanyinglog import commit_loop, record
from lanyinglog.batcher import Ticket
from lanyinglog.commit_loop import CommitLoop
from lanyinglog.errors import Outcome, StorageFull
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.node import FULL_LOOK_S, FULL_PAUSE_S, step_aside_when_full
from lanyinglog.raft.timing import Timing
from lanyinglog.store.log_store import Writes
from lanyinglog.store.memory import MemoryDisk, MemoryStore

pytestmark = pytest.mark.trio


class SmallStore(MemoryStore):
    """``reserve`` says whether there is room to spare, ``room`` whether there is any."""

    reserve = True
    room = True
    tried = 0

    def write(self, writes: Writes) -> None:
        self.tried += 1
        if not self.room:
            raise StorageFull("no room")
        super().write(writes)

    def has_room(self) -> bool:
        return self.reserve


def _loop(store: MemoryStore) -> CommitLoop:
    core = LogCore(
        node="n1",
        members=Members.of({"n1": "n1:1"}),
        store=store,
        timing=Timing(),
        uniform=lambda low, high: low,
        now=trio.current_time(),
    )
    return CommitLoop(core=core, store=store, send=lambda to, message: None)


async def _lead(loop: CommitLoop) -> None:
    while not loop.core.replica.leads:
        await loop.wait_turn()


def _submit(loop: CommitLoop) -> Ticket:
    batch = record.encode_batch(os.urandom(16), 1, [record.encode_columns("t", [b"x"])])
    ticket = loop.core.submit(record.parse_batch(batch), trio.current_time())
    loop.wake()
    return ticket


async def test_what_is_under_way_lives_on_the_reserve() -> None:
    store = SmallStore(MemoryDisk())
    loop = _loop(store)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            await _lead(loop)
            store.reserve = False
            under_way = _submit(loop)
            ack = await under_way.wait()
            assert ack.first_seq == 1  # written, though there is nothing to spare
            while not loop.core.storage_full:
                await loop.wait_turn()
            with pytest.raises(StorageFull) as caught:
                _submit(loop)
            assert caught.value.outcome is Outcome.DEFINITE
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("any_room", [True, False], ids=["a reserve in use", "no room at all"])
async def test_room_is_seen_though_nothing_is_published(any_room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_loop, "STORAGE_RETRY_S", 0.01)
    store = SmallStore(MemoryDisk())
    loop = _loop(store)
    with trio.fail_after(10):
        await _fill_and_free(loop, store, any_room=any_room)


async def _fill_and_free(loop: CommitLoop, store: SmallStore, *, any_room: bool) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run)
        await _lead(loop)
        store.reserve, store.room = False, any_room
        _submit(loop)
        while not loop.core.storage_full:
            await loop.wait_turn()
        tried = store.tried
        while store.tried < tried + 3:
            await loop.wait_turn()
            assert loop.core.storage_full
        store.reserve = store.room = True
        while loop.core.storage_full:
            await loop.wait_turn()
        assert (await _submit(loop).wait()).count == 1
        nursery.cancel_scope.cancel()


@dataclass
class _Core:
    storage_full: bool = False


@dataclass
class _Loop:
    core: _Core


class _Hosted:
    """A log that another node would take over; when it was asked to."""

    def __init__(self) -> None:
        self.leads = True
        self.handed_over: list[float] = []

    def best_successor(self) -> str | None:
        return "n2" if self.leads else None

    async def transfer(self, to: str) -> str:
        self.handed_over.append(trio.current_time())
        return to


async def test_a_leader_without_room_lets_another_lead(autojump_clock: trio.testing.MockClock) -> None:
    loop, hosted = _Loop(_Core()), _Hosted()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(step_aside_when_full, loop, hosted)
        await trio.sleep(60)
        assert hosted.handed_over == []
        loop.core.storage_full = True
        await trio.sleep(2 * FULL_LOOK_S)
        assert len(hosted.handed_over) == 1
        await trio.sleep(3 * FULL_PAUSE_S)  # it leads again, or still: not without a pause
        assert 2 <= len(hosted.handed_over) <= 4
        hosted.leads = False
        asked = len(hosted.handed_over)
        await trio.sleep(60)
        assert len(hosted.handed_over) == asked
        nursery.cancel_scope.cancel()
