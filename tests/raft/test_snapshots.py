"""A node that fell off the log gets its beginning, whatever moment anybody dies at; nobody else ever does."""

from __future__ import annotations

import pytest
from raft.cluster import batch
from raft.lives import LivingCluster

from lanyinglog.errors import Busy, CorruptEntry
from lanyinglog.raft import snapshots
from lanyinglog.raft.journal import Journal
from lanyinglog.raft.messages import Chunk, Fetch, Offer
from lanyinglog.raft.snapshots import SnapshotSink, SnapshotSource
from lanyinglog.service import Ack
from lanyinglog.store.log_store import Entry, HardState, Writes, entry_crc
from lanyinglog.store.memory import MemoryStore


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "CHUNK_BYTES", 40)


def away(cluster: LivingCluster, name: str = "n3") -> None:
    """``name`` is dead while the others trim what it would need next. Several producers make several rows."""
    cluster.begin()
    cluster.limit("n1", 3)
    cluster.publish("n1", 2)
    cluster.kill(name)
    for producer in range(2, 8):
        cluster.publish("n1", 3, producer=producer)
    cluster.tick(2)
    assert cluster["n1"].first_index > cluster.nodes[name].replica.journal.last_index


def require_equal(cluster: LivingCluster) -> None:
    cluster.publish(cluster.leader or "", 2, producer=99)
    cluster.tick(1)
    leader = cluster[cluster.leader or ""]
    for name in cluster.names:
        node = cluster[name]
        machine = node.core.machine
        assert (machine.applied, machine.last_seq) == (leader.core.machine.applied, leader.core.machine.last_seq)
        assert machine.first_seq == leader.core.machine.first_seq
        assert machine.producers._table.keys() == leader.core.machine.producers._table.keys()
        assert machine.topics.stats_since(node.core.trimmer.base.topics) == [
            *node.core.trimmer.topics(after="", topics_max=100).topics
        ]


def test_who_comes_back_behind_the_front_gets_a_snapshot_and_then_entries() -> None:
    cluster = LivingCluster(3)
    away(cluster)
    cluster.restart("n3")
    cluster.tick(3)
    assert cluster["n3"].first_index > 10
    require_equal(cluster)


def test_a_leader_whose_front_rotted_has_it_mended_and_gives_it_then() -> None:
    cluster = LivingCluster(3)
    away(cluster)
    front = cluster["n1"].first_index
    cluster["n1"].store.flip(front, 40)
    cluster.restart("n3")
    cluster.tick(8)
    assert cluster["n1"].leads
    assert cluster["n1"].store.entry(front) == cluster["n2"].store.entry(front)
    require_equal(cluster)


def test_a_leader_whose_front_nobody_can_mend_does_not_go_on_leading() -> None:
    """Or who needs it would wait for ever, while another could give what its own log begins with."""
    cluster = LivingCluster(3)
    away(cluster)
    for name in ("n1", "n2"):
        cluster[name].store.flip(cluster["n1"].first_index, 40)
    cluster.restart("n3")
    with pytest.raises(CorruptEntry):
        cluster.tick(30)


def test_who_is_within_the_log_is_fed_entries_alone() -> None:
    cluster = LivingCluster(3)
    cluster.begin()
    cluster.kill("n3")
    cluster.publish("n1", 6)
    cluster.hold("n1", "n3")
    cluster.restart("n3")
    for _ in range(30):
        cluster.tick(0.1)
        assert not cluster.sent("n1", "n3", Offer)
        cluster.deliver("n1", "n3")
    assert cluster["n3"].last_index == cluster["n1"].last_index


def test_a_snapshot_goes_on_after_lost_parts() -> None:
    cluster = LivingCluster(3)
    away(cluster)
    cluster.hold("n1", "n3")
    cluster.restart("n3")
    lost = 0
    for step in range(200):
        cluster.tick(0.05)
        chunks = cluster.sent("n1", "n3", Chunk)
        if chunks and step % 3 == 0:
            lost += len(chunks)
            cluster.take("n1", "n3")
        else:
            cluster.deliver("n1", "n3")
    assert lost
    cluster.release()
    cluster.tick(3)
    require_equal(cluster)


