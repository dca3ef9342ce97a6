"""Every request is answered, once, and the answer says what is certain (P7): tickets of a whole log in a cluster.

`raft.cluster` checks the properties of Raft, and that a commit is on a majority of disks, after each step.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from raft.audit import planted
from raft.cluster import LogCluster, LogNode, batch

from lanyinglog.batcher import BatcherLimits, Result, Ticket
from lanyinglog.errors import Busy, NotLeader, Outcome, OutcomeUnknown, StorageFull
from lanyinglog.log_core import LogCore
from lanyinglog.service import Ack


def result_of(ticket: Ticket) -> Result:
    assert ticket.result is not None, "no answer"
    return ticket.result


def led_by_n1(size: int = 3) -> LogCluster:
    cluster = LogCluster(size)
    cluster.sync("n1")
    cluster.elect("n1")
    return cluster


def test_an_acknowledgement_says_where_the_messages_are() -> None:
    cluster = led_by_n1()
    first = cluster.submit("n1", batch(1, 1, b"a", b"b", b"c"))
    second = cluster.submit("n1", batch(2, 1, b"d"))
    cluster.settle()
    one, two = result_of(first), result_of(second)
    assert isinstance(one, Ack) and isinstance(two, Ack)
    assert (one.first_seq, one.count, two.first_seq, two.count) == (1, 3, 4, 1)
    assert two.timestamp == one.timestamp + 3, "one entry: their timestamps follow each other"


def test_a_node_that_does_not_lead_refuses_for_certain() -> None:
    cluster = led_by_n1()
    cluster["n2"].core.leader_hint = lambda: "127.0.0.1:1"
    with pytest.raises(NotLeader) as refused:
        cluster.submit("n2", batch(1, 1))
    assert refused.value.outcome is Outcome.DEFINITE and refused.value.hint == "127.0.0.1:1"


def deposed(cluster: LogCluster) -> None:
    """n1 led alone; n2 leads, and n1 hears of it."""
    cluster.elect("n2")
    cluster.heal()
    cluster.tick(1.0)
    assert cluster.leader == "n2"


def test_what_was_proposed_by_a_deposed_leader_ends_unknown() -> None:
    """It came to nothing, but for all n1 knows the others could have it."""
    cluster = led_by_n1()
    cluster.isolate("n1")
    ticket = cluster.submit("n1", batch(1, 1))
    cluster.settle()
    assert ticket.result is None
    deposed(cluster)
    assert isinstance(result_of(ticket), OutcomeUnknown)
    again = cluster.submit("n2", batch(1, 1))
    cluster.settle()
    assert result_of(again) == Ack(1, 1, result_of(again).timestamp), "the retry is stored, for the first time"  # type: ignore[union-attr]


def test_what_a_deposed_leader_calls_unknown_may_be_stored_and_a_retry_finds_it() -> None:
    """n2 has the entry on its disk and leads; its answer never reached n1."""
    cluster = led_by_n1()
    cluster.hold("n2", "n1")
    cluster.cut("n1", "n3")
    ticket = cluster.submit("n1", batch(1, 1, b"a", b"b"))
    cluster.settle()
    cluster.take("n2", "n1")
    cluster.isolate("n1")
    deposed(cluster)
    cluster.release()
    cluster.tick(1.0)
    assert isinstance(result_of(ticket), OutcomeUnknown)
    again = cluster.submit("n2", batch(1, 1, b"a", b"b"))
    cluster.settle()
    result = result_of(again)
    assert isinstance(result, Ack) and (result.first_seq, result.duplicate) == (1, True)
    assert {node.core.machine.last_seq for node in cluster.nodes.values()} == {2}, "stored once"


def test_what_was_never_proposed_is_refused_for_certain() -> None:
    """It waits because the leader's disk is busy; then leadership is lost."""
    cluster = led_by_n1()
    cluster.isolate("n1")
    cluster.submit("n1", batch(1, 1))
    cluster.turn("n1")
    cluster["n1"].core.begin_write()  # never ends
    waiting = cluster.submit("n1", batch(2, 1))
    cluster.turn("n1")
    cluster.now += 10 * cluster["n1"].replica.election_timeout_s - 1.0
    cluster.turn("n1")
    assert not cluster["n1"].leads
    assert isinstance(result_of(waiting), NotLeader) and result_of(waiting).outcome is Outcome.DEFINITE  # type: ignore[union-attr]


