"""Defects of the engine's log and of what it takes for committed: audit 1, 2, 3, 4, 7, 9, 18, 21, 22, 23, 24, 25.

Each test is a scenario in which the engine alone goes wrong; its twin shows that it does, with our correction taken
away. The numbers are those of docs/engine.md.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from raft.audit import all_of, audited, nothing, planted, replaced
from raft.cluster import HEARTBEAT_S, Cluster, expect

from lanyinglog.raft import engine as engine_module
from lanyinglog.raft import follower as follower_module
from lanyinglog.raft.engine import APPEND_BYTES_MAX, Role
from lanyinglog.raft.feeds import Feeds
from lanyinglog.raft.follower import WINDOW_APPENDS_MAX, Follower
from lanyinglog.raft.guard import Guard
from lanyinglog.raft.journal import Journal
from lanyinglog.raft.messages import PEER_FRAME_BYTES_MAX, Append, Appended, Committed, Offer, PeerMessage
from lanyinglog.store.log_store import ENTRY_BYTES_MAX, Checkpoint, EntryRecord, Trim, Writes
from lanyinglog.store.memory import MemoryStore


def appends(messages: list[PeerMessage]) -> list[Append]:
    """Those with entries."""
    return [message for message in messages if isinstance(message, Append) and message.entries]


# ------------------------------------------------------------------------------------------------------------ audit 1
def first_of_any(self: Guard, message: Append) -> int | None:
    """What the engine does: everything behind prevLogIdx is new."""
    return message.entries[0].index if message.entries else None


cuts_at_every_append = all_of(
    replaced(Guard, "_first_difference", first_of_any), replaced(Guard, "_check_not_committed", nothing)
)


@audited("1", off=cuts_at_every_append, harm="leader completeness: n2 leads without committed entry 4")
def test_audit_01_an_append_that_comes_again_does_not_cut_what_was_acknowledged() -> None:
    """A resend of the first entries reaches a follower that has them and more; then the leader dies."""
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.cut("n1", "n3")
    cluster.propose("n1", b"\0a")
    again = appends(cluster.queued("n1", "n2"))[0]
    cluster.propose("n1", b"\0b", b"\0c")
    cluster.sync("n1")
    cluster.deliver("n1", "n2")
    cluster.sync("n2")
    cluster.deliver("n2", "n1")
    assert cluster["n1"].commit == 5, "acknowledged"
    cluster.take("n1", "n2")
    cluster.hand("n1", "n2", again)
    cluster.sync("n2")
    cluster.kill("n1")
    cluster.heal()
    cluster.elect("n2")
    expect(cluster["n2"].commands() == [b"\0a", b"\0b", b"\0c"], "acknowledged entries are gone")


def commit_all_it_says(self: Guard) -> int:
    """What the engine does: min(leaderCommit, last index)."""
    return max(self.engine.commit, min(self._leader_commit, self.journal.last_index, self.journal.durable_index))


@audited(
    "1", off=replaced(Guard, "_proven_commit", commit_all_it_says), harm="state machine safety: n1 applied another"
)
def test_audit_01_a_follower_commits_only_what_was_proved_equal_to_the_leaders_log() -> None:
    """The commit index of an append reaches beyond it, into a tail of the follower's that differs."""
    cluster = Cluster(3, logs={"n1": [0, 1, 1, 2, 2], "n2": [0, 1, 1, 3, 3], "n3": [0, 1, 1, 3, 3]})
    cluster.isolate("n1")
    cluster.elect("n2")
    assert cluster["n2"].commit == 6
    cluster.heal()
    second = cluster["n2"].replica.journal.entry(2)
    cluster.hand("n2", "n1", Append(cluster["n2"].term, 1, 1, 0, 6, (second,)))
    cluster.sync("n1")


# ------------------------------------------------------------------------------------------------------------ audit 2
@audited(
    "2", off=replaced(Guard, "_proven_commit", commit_all_it_says), harm="state machine safety: n1 applied another"
)
def test_audit_02_a_commit_notice_does_not_commit_a_divergent_tail() -> None:
    """A deposed leader comes back with entries nobody else has, and hears of a commit index before any append."""
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.isolate("n1")
    cluster.propose("n1", b"\0lost 1", b"\0lost 2")
    cluster.sync("n1")
    cluster.elect("n2")
    cluster.propose("n2", b"\0kept")
    cluster.settle()
    cluster.heal()
    cluster.hand("n2", "n1", Committed(cluster["n2"].term, cluster["n2"].commit))
    cluster.sync("n1")
    cluster.tick(1.5)
    expect(cluster["n1"].commands() == [b"\0kept"], "the returned leader keeps what was never committed")


