"""Tickets against a model: whatever happens in whatever order, each is settled once, rightly, and within its bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from raft.cluster import batch

from lanyinglog.batcher import Batcher, BatcherLimits, Proposal, Result, Ticket
from lanyinglog.errors import Busy, NotLeader, OutcomeUnknown
from lanyinglog.service import Ack

ONE = batch(1, 1)
SIZE = len(ONE.encoded)
LIMITS = BatcherLimits(
    waiting_bytes_max=20 * SIZE,
    waiting_batches_max=12,
    room_bytes_max=10 * SIZE,
    room_batches_max=6,
    entry_bytes_max=4 * SIZE,
    entry_batches_max=3,
    entries_in_flight_max=2,
    pipelined_bytes_min=3 * SIZE,
    deadline_s=10.0,
)


@dataclass(eq=False)
class Expected:
    """A batch, and what its ticket must say: None as long as it must say nothing."""

    ticket: Ticket
    size: int
    says: type | Result | None = None

    def end(self, says: type | Result) -> None:
        if self.says is None:
            self.says = says


class Model(RuleBasedStateMachine):
    """What waits, what is in flight, and how each batch has to end."""

    def __init__(self) -> None:
        super().__init__()
        self.batcher = Batcher(LIMITS)
        self.now = 100.0
        self.index, self.term = 2, 1
        self.waiting: list[Expected] = []
        self.in_flight: dict[int, list[Expected]] = {}
        self.all: list[Expected] = []

    @rule(count=st.integers(1, 5), messages=st.integers(1, 40))
    def submit(self, count: int, messages: int) -> None:
        for _ in range(count):
            view = batch(1, 1, *[b"x"] * messages)
            size = len(view.encoded)
            full = (
                sum(one.size for one in self.waiting) + size > LIMITS.waiting_bytes_max
                or len(self.waiting) >= LIMITS.waiting_batches_max
            )
            if full:
                with pytest.raises(Busy):
                    self.batcher.submit(view, self.now)
                return
            expected = Expected(self.batcher.submit(view, self.now), size)
            self.waiting.append(expected)
            self.all.append(expected)

    def take(self) -> tuple[Proposal, list[Expected]]:
        proposal = self.batcher.take()
        taken = self.waiting[: len(proposal.tickets)]
        del self.waiting[: len(proposal.tickets)]
        assert list(proposal.tickets) == [one.ticket for one in taken], "in the order in which they came"
        assert 1 <= len(taken) <= LIMITS.entry_batches_max
        assert sum(one.size for one in taken[:-1]) < LIMITS.entry_bytes_max, "it ends with the batch that fills it"
        return proposal, taken

    @precondition(lambda self: self.batcher.may_propose)
    @rule()
    def propose(self) -> None:
        proposal, taken = self.take()
        self.index += 1
        self.batcher.proposed(self.index, self.term, proposal)
        self.in_flight[self.index] = taken

    @precondition(lambda self: self.batcher.may_propose)
    @rule()
    def propose_in_vain(self) -> None:
        proposal, taken = self.take()
        self.batcher.refused(proposal, hint=None)
        for one in taken:
            one.end(NotLeader)

    @precondition(lambda self: self.in_flight)
    @rule(duplicate=st.booleans())
    def commit(self, duplicate: bool) -> None:
        index = min(self.in_flight)
        taken = self.in_flight.pop(index)
        results = [Ack(10 * index + place, 1, 1, duplicate) for place in range(len(taken))]
        self.batcher.applied(index, self.term, results)
        for one, result in zip(taken, results, strict=True):
            one.end(result)

    @precondition(lambda self: self.in_flight)
    @rule()
    def another_leaders_entry_is_committed_there(self) -> None:
        index = min(self.in_flight)
        self.batcher.applied(index, self.term + 1, [])
        for one in self.in_flight.pop(index):
            one.end(OutcomeUnknown)

    @rule()
    def an_entry_of_nobodys_is_committed(self) -> None:
        self.batcher.applied(1, self.term, [])

    @rule()
    def lose_leadership(self) -> None:
        self.batcher.lose_leadership(hint=None)
        self.term += 2
        for taken in self.in_flight.values():
            for one in taken:
                one.end(OutcomeUnknown)
        for one in self.waiting:
            one.end(NotLeader)
        self.in_flight.clear()
        self.waiting.clear()

    @rule(seconds=st.floats(0.1, 6.0))
    def expire(self, seconds: float) -> None:
        self.now += seconds
        self.batcher.expire(self.now)
        while self.waiting and self.waiting[0].ticket.expires_at <= self.now:
            self.waiting.pop(0).end(Busy)
        for taken in self.in_flight.values():
            if taken[-1].ticket.expires_at <= self.now:
                for one in taken:
                    one.end(OutcomeUnknown)

    @invariant()
    def every_ticket_says_what_it_must(self) -> None:
        for one in self.all:
            if isinstance(one.says, type):
                assert type(one.ticket.result) is one.says
            else:
                assert one.ticket.result is one.says

    @invariant()
    def bounds_hold(self) -> None:
        waiting_bytes = sum(one.size for one in self.waiting)
        assert len(self.in_flight) <= LIMITS.entries_in_flight_max
        if not self.in_flight:
            assert self.batcher.may_propose == bool(self.waiting)
        else:
            worth_it = waiting_bytes >= LIMITS.pipelined_bytes_min
            assert self.batcher.may_propose == (worth_it and len(self.in_flight) < LIMITS.entries_in_flight_max)
        room = waiting_bytes <= LIMITS.room_bytes_max and len(self.waiting) <= LIMITS.room_batches_max
        assert self.batcher.has_room == room

    def teardown(self) -> None:
        """At the end of leadership nobody waits."""
        self.lose_leadership()
        self.every_ticket_says_what_it_must()
        assert all(one.ticket.result is not None for one in self.all)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


# -------------------------------------------------------------------------------------------------------- one ticket
ACK = Ack(1, 1, 1)


def test_the_first_word_counts() -> None:
    ticket = Ticket(10.0, {})
    ticket.settle(ACK)
    ticket.settle(OutcomeUnknown("too late"))
    assert ticket.result is ACK


@pytest.mark.trio
@pytest.mark.parametrize("before", [True, False], ids=["settled before it is waited for", "settled later"])
async def test_whoever_waits_gets_the_result(before: bool) -> None:
    ticket = Ticket(10.0, {})
    got: list[Ack] = []

    async def wait() -> None:
        got.append(await ticket.wait())

    if before:
        ticket.settle(ACK)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert got == ([ACK, ACK] if before else [])
        ticket.settle(ACK)
    assert got == [ACK, ACK]


@pytest.mark.trio
async def test_an_error_is_raised_to_who_waits() -> None:
    ticket = Ticket(10.0, {})
    ticket.settle(Busy("later"))
    with pytest.raises(Busy):
        await ticket.wait()


@pytest.mark.parametrize(
    ("limits", "submits"),
    [
        (BatcherLimits(waiting_bytes_max=3 * SIZE), 3),
        (BatcherLimits(waiting_bytes_max=4 * SIZE - 1), 3),
        (BatcherLimits(waiting_batches_max=2), 2),
    ],
    ids=["bytes", "bytes, one short", "batches"],
)
def test_what_waits_is_bounded(limits: BatcherLimits, submits: int) -> None:
    batcher = Batcher(limits)
    for _ in range(submits):
        batcher.submit(ONE, 0.0)
    with pytest.raises(Busy):
        batcher.submit(ONE, 0.0)
    batcher.take()
    batcher.submit(ONE, 0.0)


def _first_lost(batcher: Batcher) -> None:
    batcher.expire(1e9)


def _leadership_lost(batcher: Batcher) -> None:
    batcher.lose_leadership(hint=None)


@pytest.mark.parametrize("empty", [_first_lost, _leadership_lost, Batcher.take], ids=["time", "leadership", "taken"])
def test_what_leaves_the_queue_gives_its_room_back(empty: Callable[[Batcher], object]) -> None:
    batcher = Batcher(BatcherLimits(room_bytes_max=SIZE, waiting_bytes_max=3 * SIZE))
    for _ in range(5):
        for _ in range(3):
            batcher.submit(ONE, 0.0)
        assert not batcher.has_room
        empty(batcher)
        assert batcher.has_room


def test_what_a_lost_leadership_had_in_flight_takes_no_place_in_the_next() -> None:
    batcher = Batcher(LIMITS)
    for index in (3, 4):
        batcher.submit(ONE, 0.0)
        batcher.proposed(index, 1, batcher.take())
    batcher.lose_leadership(hint=None)
    batcher.submit(ONE, 0.0)
    assert batcher.may_propose


def test_an_owner_is_told_once_of_all_that_was_settled() -> None:
    batcher = Batcher(BatcherLimits())
    told: list[str] = []
    first, second = (lambda: told.append("first")), (lambda: told.append("second"))
    tickets = [batcher.ticket(0.0) for _ in range(5)]
    for ticket in tickets[:3]:
        ticket.tell(first)
    tickets[3].tell(second)
    for ticket in tickets[:4]:
        ticket.settle(ACK)
    assert told == []
    batcher.tell_settled()
    assert told == ["first", "second"]
    batcher.tell_settled()
    assert told == ["first", "second"]
    tickets[4].settle(ACK)
    tickets[4].tell(first)
    batcher.tell_settled()
    assert told == ["first", "second", "first"]


def test_what_owners_have_to_send_is_sent_when_all_are_told() -> None:
    batcher = Batcher(BatcherLimits())
    done: list[str] = []

    def first() -> Callable[[], None]:
        done.append("first")
        return lambda: done.append("first sends")

    def second() -> None:
        done.append("second")

    def third() -> Callable[[], None]:
        done.append("third")
        return lambda: done.append("third sends")

    for owner in (first, second, third):
        ticket = batcher.ticket(0.0)
        ticket.tell(owner)
        ticket.settle(ACK)
    batcher.tell_settled()
    assert done == ["first", "second", "third", "first sends", "third sends"]