@pytest.mark.parametrize("writes", range(1, 12))
def test_it_may_die_at_any_write_of_it(writes: int) -> None:
    """It comes back to what it had, or to the snapshot; never to something between."""
    cluster = LivingCluster(3)
    away(cluster)
    last_before = cluster["n3"].last_index
    cluster.restart("n3")
    done = cluster["n3"].store
    for _ in range(400):
        if cluster["n3"].store is done and done.writes_done >= writes:
            break
        cluster.now += 0.01
        for name in cluster.names:
            cluster.turn(name)
            if name != "n3" or done.writes_done < writes:
                cluster.sync(name)
        for link in [link for link, queue in cluster.links.items() if queue]:
            cluster.deliver(*link)
    cluster.kill("n3")
    cluster.restart("n3")
    assert cluster["n3"].last_index >= last_before
    cluster.tick(4)
    require_equal(cluster)


def test_it_may_die_at_any_step_of_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    for stop_at in range(40):
        cluster = LivingCluster(3)
        away(cluster)
        cluster.restart("n3")
        taken = _die_at_step(cluster, monkeypatch, stop_at)
        monkeypatch.undo()
        if not taken:
            break
        steps += 1
        cluster.nodes["n3"].disk = cluster["n3"].store.snapshot()
        cluster.kill("n3")
        cluster.restart("n3")
        cluster.tick(4)
        require_equal(cluster)
    assert steps > 3


class _Died(Exception):
    pass