# ------------------------------------------------------------------------------------------------------------ audit 3
def test_audit_03_the_engine_can_neither_clear_nor_compact_the_journal() -> None:
    """Stock, a restart between a snapshot and its trimming cleared the whole log. There are no snapshots yet."""
    journal = Cluster(1)["n1"].replica.journal
    for forget in (journal.clear, lambda: journal.deleteEntriesTo(1)):
        with pytest.raises(AssertionError):
            forget()


# ------------------------------------------------------------------------------------------------------------ audit 4
def hear_every_refusal(self: Guard, sender: str, message: Appended) -> None:
    follower = self._follower(sender, message.term)
    if follower is not None and not message.success:
        self._rewind(sender, follower, next=min(message.next, self.journal.last_index + 1))
    else:
        on_appended(self, sender, message)


on_appended = Guard._on_appended


@audited(
    "4", off=replaced(Guard, "_on_appended", hear_every_refusal), harm="sent again for a refusal that was overtaken"
)
def test_audit_04_a_refusal_older_than_the_last_rewind_is_ignored() -> None:
    """An append is lost; the two behind it are refused, one after the other: one resend heals all."""
    cluster = Cluster(2)
    cluster.elect("n1")
    for command in (b"\0a", b"\0b", b"\0c"):
        cluster.propose("n1", command)
    lost, *arrive = cluster.take("n1", "n2")
    assert appends([lost])
    for message in arrive:
        cluster.hand("n1", "n2", message)
    cluster.sync("n2")
    refusals = [m for m in cluster.queued("n2", "n1") if isinstance(m, Appended) and not m.success]
    assert len(refusals) == 2
    cluster.deliver("n2", "n1")
    sent = [entry.index for message in appends(cluster.queued("n1", "n2")) for entry in message.entries]
    expect(sorted(sent) == sorted(set(sent)), "sent again for a refusal that was overtaken")
    cluster.settle()
    assert cluster["n2"].commands() == [b"\0a", b"\0b", b"\0c"]


# ------------------------------------------------------------------------------------------------------------ audit 7
def follower_in_any_term(self: Guard, sender: str, term: int) -> Follower | None:
    return self.feeds.of(sender) if self.engine.role is Role.LEADER else None


def receive_answers_of_any_term(self: Guard, sender: str, message: PeerMessage, now: float) -> None:
    if isinstance(message, Appended) and message.term < self.engine.term:
        self._now = now
        self._on_appended(sender, message)
    else:
        receive(self, sender, message, now)


receive = Guard.receive
answers_of_any_term = all_of(
    replaced(Guard, "_follower", follower_in_any_term), replaced(Guard, "receive", receive_answers_of_any_term)
)


@audited("7", off=answers_of_any_term, harm="durability: 5 is committed on 2 of 5 disks")
def test_audit_07_an_answer_from_an_older_term_proves_nothing() -> None:
    """n2 answers n1 in term 1; the answer is late. n3 leads in term 2 and cuts that tail; n1 leads again in term 3."""
    cluster = Cluster(5)
    cluster.elect("n1")
    cluster.hold("n2", "n1")
    cluster.isolate("n1", "n2")
    cluster.propose("n1", *(b"\0old %d" % number for number in range(6)))
    cluster.settle()
    late = [message for message in cluster.take("n2", "n1") if isinstance(message, Appended) and message.match == 8]
    assert late
    cluster.elect("n3")
    cluster.heal()
    cluster.release()
    cluster.tick(1.5)
    assert cluster["n1"].terms() == cluster["n2"].terms() == [0, 1, 2], "the tail of term 1 is gone"
    cluster.kill("n3")
    cluster.elect("n1")
    cluster.isolate("n1", "n4")
    cluster.propose("n1", *(b"\0new %d" % number for number in range(4)))
    cluster.settle()
    for message in late:
        cluster.hand("n2", "n1", message)
    expect(cluster["n1"].commit == 4, "an answer of term 1 commits in term 3")


# ------------------------------------------------------------------------------------------------------------ audit 9
def stored_commit(self: Journal) -> int:
    return self._store.hard_state().commit


