"""One write at a time beside a core that goes on turning; a full disk is waited out, a failing one ends the node."""

from __future__ import annotations

import errno
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from log.writers import WriterAtOnce

from lanyinglog import commit_loop
from lanyinglog.batcher import BatcherLimits, Ticket
from lanyinglog.commit_loop import CommitLoop
from lanyinglog.errors import CorruptEntry, StorageFull
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.raft.messages import Alive
from lanyinglog.raft.timing import Timing
from lanyinglog.record import encode_batch, encode_columns, parse_batch
from lanyinglog.store.log_store import Writes
from lanyinglog.store.memory import MemoryStore

pytestmark = pytest.mark.trio
WAIT_S = 20


class GatedStore(MemoryStore):
    """Takes a write and comes back when its gate is open, or as told: full, or broken."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.under_way = 0
        self.under_way_most = 0
        self.begun = 0

    def write(self, writes: Writes) -> None:
        self.under_way += 1
        self.begun += 1
        self.under_way_most = max(self.under_way, self.under_way_most)
        opened = self.gate.wait(WAIT_S)
        self.under_way -= 1
        assert opened
        if self.failure is not None:
            raise self.failure
        super().write(writes)


class Log:
    """A loop on a node of its own, and what its store does."""

    def __init__(self, limits: BatcherLimits, *, at_once: bool) -> None:
        self.store = GatedStore()
        core = LogCore(
            limits=limits,
            node="n1",
            members=Members.of({"n1": "n1:1"}),
            store=self.store,
            timing=Timing(),
            uniform=lambda low, high: low,
            now=trio.current_time(),
        )
        writer = WriterAtOnce(self.store) if at_once else None
        self.loop = CommitLoop(core=core, store=self.store, send=lambda to, message: None, writer=writer)
        self.producer = 0

    def submit(self) -> Ticket:
        self.producer += 1
        encoded = encode_batch(self.producer.to_bytes(16, "big"), 1, [encode_columns("t", [b"x"])])
        ticket = self.loop.core.submit(parse_batch(encoded), trio.current_time())
        self.loop.wake()
        return ticket

    @property
    def leads_at_rest(self) -> bool:
        """Whether its election is on disk, and nothing waits to be."""
        core = self.loop.core
        return core.replica.leads and not core.wants_write and not core.replica.journal.writing

    async def until(self, condition: Callable[[], bool]) -> None:
        """A thread brings it about: nobody tells."""
        while not condition():
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def running(limits: BatcherLimits | None = None, *, at_once: bool = False) -> AsyncIterator[Log]:
    log = Log(limits or BatcherLimits(), at_once=at_once)
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.loop.run)
            await log.until(lambda: log.leads_at_rest)
            try:
                yield log
            finally:
                log.store.gate.set()
            nursery.cancel_scope.cancel()


async def test_the_core_goes_on_turning_while_a_write_is_under_way() -> None:
    """What comes meanwhile waits together, and becomes the next entry."""
    async with running() as log:
        log.store.gate.clear()
        begun = log.store.begun
        tickets = [log.submit()]
        await log.until(lambda: log.store.begun > begun)
        for _ in range(3):
            tickets.append(log.submit())
            await log.loop.wait_turn()
        assert [ticket.result for ticket in tickets] == [None] * 4
        last_index = log.loop.core.replica.journal.last_index
        log.store.gate.set()
        assert [(await ticket.wait()).first_seq for ticket in tickets] == [1, 2, 3, 4]
        assert log.loop.core.replica.journal.last_index == last_index + 1
        assert log.store.under_way_most == 1


async def test_what_is_written_at_once_is_committed_when_the_turn_is_over() -> None:
    """And what waited for it meanwhile is the next entry: nobody else need come by."""
    async with running(at_once=True) as log:
        tickets = [log.submit(), log.submit()]
        log.loop.turn()
        assert [ticket.result is not None for ticket in tickets] == [True, True]
        tickets.append(log.submit())
        log.loop.heard()
        assert [(await ticket.wait()).first_seq for ticket in tickets] == [1, 2, 3]


async def test_others_have_their_turn_although_one_write_at_once_gives_rise_to_the_next_for_ever() -> None:
    async with running(at_once=True) as log:
        begun = log.store.begun
        log.loop.core.__class__ = Restless
        log.submit()
        for _ in range(5):
            await log.loop.wait_turn()
        assert log.store.begun > begun + 5


class Restless(LogCore):
    """Always has something to write."""

    @property
    def wants_write(self) -> bool:
        return not self.replica.journal.writing


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_full_disk_is_waited_out(monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    """The transaction that found no room is tried again; meanwhile publishes are declined for certain."""
    monkeypatch.setattr(commit_loop, "STORAGE_RETRY_S", 0.01)
    async with running(at_once=at_once) as log:
        before = log.submit()
        await before.wait()
        log.store.failure = StorageFull("no room")
        ticket = log.submit()
        await log.until(lambda: log.loop.core.storage_full)
        with pytest.raises(StorageFull):
            log.submit()
        page = log.loop.core.tail.read(after=0, matches=lambda topic: True, purged={}, messages_max=9, bytes_max=9_000)
        assert page.messages == 1, "what is there can be read"
        assert ticket.result is None
        log.store.failure = None
        assert (await ticket.wait()).first_seq == 2
        assert not log.loop.core.storage_full
        assert (await log.submit().wait()).first_seq == 3


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_disk_that_fails_ends_the_loop_and_acknowledges_nothing(at_once: bool) -> None:
    """A later sync could succeed with the data gone: the truth is on the peers."""
    tickets: list[Ticket] = []
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="rotten"), flatten_subgroups=True):
        async with running(at_once=at_once) as log:
            log.store.failure = OSError(errno.EIO, "rotten")
            tickets.append(log.submit())
            await trio.sleep_forever()
    assert tickets[0].result is None


async def test_readers_are_woken_when_there_is_something_to_read() -> None:
    async with running() as log:
        woken: list[int] = []

        async def reader() -> None:
            await log.loop.wait_moved()
            woken.append(log.loop.core.tail.last_seq)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            log.submit()
        assert woken == [1]


async def test_reading_from_peers_waits_for_a_disk_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was received and is not on disk is bounded (P8)."""
    monkeypatch.setattr(commit_loop, "UNWRITTEN_BYTES_MAX", 50)
    async with running() as log:
        await log.loop.wait_unwritten()
        log.store.gate.clear()
        begun = log.store.begun
        log.submit()
        await log.until(lambda: log.store.begun > begun)
        with trio.move_on_after(0.05) as waited:
            await log.loop.wait_unwritten()
        assert waited.cancelled_caught, "the disk is behind"
        log.store.gate.set()
        await log.loop.wait_unwritten()


