"""A clean shutdown loses nothing of what was begun, and leaves a checkpoint of all that was applied."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from lanyinglog import record
from lanyinglog.commit_loop import CommitLoop
from lanyinglog.errors import StorageFull
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.raft.timing import Timing
from lanyinglog.store.log_store import Writes
from lanyinglog.store.memory import MemoryDisk, MemoryStore

pytestmark = pytest.mark.trio


class FullStore(MemoryStore):
    """Has no room while ``full``; tells when a write was tried."""

    full = False

    def write(self, writes: Writes) -> None:
        if self.full:
            raise StorageFull("no room")
        super().write(writes)


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


def _submit(loop: CommitLoop) -> None:
    batch = record.encode_batch(os.urandom(16), 1, [record.encode_columns("t", [b"x"])])
    loop.core.submit(record.parse_batch(batch), trio.current_time())
    loop.wake()


@pytest.mark.parametrize("full", [False, True], ids=["in the middle of a write", "while the disk is full"])
async def test_a_stop_finishes_the_write_under_way(full: bool) -> None:
    store = FullStore(MemoryDisk())
    loop = _loop(store)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            await _lead(loop)
            store.full = full
            _submit(loop)
            await loop.wait_turn()
            if full:
                while not loop.core.storage_full:
                    await loop.wait_turn()
            nursery.cancel_scope.cancel()
        store.full = False
        await loop.finish()
    assert store.bounds()[1] == loop.core.replica.journal.last_index
    assert store.applied() == loop.core.machine.applied