@audited("9", off=replaced(Journal, "getRaftCommitIndex", stored_commit), harm="durability: 11 is committed on 0 of 3")
def test_audit_09_a_stored_commit_index_above_the_log_commits_nothing() -> None:
    """The log ends at 10, the disk says "committed up to 50". The store clamps that too; this disk is older."""
    terms = [0] + [1] * 9
    cluster = Cluster(3, logs=dict.fromkeys(("n1", "n2", "n3"), terms))
    cluster.kill("n1")
    disk = cluster["n1"].disk
    disk.state = disk.state._replace(hard=dataclasses.replace(disk.state.hard, commit=50))
    cluster.restart("n1")
    cluster.committed = {entry.index: entry for entry in cluster["n1"].log()}
    cluster.hold("n1", "n2")
    cluster.hold("n1", "n3")
    cluster.campaign("n1")
    cluster.sync("n1")
    cluster.deliver("n1", "n2")
    cluster.sync("n2")
    cluster.deliver("n2", "n1")
    assert cluster["n1"].leads
    cluster.isolate("n1")
    cluster.propose("n1", b"\0alone")
    cluster.settle()
    assert len(cluster["n1"].applied) == 10


# ----------------------------------------------------------------------------------------------------------- audit 18
@audited("18", off=replaced(Guard, "_conflict_start", lambda self, index: index), harm="rounds for a tail of 60")
def test_audit_18_a_divergent_tail_is_crossed_a_term_at_a_time() -> None:
    """n1 comes back with 60 entries of term 2 that nobody else has."""
    cluster = Cluster(3, logs={"n1": [0, 1, *[2] * 60], "n2": [0, 1, *[3] * 60], "n3": [0, 1, *[3] * 60]})
    cluster.isolate("n1")
    cluster.elect("n2")
    cluster.heal()
    cluster.hold("n1", "n2")
    rounds = 0
    while cluster["n1"].terms() != cluster["n2"].terms():
        cluster.tick(HEARTBEAT_S)
        rounds += sum(isinstance(message, Appended) for message in cluster.queued("n1", "n2"))
        expect(rounds < 10, "rounds for a tail of 60")
        cluster.deliver("n1", "n2")


# ----------------------------------------------------------------------------------------------------------- audit 21
@audited(
    "21", off=replaced(Feeds, "_window_is_full", lambda self, follower: False), harm="in flight to a silent follower"
)
def test_audit_21_what_is_in_flight_to_a_silent_follower_is_bounded() -> None:
    """n3 takes everything and answers nothing; the log goes on without it, and it catches up when it answers."""
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.hold("n1", "n3")
    for number in range(40):
        cluster.propose("n1", b"\0%d" % number)
        cluster.settle()
        in_flight = len(appends(cluster.queued("n1", "n3")))
        expect(in_flight <= WINDOW_APPENDS_MAX, f"{in_flight} appends in flight to a silent follower")
    assert cluster["n1"].commit == 42, "its silence costs nobody else"
    cluster.release()
    cluster.settle()
    assert cluster["n3"].commands() == cluster["n1"].commands()


@audited("21", off=replaced(follower_module, "WINDOW_BYTES_MAX", 1 << 40), harm="bytes in flight to a silent follower")
def test_audit_21_the_bound_is_in_bytes_too() -> None:
    """Entries of a megabyte: eight fill the window, far below its number of appends."""
    cluster = Cluster(2)
    cluster.elect("n1")
    cluster.hold("n1", "n2")
    for number in range(12):
        cluster.propose("n1", b"\0%d" % number + bytes(1 << 20))
    in_flight = sum(message.bytes for message in appends(cluster.queued("n1", "n2")))
    expect(in_flight < (8 << 20) + (2 << 20), f"{in_flight} bytes in flight to a silent follower")


def whole_slice(self: Journal, place: Any) -> Any:
    found = getitem(self, place)
    return list(found) if isinstance(place, slice) else found


getitem = Journal.__getitem__


@audited("21", off=replaced(Journal, "__getitem__", whole_slice), harm="entries read to send 300")
def test_audit_21_a_follower_far_behind_is_fed_without_reading_the_whole_log_each_time() -> None:
    """300 entries behind, a few to an append: each entry is read from disk a few times, not once for each append."""
    reads = 0
    entry = MemoryStore.entry

    def counted(self: MemoryStore, index: int) -> Any:
        nonlocal reads
        reads += 1
        return entry(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "APPEND_BYTES_MAX", 60)
        cluster = Cluster(2, logs={"n1": [0, *[1] * 300]})
        patch.setattr(MemoryStore, "entry", counted)
        cluster.campaign("n1")
        while cluster["n2"].last_index < 302:
            for name in cluster.names:
                cluster.turn(name)
                cluster.sync(name)
            cluster.deliver("n1", "n2")
            cluster.deliver("n2", "n1")
        expect(reads < 10 * 300, f"{reads} entries read to send 300")


