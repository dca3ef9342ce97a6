"""Members come and go: one at a time, from the moment the change is in the log, and no two majorities apart."""

from __future__ import annotations

import pytest
from raft.audit import audited, planted
from raft.cluster import HEARTBEAT_S, LogCluster, batch, expect

from lanyinglog.errors import BadRequest, Busy, NotLeader
from lanyinglog.machine import members as rules
from lanyinglog.machine.commands import KIND_MEMBERS, encode_command
from lanyinglog.machine.members import Members, members_in
from lanyinglog.raft.membership import Membership
from lanyinglog.service import Ack

THREE = Members.of({"n1": "h:1", "n2": "h:2", "n3": "h:3"})
ALL = frozenset({"n1", "n2", "n3", "n4", "n5"})


# ------------------------------------------------------------------------------------------------------------- values
def test_members_are_the_same_when_they_were_written_and_read():
    members = THREE.with_learner("n4", "h:4").without("n1")
    assert Members.decode(members.encode()) == members
    assert members_in(encode_command(1, KIND_MEMBERS, members.encode())) == members


@pytest.mark.parametrize("command", [b"\x01", b"", b"\0" * 40, encode_command(1, KIND_MEMBERS, b"\xc1 nonsense")])
def test_what_is_no_configuration_changes_nothing(command: bytes):
    assert members_in(command) is None


@pytest.mark.parametrize(
    ("name", "peer", "words"),
    [
        ("n1", "h:9", "a member already"),
        ("n4", "h:2", "another member is at h:2"),
        ("n0", "h:9", "was a member once"),
    ],
)
def test_who_cant_be_added(name: str, peer: str, words: str):
    members = THREE.with_learner("n0", "h:0").without("n0")
    with pytest.raises(BadRequest, match=words):
        rules.added(members, name, peer)


def test_a_request_that_comes_twice_changes_nothing_more():
    once = rules.added(THREE, "n4", "h:4")
    assert rules.added(once, "n4", "h:4") == once
    gone = rules.removed(once, "n4", ready=ALL)
    assert rules.removed(gone, "n4", ready=ALL) == gone


@pytest.mark.parametrize(
    ("name", "reachable", "words"),
    [
        ("n2", {"n1", "n2"}, "too few of n1, n3 could decide: silent or still catching up is n3"),
        ("n9", {"n1", "n2", "n3"}, "the members are n1, n2, n3"),
    ],
)
def test_a_removal_that_would_cost_the_quorum_is_refused(name: str, reachable: set[str], words: str):
    with pytest.raises(BadRequest, match=words):
        rules.removed(THREE, name, ready=frozenset(reachable))


def test_the_last_voter_stays():
    with pytest.raises(BadRequest, match="the only voter"):
        rules.removed(Members.of({"n1": "h:1"}), "n1", ready=ALL)


def test_the_newest_configuration_counts_and_what_is_cut_off_no_longer():
    membership = Membership(THREE, at=5, read=members_in)
    larger = THREE.with_learner("n4", "h:4")
    membership.added(6, b"\x01")
    membership.added(7, encode_command(1, KIND_MEMBERS, larger.encode()))
    assert (membership.current, membership.settled, membership.index) == (larger, THREE, 7)
    membership.cut(7)
    assert (membership.current, membership.index) == (THREE, 5)
    membership.added(7, encode_command(1, KIND_MEMBERS, larger.encode()))
    membership.committed(7)
    assert membership.settled == larger


# ----------------------------------------------------------------------------------------------------------- clusters
def test_a_learner_is_sent_everything_and_votes_once_it_has_that():
    cluster = LogCluster(3, spares=1)
    cluster.elect("n1")
    for number in range(1, 40):
        cluster.submit("n1", batch(1, number))
        cluster.settle()
    cluster.join("n4")
    ticket = cluster["n1"].core.add_member("n4", "n4:1", cluster.now)
    cluster.turn("n1")
    assert cluster["n1"].replica.guard.voters == {"n1", "n2", "n3"}, "not before it has caught up"
    cluster.tick(3 * HEARTBEAT_S)
    assert isinstance(ticket.result, Ack)
    assert all(cluster[name].replica.guard.voters == {"n1", "n2", "n3", "n4"} for name in ("n1", "n2", "n3", "n4"))
    assert cluster["n4"].core.machine.last_seq == 39