@pytest.mark.parametrize("defect", ["tickets_are_forgotten", "certain_too_soon", "settled_by_index_alone"])
def test_it_is_noticed_when_the_answer_is_missing_or_too_certain(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(defect)(monkeypatch)
    with pytest.raises(AssertionError):
        test_what_was_proposed_by_a_deposed_leader_ends_unknown()


# --------------------------------------------------------------------------------------------------------------- time
def stalled() -> LogCluster:
    """A leader whose disk takes a write and does not come back, as when it is full."""
    cluster = led_by_n1()
    cluster.submit("n1", batch(1, 1))
    cluster.turn("n1")
    cluster["n1"].core.begin_write()
    return cluster


def ask_batch(core: LogCore, now: float) -> Ticket:
    return core.submit(batch(2, 1), now)


def ask_settings(core: LogCore, now: float) -> Ticket:
    return core.configure({"messages": 5}, now)


def let_time_pass(cluster: LogCluster, seconds: float) -> None:
    """n1 turns with its heartbeats, and its followers answer; its disk stands still."""
    for _ in range(int(seconds * 10)):
        cluster.now += 0.1
        for name in cluster.names:
            cluster.turn(name)
        for link in [("n1", "n2"), ("n1", "n3"), ("n2", "n1"), ("n3", "n1")]:
            cluster.deliver(*link)


@pytest.mark.parametrize("ask", [ask_batch, ask_settings], ids=["a batch", "a change of settings"])
def test_what_waits_longer_than_its_deadline_is_refused_for_certain(ask: Callable[[LogCore, float], Ticket]) -> None:
    cluster = stalled()
    core = cluster["n1"].core
    ticket = ask(core, cluster.now)
    let_time_pass(cluster, BatcherLimits().deadline_s - 1.0)
    assert cluster["n1"].leads and ticket.result is None
    let_time_pass(cluster, 2.0)
    assert isinstance(result_of(ticket), Busy)
    entries = core.replica.journal.last_index
    core.replica.journal.end_write()
    cluster.settle()
    assert core.replica.journal.last_index == entries, "and it never becomes an entry"


def test_what_is_proposed_and_not_known_to_be_committed_in_time_ends_unknown() -> None:
    """The followers live and have no room: they answer heartbeats and no append."""
    cluster = led_by_n1()
    ticket = cluster.submit("n1", batch(1, 1))
    cluster.turn("n1")
    cluster.sync("n1")
    cluster.deliver("n1", "n2")
    cluster.deliver("n1", "n3")
    let_time_pass(cluster, 9.5)
    assert ticket.result is None
    let_time_pass(cluster, 1.0)
    assert isinstance(result_of(ticket), OutcomeUnknown)
    cluster.settle()
    assert cluster["n1"].core.machine.last_seq == 1, "it came true after all"
    assert isinstance(result_of(ticket), OutcomeUnknown), "and the answer stays what it was"


def test_a_full_disk_is_told_at_once_and_for_certain() -> None:
    cluster = led_by_n1()
    cluster["n1"].core.storage_full = True
    with pytest.raises(StorageFull) as refused:
        cluster.submit("n1", batch(1, 1))
    assert refused.value.outcome is Outcome.DEFINITE


# -------------------------------------------------------------------------------------------------------------- order
def test_who_is_acknowledged_can_read_it_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer that hears its acknowledgement and asks the same node finds its messages."""
    late: list[int] = []
    settle = Ticket.settle
    cluster = led_by_n1()

    def watched(self: Ticket, result: Result) -> None:
        if isinstance(result, Ack) and cluster["n1"].core.tail.last_seq < result.first_seq + result.count - 1:
            late.append(result.first_seq)
        settle(self, result)

    monkeypatch.setattr(Ticket, "settle", watched)
    tickets = [cluster.submit("n1", batch(number, 1, b"x")) for number in range(1, 4)]
    cluster.settle()
    assert all(isinstance(result_of(ticket), Ack) for ticket in tickets) and not late


def test_readers_see_nothing_that_is_not_committed() -> None:
    cluster = led_by_n1()
    cluster.isolate("n1")
    cluster.submit("n1", batch(1, 1))
    cluster.settle()
    assert cluster["n1"].core.replica.journal.last_index == 3
    assert cluster["n1"].core.tail.last_seq == 0


def test_no_more_entries_are_in_flight_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest waits, and goes together when there is room."""
    monkeypatch.setattr(LogNode, "limits", BatcherLimits(entries_in_flight_max=2, pipelined_bytes_min=1))
    cluster = led_by_n1()
    cluster.isolate("n1")
    tickets = []
    for number in range(1, 7):
        tickets.append(cluster.submit("n1", batch(number, 1)))
        cluster.settle()
    assert cluster["n1"].last_index == 2 + 2
    cluster.heal()
    cluster.tick(1.5)
    assert [result_of(ticket).first_seq for ticket in tickets] == [1, 2, 3, 4, 5, 6]  # type: ignore[union-attr]
    assert cluster["n1"].last_index == 2 + 3, "four batches in one entry"


def test_a_little_waits_for_the_entry_in_flight_and_leaves_in_the_turn_that_applies_it() -> None:
    """Not at whatever wakes the node next: with nothing else to do, that would be the next heartbeat."""
    cluster = led_by_n1(1)
    first = cluster.submit("n1", batch(1, 1))
    cluster.turn("n1")
    rest = [cluster.submit("n1", batch(number, 1)) for number in (2, 3)]
    cluster.turn("n1")
    assert cluster["n1"].last_index == 2 + 1, "both wait"
    cluster["n1"].sync(cluster.now)
    cluster.turn("n1")
    assert isinstance(result_of(first), Ack)
    assert cluster["n1"].last_index == 2 + 2, "one entry of both"
    cluster.sync("n1")
    assert [result_of(ticket).first_seq for ticket in rest] == [2, 3]  # type: ignore[union-attr]


def test_much_does_not_wait_for_the_entry_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogNode, "limits", BatcherLimits(pipelined_bytes_min=1 << 10))
    cluster = led_by_n1()
    cluster.isolate("n1")
    cluster.submit("n1", batch(1, 1))
    cluster.settle()
    cluster.submit("n1", batch(2, 1, bytes(1 << 10)))
    cluster.settle()
    assert cluster["n1"].last_index == 2 + 2


def test_a_batch_proposed_in_the_turn_that_ends_leadership_is_refused_for_certain() -> None:
    """Nobody answered for an election timeout: the turn that would propose steps down first."""
    cluster = led_by_n1()
    cluster.isolate("n1")
    cluster.now += 5.0
    ticket = cluster.submit("n1", batch(1, 1))
    cluster.turn("n1")
    assert isinstance(result_of(ticket), NotLeader)
    assert cluster["n1"].last_index == 2