# ----------------------------------------------------------------------------------------------------------- audit 22
def entry_at_the_limit() -> None:
    cluster = Cluster(2)
    cluster.elect("n1")
    try:
        cluster.propose("n1", bytes(ENTRY_BYTES_MAX))
    except AssertionError as error:
        expect(False, f"the engine cuts the entry up: {error}")
    cluster.settle()
    assert cluster["n2"].commit == 3


@audited("22", off=replaced(engine_module, "APPEND_BYTES_MAX", ENTRY_BYTES_MAX), harm="cuts the entry up: pickle")
def test_audit_22_the_largest_entry_travels_in_one_piece() -> None:
    """Above its limit the engine would send an entry in pickled pieces, the last of them too early."""
    assert ENTRY_BYTES_MAX < APPEND_BYTES_MAX, "no entry reaches the limit"
    assert APPEND_BYTES_MAX + ENTRY_BYTES_MAX < PEER_FRAME_BYTES_MAX, "and an append with one more fits a frame"
    entry_at_the_limit()


# ----------------------------------------------------------------------------------------------------------- audit 23
@audited("23", off=replaced(Guard, "_restore_pipeline", nothing), harm="entries sent twice")
def test_audit_23_an_answer_does_not_send_again_what_is_in_flight() -> None:
    """Five appends on the way; each answer comes alone."""
    cluster = Cluster(2)
    cluster.elect("n1")
    cluster.hold("n1", "n2")
    for number in range(5):
        cluster.propose("n1", b"\0%d" % number)
        cluster.sync("n1")
    first = cluster.take("n1", "n2")
    for message in first:
        cluster.hand("n1", "n2", message)
        cluster.sync("n2")
        cluster.deliver("n2", "n1")
    assert cluster["n1"].commit == 7
    sent = [entry.index for message in appends([*first, *cluster.take("n1", "n2")]) for entry in message.entries]
    expect(sorted(sent) == sorted(set(sent)), f"entries sent twice: {sent}")


# ----------------------------------------------------------------------------------------------------------- audit 24
@audited("24", off=planted("feeds_what_is_trimmed"), harm="it never gets what it lacks")
def test_audit_24_who_lacks_what_the_log_begins_with_is_offered_that() -> None:
    """n3 is away while the others give up their oldest entries. The engine would send a dump; there is none."""
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.kill("n3")
    cluster.propose("n1", *(b"\0%d" % number for number in range(20)))
    cluster.settle()
    node = cluster["n1"]
    node.store.write(Writes(checkpoint=Checkpoint(20, [EntryRecord(index, 1, 0, 0) for index in range(1, 21)])))
    node.store.write(node.replica.begin_write(trim=Trim(first=15, last_seq=0, last_timestamp=0, rows={b"m": b"base"})))
    node.replica.end_write(cluster.now)
    cluster.hold("n1", "n3")
    cluster.restart("n3")
    told: list[PeerMessage] = []
    for _ in range(10):
        cluster.tick(HEARTBEAT_S)
        now_told = cluster.take("n1", "n3")
        for message in now_told:
            if isinstance(message, Append):
                cluster.hand("n1", "n3", message)
        told += now_told
    expect(Offer(node.term, 15, 0, 0, 1) in told, "it never gets what it lacks")
    assert all(message.prev_index >= 15 for message in appends(told)), "the engine never reaches below its log"


# ----------------------------------------------------------------------------------------------------------- audit 25
def in_batch_mode(**settings: Any) -> Any:
    return sync_obj_conf(**{**settings, "appendEntriesUseBatch": True})


sync_obj_conf = engine_module.SyncObjConf


@audited("25", off=replaced(engine_module, "SyncObjConf", in_batch_mode), harm="waits for the next heartbeat")
def test_audit_25_an_entry_leaves_in_the_turn_that_appends_it() -> None:
    """A group commit is a batch already: no second timer."""
    cluster = Cluster(2)
    cluster.elect("n1")
    cluster.tick(HEARTBEAT_S / 2)
    cluster.propose("n1", b"\0a")
    expect(bool(appends(cluster.queued("n1", "n2"))), "an entry waits for the next heartbeat")
