"""What can't be read any more is fetched from who has it, and from nobody else; what nobody has is not made up (P1)."""

from __future__ import annotations

import pytest
from raft.cluster import batch
from raft.lives import LivingCluster

from lanyinglog.errors import CorruptEntry
from lanyinglog.raft import repair as repair_module
from lanyinglog.raft.messages import Copy, Wanted, from_parts, to_parts
from lanyinglog.raft.repair import ASK_AGAIN_S, ASKED_MAX, LOST_ASK_AGAIN_S, Repair
from lanyinglog.scrub import Scrub
from lanyinglog.store.log_store import Checkpoint, Entry, EntryRecord, HardState, Writes, entry_crc
from lanyinglog.store.memory import MemoryStore


def filled(count: int = 9, *, applied: int | None = None, term: int = 1) -> MemoryStore:
    """A store of ``count`` entries, the first ``applied`` of them with a record."""
    store = MemoryStore()
    made = [Entry(i, term, b"entry %d" % i, entry_crc(i, term, b"entry %d" % i)) for i in range(1, count + 1)]
    done = count if applied is None else applied
    records = [EntryRecord(index, index, 1, 1_000 + index, (), index * 200) for index in range(1, done + 1)]
    store.write(Writes(entries=made, hard_state=HardState(term, None, done), checkpoint=Checkpoint(done, records)))
    return store


def damaged(index: int = 5, **kinds: int) -> tuple[MemoryStore, Repair]:
    store = filled(**kinds)
    store.flip(index, 30)
    with pytest.raises(CorruptEntry):
        store.entry(index)
    repair = Repair(store)
    assert repair.want(index)
    return store, repair


def write(store: MemoryStore, repair: Repair) -> None:
    assert repair.wants_write
    store.write(Writes(mends=repair.begin_write()))
    repair.end_write()


def test_a_damaged_entry_is_asked_for_and_put_back_as_it_was() -> None:
    store, repair = damaged()
    ((peer, wanted),) = repair.questions(["n2", "n3"], 4, 0.0)
    assert (peer, wanted) == ("n2", Wanted(4, 5))
    copy = Repair(filled()).answer(wanted)
    kind, header, body = to_parts(copy)
    assert from_parts(kind, header, b"".join(body)) == copy
    repair.arrived("n2", copy, 0.0)
    write(store, repair)
    assert store.entry(5) == filled().entry(5)
    assert not repair.damaged
    assert [event for event, *_ in repair.take_news()] == ["damaged", "mended"]


def test_the_others_are_asked_one_after_the_other_and_then_again_later() -> None:
    _, repair = damaged()
    asked, now = [], 0.0
    for _ in range(6):
        for peer, wanted in repair.questions(["n2", "n3"], 1, now):
            asked.append(peer)
            repair.arrived(peer, Copy(1, wanted.index), now)
        now += ASK_AGAIN_S
    assert asked[:3] == ["n2", "n3", "n2"]
    assert [event for event, *_ in repair.take_news()] == ["damaged", "lost"]
    assert repair.questions(["n2", "n3"], 1, now + LOST_ASK_AGAIN_S), "one may have come back with it"


def test_a_silent_node_is_not_waited_for() -> None:
    _, repair = damaged()
    assert [peer for peer, _ in repair.questions(["n2", "n3"], 1, 0.0)] == ["n2"]
    assert repair.questions(["n2", "n3"], 1, ASK_AGAIN_S / 2) == []
    assert [peer for peer, _ in repair.questions(["n2", "n3"], 1, ASK_AGAIN_S)] == ["n3"]


WHOLE = Repair(filled()).answer(Wanted(1, 5))


@pytest.mark.parametrize(
    "copy",
    [
        Copy(1, 5),
        Copy(1, 4, WHOLE.rows, WHOLE.entries),
        Copy(1, 5, WHOLE.rows),
        Copy(1, 5, (), WHOLE.entries),
        Copy(1, 5, ((b"record", b"no record at all"),), WHOLE.entries),
        Copy(1, 5, Repair(filled()).answer(Wanted(1, 4)).rows, WHOLE.entries),
        Copy(1, 5, WHOLE.rows, Repair(filled()).answer(Wanted(1, 4)).entries),
    ],
    ids=["nothing", "not wanted", "no record", "no entry", "a broken record", "another's record", "another entry"],
)
def test_what_is_not_the_entry_is_not_taken(copy: Copy) -> None:
    _, repair = damaged()
    repair.questions(["n2"], 1, 0.0)
    repair.arrived("n2", copy, 0.0)
    assert not repair.wants_write
    assert repair.damaged == [5]


def test_only_what_was_applied_is_asked_for_and_given() -> None:
    store = filled(9, applied=6)
    assert not Repair(store).want(7)
    assert not Repair(store).want(10)
    assert Repair(store).answer(Wanted(1, 7)) == Copy(1, 7)
    assert Repair(store).answer(Wanted(1, 70)) == Copy(1, 70)
    assert Repair(store).answer(Wanted(1, 6)).entries == (store.entry(6),)