class WriterByHand:
    """Begins writes as told: not at all, or to end when the test says so."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.refuses = False
        self.holds = False
        self._held: list[Callable[[], None]] = []

    def write_at_once(self, writes: Writes) -> bool:
        return False

    def begin(self, writes: Writes, ended: Callable[[BaseException | None], None]) -> None:
        if self.refuses:
            raise RuntimeError("can't start new thread")
        self._store.write(writes)
        if self.holds:
            self._held.append(lambda: ended(None))
        else:
            trio.lowlevel.current_trio_token().run_sync_soon(ended, None)

    def let_go(self) -> None:
        self.holds = False
        self._held.pop()()


async def test_a_write_that_can_not_begin_ends_the_loop_whoever_wanted_it() -> None:
    """It was wanted in the task of a client, to whom it is nothing: the node may not go on leading without a disk."""
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="new thread"), flatten_subgroups=True):
        async with running() as log:
            writer = log.loop._writer = WriterByHand(log.store)
            writer.refuses = True
            log.submit()
            log.loop.turn()
            await trio.sleep_forever()


async def test_what_a_message_breaks_ends_the_loop_and_not_the_link() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(CorruptEntry), flatten_subgroups=True):
        async with running() as log:

            def breaks(*_: object) -> None:
                raise CorruptEntry("entry 3 fails its CRC32C")

            log.loop.core.receive = breaks  # type: ignore[method-assign]
            log.loop.receive("n2", Alive(1))
            await trio.sleep_forever()


async def test_a_failure_in_the_moment_of_a_stop_is_told_and_nothing_more_is_written() -> None:
    log = Log(BatcherLimits(), at_once=False)

    def breaks(*_: object) -> None:
        raise CorruptEntry("entry 3 fails its CRC32C")

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.loop.run)
            await log.until(lambda: log.leads_at_rest)
            nursery.cancel_scope.cancel()
            log.loop.core.advance = breaks  # type: ignore[method-assign]
            log.loop.turn(due=True)  # what a link does in the same pass
        begun = log.store.begun
        with pytest.raises(CorruptEntry):
            await log.loop.finish()
    assert log.store.begun == begun


async def test_who_waits_for_room_is_woken_although_no_turn_saw_that_there_was_none() -> None:
    """The queue fills and drains between two turns; what drains are repeats, so that nothing new can be read either."""
    async with running(BatcherLimits(room_bytes_max=100_000, entry_bytes_max=60_000)) as log:
        writer = log.loop._writer = WriterByHand(log.store)
        batches = [
            parse_batch(encode_batch(b"p" * 16, number, [encode_columns("t", [b"x" * 20_000])]))
            for number in range(1, 9)
        ]
        for batch in batches:
            ticket = log.loop.core.submit(batch, trio.current_time())
            log.loop.turn()
            await ticket.wait()
        await log.until(lambda: log.leads_at_rest)
        writer.holds = True
        for batch in batches:
            log.loop.core.submit(batch, trio.current_time())
            if log.loop.core.may_propose:
                log.loop.turn()
        woken = trio.Event()

        async def wait_room() -> None:
            while not log.loop.core.batcher.has_room:
                await log.loop.wait_moved()
            woken.set()

        async with trio.open_nursery() as nursery:
            assert not log.loop.core.batcher.has_room
            nursery.start_soon(wait_room)
            await trio.testing.wait_all_tasks_blocked()
            writer.let_go()
            with trio.fail_after(2):
                await woken.wait()