def test_no_removal_counts_on_who_has_said_nothing_to_this_leader():
    """n3 is down, and a new leader takes everybody for alive at first: the others could never lead without n3."""
    cluster = LogCluster(3)
    cluster.isolate("n3")
    cluster.elect("n1")
    core = cluster["n1"].core
    with pytest.raises(Busy, match="n3 did not answer this leader yet"):
        core.remove_member("n2", cluster.now)
    cluster.tick(3.0)
    assert core.replica.leads
    with pytest.raises(BadRequest, match="catching up is n3"):
        core.remove_member("n2", cluster.now)
    cluster.heal()
    cluster.tick(3 * HEARTBEAT_S)
    core.remove_member("n2", cluster.now)
    cluster.tick(3 * HEARTBEAT_S)
    assert core.replica.guard.voters == {"n1", "n3"}


def test_a_cluster_grows_from_one_and_shrinks_to_one():
    cluster = LogCluster(1, spares=2)
    cluster.tick(2.0)
    for name in ("n2", "n3"):
        cluster.join(name)
        cluster["n1"].core.add_member(name, f"{name}:1", cluster.now)
        cluster.tick(5 * HEARTBEAT_S)
    assert cluster["n1"].replica.guard.voters == {"n1", "n2", "n3"}
    for name in ("n2", "n3"):
        cluster["n1"].core.remove_member(name, cluster.now)
        cluster.tick(3 * HEARTBEAT_S)
    assert cluster["n1"].replica.guard.voters == {"n1"}
    ticket = cluster.submit("n1", batch(1, 1))
    cluster.settle()
    assert isinstance(ticket.result, Ack)


@audited("5", off=planted("two_changes_at_once"), harm="a second change before the first is committed")
def test_audit_05_one_change_at_a_time() -> None:
    """A leader that is cut off with a change under way is asked for another."""
    cluster = LogCluster(3, spares=2)
    cluster.elect("n1")
    cluster.isolate("n1")
    core = cluster["n1"].core
    core.add_member("n4", "n4:1", cluster.now)
    cluster.turn("n1")
    try:
        core.add_member("n5", "n5:1", cluster.now)
    except Busy:
        return
    expect(False, "a second change before the first is committed")


@audited("6", off=planted("members_forgotten_at_start"), harm="it goes by the members it had before")
def test_audit_06_a_change_that_is_in_the_log_counts_after_a_restart() -> None:
    """The leader has a change in its log, not committed, and starts again."""
    cluster = LogCluster(3, spares=1)
    cluster.elect("n1")
    cluster.isolate("n1")
    cluster["n1"].core.add_member("n4", "n4:1", cluster.now)
    cluster.turn("n1")
    cluster.sync("n1")
    cluster.kill("n1")
    cluster.restart("n1")
    expect("n4" in cluster["n1"].core.members.table, "it goes by the members it had before")


def test_audit_20_who_has_left_is_not_heard():
    cluster = LogCluster(3)
    cluster.elect("n1")
    cluster["n1"].core.remove_member("n3", cluster.now)
    cluster.turn("n1")
    cluster.cut("n1", "n3")
    cluster.tick(4.0)
    assert (cluster.leader, cluster["n1"].term) == ("n1", 1)
    assert cluster["n2"].replica.guard.departed == {"n3"}


def test_a_leader_asks_for_nothing_before_an_entry_of_its_own_term_is_committed():
    """The erratum on single-server changes: else a change of an older term could come back to life."""
    cluster = LogCluster(3, spares=1)
    cluster.elect("n1")
    cluster.cut("n1", "n3")
    cluster.hold("n1", "n2")
    cluster.elect("n2")
    cluster.isolate("n2")
    cluster["n2"].replica.engine._core._SyncObj__raftCommitIndex = 2  # as if its no-op were not committed yet
    with pytest.raises(Busy, match="this leader's term"):
        cluster["n2"].core.add_member("n4", "n4:1", cluster.now)


def test_a_follower_changes_nothing():
    cluster = LogCluster(3)
    cluster.elect("n1")
    with pytest.raises(NotLeader):
        cluster["n2"].core.add_member("n4", "n4:1", cluster.now)


def test_who_is_to_leave_never_holds_the_entry_that_says_so():
    """The leader dies with a removal that but for this only it and the one to be removed would have: the two that are
    left must be able to elect one of them."""
    cluster = LogCluster(3)
    cluster["n2"].patience = 0.0
    cluster.elect("n1")
    cluster.cut("n1", "n2")
    cluster["n1"].core.remove_member("n3", cluster.now)
    cluster.turn("n1")
    cluster.settle()
    assert "n3" in cluster["n3"].core.members.table
    cluster.kill("n1")
    cluster.tick(3.0)
    assert cluster.leader in ("n2", "n3")