def test_who_is_asked_for_what_it_can_not_read_either_wants_it_too() -> None:
    store = filled()
    store.flip(5, 30)
    other = Repair(store)
    assert other.answer(Wanted(1, 5)) == Copy(1, 5)
    assert other.damaged == [5]


def test_what_is_asked_for_at_a_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    repair = Repair(filled(100))
    assert all(repair.want(index) for index in range(2, 90))
    assert len(repair.questions(["n2"], 1, 0.0)) == ASKED_MAX
    monkeypatch.setattr(repair_module, "WANTED_MAX", 88)
    assert not repair.want(95)
    monkeypatch.setattr(repair_module, "READY_BYTES_MAX", 1)
    repair.arrived("n2", Repair(filled(100)).answer(Wanted(1, 2)), 0.0)
    assert repair.questions(["n2"], 1, 9.0) == [], "what came must be written first"


# -------------------------------------------------------------------------------------------------------------- scrub
def test_the_scrub_reads_all_of_the_log_again_and_again() -> None:
    store = filled(9)
    scrub = Scrub(store)
    found = []
    store.flip(3, 30)
    store.flip(7, 30)
    while scrub.passes < 2:
        damage, _ = scrub.step()
        found += [damage.hint] if damage is not None else []
    assert found == ["3", "7", "3", "7"]


# ----------------------------------------------------------------------------------------------------------- a cluster
@pytest.mark.parametrize("name", ["n1", "n3"], ids=["the leader", "a follower"])
def test_a_node_of_a_cluster_mends_what_rotted(name: str) -> None:
    cluster = LivingCluster(3)
    cluster.begin()
    for number in range(1, 12):
        cluster.submit("n1", batch(1, number))
        cluster.tick(0.1)
    cluster.tick(5)
    node = cluster.nodes[name]
    before = node.store.entry(5)
    node.store.flip(5, 30)
    with pytest.raises(CorruptEntry) as caught:
        node.store.entry(5)
    assert node.core.want_repair(caught.value)
    cluster.tick(2)
    assert node.store.entry(5) == before


# --------------------------------------------------------------------------------------------- what trimming comes upon
def filled_cluster() -> LivingCluster:
    """Three nodes with 30 messages, all in checkpoints; n1 leads and has nothing in memory."""
    cluster = LivingCluster(3)
    cluster.begin()
    cluster.publish("n1", 30)
    cluster.tick(6)
    cluster.kill("n1")
    cluster.restart("n1")
    cluster.elect("n1")
    return cluster


def waiting_for_a_follower(monkeypatch: pytest.MonkeyPatch) -> LivingCluster:
    """A trim is committed, and the leader removes nothing as long as a follower needs it."""
    cluster = filled_cluster()
    replica = cluster["n1"].replica
    monkeypatch.setattr(replica, "held_index", lambda now: replica.journal.first_index)
    cluster.limit("n1", 10)
    cluster.tick(2)
    assert cluster["n1"].first_index == 1 < cluster["n1"].core.machine.first_index
    return cluster


def test_a_leader_that_can_not_read_where_to_trim_has_it_mended_and_trims_then() -> None:
    cluster = filled_cluster()
    node = cluster["n1"]
    for index in range(2, 25):
        node.store.flip_record(index, 9)
    cluster.limit("n1", 10)
    cluster.tick(20)
    assert node.leads, "a damaged record ends nobody"
    assert node.first_index > 15
    assert node.core.trimmer.stuck is None


def test_a_leader_that_can_not_read_how_much_waits_for_a_follower_goes_on_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = waiting_for_a_follower(monkeypatch)
    node = cluster["n1"]
    node.store.flip_record(node.core.machine.first_index - 1, 9)
    cluster.tick(2)
    assert node.leads
    assert node.first_index == 1
    assert "has a record that is damaged" in (node.core.trimmer.stuck or "")
    monkeypatch.undo()
    cluster.tick(2)
    assert node.first_index == node.core.machine.first_index, "nobody waits: it need not be known"
    assert node.core.trimmer.stuck is None


def test_a_node_that_can_not_read_what_the_log_is_to_begin_with_has_it_mended_and_trims_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = waiting_for_a_follower(monkeypatch)
    node = cluster["n1"]
    index = node.core.machine.first_index
    monkeypatch.undo()
    node.store.flip(index, 0)
    writes = node.core.begin_write()
    assert writes.trim is None
    assert node.replica.repair.damaged == [index]
    node.store.write(writes)
    node.core.end_write(writes, cluster.now)
    node.store.flip(index, 0)  # or the cluster could not check its logs in each step
    cluster.tick(2)
    assert node.first_index == index


def test_what_nobody_can_mend_is_told_and_trimmed_when_it_is_in_nobodys_way() -> None:
    cluster = filled_cluster()
    for name in cluster.names:
        for index in range(8, 25):
            cluster[name].store.flip_record(index, 9)
    cluster.limit("n1", 10)
    cluster.tick(6)
    node = cluster["n1"]
    assert node.leads
    assert "has a record that is damaged" in (node.core.trimmer.stuck or "")
    cluster.publish("n1", 60, producer=2)
    cluster.tick(6)
    assert node.leads
    assert node.first_index > 30
    assert node.core.trimmer.stuck is None