def _die_at_step(cluster: LivingCluster, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> bool:
    count = 0
    step = MemoryStore.install_step

    def counted(self: MemoryStore) -> bool:
        nonlocal count
        if self.installing():
            count += 1
            if count > stop_at:
                raise _Died
        return step(self)

    monkeypatch.setattr(MemoryStore, "install_step", counted)
    try:
        cluster.tick(3)
    except _Died:
        return True
    return False


def test_the_leader_may_die_and_another_one_serves_it() -> None:
    cluster = LivingCluster(3)
    away(cluster)
    cluster.hold("n1", "n3")
    cluster.restart("n3")
    for _ in range(40):
        cluster.tick(0.05)
        if cluster.sent("n1", "n3", Chunk):
            break
        cluster.deliver("n1", "n3")
    cluster.deliver("n1", "n3")
    cluster.kill("n1")
    cluster.release()
    cluster.tick(5)
    assert cluster.leader == "n2"
    cluster.restart("n1")
    cluster.tick(3)
    require_equal(cluster)


def test_a_wiped_node_gets_a_snapshot_too() -> None:
    cluster = LivingCluster(3)
    away(cluster)
    cluster.restart("n3")
    cluster.tick(2)
    cluster.wipe("n2")
    cluster.tick(4)
    assert cluster["n2"].joined
    require_equal(cluster)


def test_nodes_trim_alike() -> None:
    cluster = LivingCluster(3)
    cluster.begin()
    cluster.limit("n1", 4)
    cluster.publish("n1", 30)
    cluster.tick(8)
    firsts = {cluster[name].core.machine.first_seq for name in cluster.names}
    assert firsts == {cluster["n1"].core.machine.last_seq - 3}
    assert {cluster[name].first_index for name in cluster.names} == {cluster["n1"].first_index}
    assert cluster["n1"].first_index > 20


# ------------------------------------------------------------------------------------------------------- the two ends
def entry(index: int, term: int = 1) -> Entry:
    return Entry(index, term, b"\0x", entry_crc(index, term, b"\0x"))


def sink(last: int = 3, *, commit: int = 1) -> SnapshotSink:
    store = MemoryStore()
    store.write(Writes(entries=[entry(index) for index in range(1, last + 1)], hard_state=HardState(5, None, commit)))
    return SnapshotSink(Journal(store, cache_bytes_max=0))


OFFER = Offer(5, 10, 20, 200, 2)
ROWS = ((b"a", b"1"), (b"b", b"2"))


def test_a_snapshot_that_says_nothing_new_is_not_asked_for() -> None:
    assert sink(12, commit=11).offered("n1", OFFER, 0.0) is None
    assert sink(12, commit=10).offered("n1", OFFER, 0.0) == Fetch(5, 10, 0, b"")


def test_an_offer_that_comes_again_asks_again_but_not_at_once() -> None:
    one = sink()
    assert one.offered("n1", OFFER, 0.0) is not None
    assert one.offered("n1", OFFER, 0.1) is None
    assert one.offered("n1", OFFER, 1.0) is not None


PARTS = {
    "rows out of order": Chunk(5, 10, b"", True, (ROWS[1], ROWS[0]), (entry(10), entry(11))),
    "too few rows for the end": Chunk(5, 10, b"", True, ROWS[:1], (entry(10), entry(11))),
    "all rows and no end": Chunk(5, 10, b"", False, ROWS),
    "an end without entries": Chunk(5, 10, b"", True, ROWS),
    "entries of elsewhere": Chunk(5, 10, b"", True, ROWS, (entry(11), entry(12))),
    "a part of another snapshot": Chunk(5, 9, b"", True, ROWS, (entry(9), entry(10))),
    "a part that was not asked for": Chunk(5, 10, b"a", True, ROWS[1:], (entry(10), entry(11))),
    "more rows than there are": Chunk(5, 10, b"", False, (*ROWS, (b"c", b"3"))),
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_part_that_is_not_what_it_says_is_dropped(part: Chunk) -> None:
    one = sink()
    one.offered("n1", OFFER, 0.0)
    one.arrived("n1", part)
    assert not one.wants_write


def test_a_part_of_another_sender_is_dropped() -> None:
    one = sink()
    one.offered("n1", OFFER, 0.0)
    one.arrived("n2", Chunk(5, 10, b"", True, ROWS, (entry(10), entry(11))))
    assert not one.wants_write


def test_what_this_log_holds_is_not_replaced() -> None:
    """It may have promised what comes behind (audit 4)."""
    one = sink(12)
    one.offered("n1", OFFER, 0.0)
    one.arrived("n1", Chunk(5, 10, b"", True, ROWS, (entry(10), entry(11))))
    assert one.wants_write
    assert one.begin_write() == (None, None)
    assert one.percent is None


def test_a_base_that_went_meanwhile_is_answered_by_an_offer() -> None:
    store = MemoryStore()
    store.write(Writes(entries=[entry(1), entry(2)]))
    source = SnapshotSource(store)
    assert isinstance(source.answer("n3", Fetch(5, 9, 0, b""), 0.0), Offer)
    assert not source.holds(0.0)


def test_a_leader_holds_its_base_while_it_is_drawn_and_not_for_ever() -> None:
    store = MemoryStore()
    store.write(Writes(entries=[entry(1), entry(2)]))
    source = SnapshotSource(store)
    assert isinstance(source.answer("n3", Fetch(5, 1, 0, b""), 0.0), Chunk)
    assert source.holds(1.0)
    assert not source.holds(1.0 + snapshots.HOLD_S)
    source.answer("n3", Fetch(5, 1, 0, b""), 50.0)
    source.served("n3")
    assert not source.holds(50.0)


def test_a_leader_that_holds_its_log_writes_nothing_meanwhile() -> None:
    cluster = LivingCluster(3)
    cluster.begin()
    cluster.limit("n1", 1)
    leader = cluster["n1"].core
    leader.replica.held_index = lambda now: leader.replica.journal.first_index  # type: ignore[method-assign]
    cluster.publish("n1", 12)
    cluster.tick(2.5)
    assert leader.replica.journal.first_index < leader.machine.first_index
    assert not leader.wants_write


def test_a_change_of_limits_that_gets_no_turn_is_refused_in_time() -> None:
    """The leader's disk stalls: the change is not proposed, now or ever, and its caller is told so (P7)."""
    cluster = LivingCluster(3)
    cluster.begin()
    core = cluster["n1"].core
    cluster.submit("n1", batch(1, 1))
    cluster.turn("n1")
    core.begin_write()
    ticket = core.configure({"messages": 5}, cluster.now)
    core.advance(cluster.now + 0.5, 0)
    assert ticket.result is None
    core.advance(ticket.expires_at, 0)
    assert isinstance(ticket.result, Busy)
    core.end_write(Writes(), ticket.expires_at)
    core.advance(ticket.expires_at, 0)
    assert core.machine.retention.is_unlimited


def test_a_clock_that_is_weeks_ahead_for_a_moment_gives_nothing_up() -> None:
    """What goes by age is gone for good, so a leader's clock must have gone evenly for a while first."""
    cluster = LivingCluster(3)
    cluster.begin()
    leader = cluster["n1"]
    ticket = leader.core.configure({"age_s": 20}, cluster.now)
    cluster.tick(0.1)
    assert isinstance(ticket.result, Ack)
    cluster.publish("n1", 6)
    for ahead_s in (20 * 86_400, 0, 86_400, 0):
        leader.wall_ns_ahead = ahead_s * 10**9
        cluster.tick(4.0)
        assert leader.core.machine.first_seq == 1
    cluster.tick(22.0)
    assert leader.core.machine.first_seq > 1, "an even clock is believed"
    assert {cluster[name].core.machine.first_seq for name in cluster.names} == {leader.core.machine.first_seq}
