"""Defects of the engine's elections and promises: audit 8, 10, 12, 15, 16, 19, 20, 27. See `test_audit_log`."""

from __future__ import annotations

from typing import Any

import pysyncobj.syncobj
import pytest
from raft.audit import audited, nothing, planted, replaced
from raft.cluster import HEARTBEAT_S, Cluster, LogCluster, batch, expect

from lanyinglog.batcher import Batcher
from lanyinglog.errors import OutcomeUnknown, ProtocolError
from lanyinglog.machine import state_machine
from lanyinglog.raft.messages import Appended, Vote, from_parts


# ------------------------------------------------------------------------------------------------------------ audit 8
@audited("8", off=planted("votes_count_twice"), harm="elected by its own vote and one other of 5")
def test_audit_08_a_vote_that_comes_twice_counts_once() -> None:
    """n1 is a candidate among five; n2's vote arrives three times."""
    cluster = Cluster(5)
    for other in cluster.names[1:]:
        cluster.hold("n1", other)
    cluster.campaign("n1")
    cluster.sync("n1")
    for _ in range(3):
        cluster.hand("n2", "n1", Vote(cluster["n1"].term))
    expect(not cluster["n1"].leads, "elected by its own vote and one other of 5")


def test_audit_08_a_stranger_has_no_vote() -> None:
    """A node that is no member votes for n1."""
    cluster = Cluster(3)
    cluster.isolate("n1")
    cluster.campaign("n1")
    cluster.sync("n1")
    for voter in ("n9", "n2"):
        assert not cluster["n1"].leads
        cluster.hand(voter, "n1", Vote(cluster["n1"].term))
    assert cluster["n1"].leads, "a member's vote was all it lacked"


# ----------------------------------------------------------------------------------------------------------- audit 10
@audited("10", off=planted("leader_counts_itself_early"), harm="durability: 3 is committed on 1 of 3 disks")
def test_audit_10_a_leader_counts_itself_after_its_own_sync() -> None:
    """One follower has the entry on its disk and says so; the leader's own disk is slow."""
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.cut("n1", "n3")
    cluster.propose("n1", b"\0a")
    cluster.deliver("n1", "n2")
    cluster.sync("n2")
    cluster.deliver("n2", "n1")
    cluster.turn("n1")
    assert cluster["n1"].commit == 2, "not yet"
    cluster.sync("n1")
    assert cluster["n1"].commit == 3, "now"


@audited("10", off=planted("answers_before_sync"), harm="durability: 3 is committed on 1 of 3 disks")
def test_audit_10_a_follower_answers_after_its_sync() -> None:
    """The leader has the entry on its disk; the follower's disk is slow."""
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.cut("n1", "n3")
    cluster.propose("n1", b"\0a")
    cluster.sync("n1")
    cluster.deliver("n1", "n2")
    cluster.deliver("n2", "n1")
    cluster.turn("n1")
    assert cluster["n1"].commit == 2, "not yet"
    cluster.sync("n2")
    cluster.deliver("n2", "n1")
    cluster.turn("n1")
    assert cluster["n1"].commit == 3, "now"


@audited("10", off=planted("votes_before_sync"), harm="election safety: n2 and n1 lead in term 1")
def test_audit_10_a_vote_leaves_when_it_is_on_disk() -> None:
    """n3 votes for n1 and loses its power before the vote is on its disk; then n2 asks it in the same term."""
    cluster = Cluster(3)
    cluster.cut("n1", "n2")
    cluster.campaign("n1")
    cluster.sync("n1")
    cluster.deliver("n1", "n3")
    votes = cluster.take("n3", "n1")
    cluster.kill("n3")
    cluster.restart("n3")
    cluster.hold("n1", "n3")
    for vote in votes:
        cluster.hand("n3", "n1", vote)
    cluster.campaign("n2")
    cluster.settle()
    assert cluster["n2"].leads


@audited("10", off=planted("alone_and_early"), harm="durability: 3 is committed on 0 of 1 disks")
def test_audit_10_a_cluster_of_one_commits_after_its_sync() -> None:
    """A node alone is its own majority; the engine would count it in the turn behind the proposal."""
    cluster = Cluster(1)
    cluster.sync("n1")
    cluster.elect("n1")
    cluster.propose("n1", b"\0a")
    cluster.turn("n1")
    assert cluster["n1"].commit == 2, "not yet"
    cluster.sync("n1")
    assert cluster["n1"].commit == 3, "now"


@audited("10", off=planted("commits_before_sync"), harm="n3 applied what a power cut takes from it")
def test_audit_10_a_follower_commits_what_is_on_its_own_disk() -> None:
    """The other two have the entry on their disks, n3 in its memory: its readers must wait, for it may forget it."""
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.propose("n1", b"\0a")
    cluster.sync("n1")
    cluster.deliver("n1", "n2")
    cluster.sync("n2")
    cluster.deliver("n2", "n1")
    assert cluster["n1"].commit == 3
    cluster.deliver("n1", "n3")
    applied = list(cluster["n3"].applied)
    cluster.kill("n3")
    cluster.restart("n3")
    expect(applied[-1].index <= cluster["n3"].last_index, "n3 applied what a power cut takes from it")


# ----------------------------------------------------------------------------------------------------------- audit 12
parse = state_machine.parse_entry


def parse_or_wedge(command: bytes) -> Any:
    """A state machine that raises: the engine never gets past the entry."""
    try:
        return parse(command)
    except ValueError as error:
        raise KeyError(str(error)) from error


@audited("12", off=replaced(state_machine, "parse_entry", parse_or_wedge), harm="every node is stuck at the entry")
def test_audit_12_an_entry_nobody_can_read_stops_nobody() -> None:
    """An entry of bytes that mean nothing, then a batch."""
    cluster = LogCluster(3)
    cluster.elect("n1")
    cluster.propose("n1", b"\0\xff\xff nonsense")
    try:
        cluster.settle()
    except KeyError:
        expect(False, "every node is stuck at the entry")
    ticket = cluster.submit("n1", batch(1, 1))
    cluster.settle()
    assert ticket.result is not None
    assert {node.core.machine.last_seq for node in cluster.nodes.values()} == {1}


# ----------------------------------------------------------------------------------------------------------- audit 15
@audited("15", off=planted("no_pre_vote"), harm="a healthy leader was deposed")
def test_audit_15_a_node_that_comes_back_deposes_nobody() -> None:
    """n3 hears nobody for some seconds, again and again would like to be elected, and is heard again."""
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.tick(1.0)
    cluster.isolate("n3")
    cluster.tick(4.0)
    cluster.heal()
    cluster.tick(2.0)
    expect((cluster.leader, cluster["n1"].term) == ("n1", 1), "a healthy leader was deposed")
    assert cluster["n3"].term == 1


# ----------------------------------------------------------------------------------------------------------- audit 16
@audited("16", off=planted("older_terms_go_unanswered"), harm="two lead, and one of them in vain")
def test_audit_16_a_leader_of_an_older_term_is_told() -> None:
    """Only the link between the old leader and the new one is cut: the third node tells."""
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.cut("n1", "n2")
    cluster.elect("n2")
    cluster.tick(3 * HEARTBEAT_S)
    expect(not cluster["n1"].leads, "two lead, and one of them in vain")


@audited("16", off=planted("no_check_quorum"), harm="a leader nobody hears leads on")
def test_audit_16_a_leader_that_is_cut_off_steps_down_within_an_election_timeout() -> None:
    """n1 leads and is cut off from both others."""
    cluster = Cluster(3)
    cluster["n2"].patience = 0.0  # or the two would ask at the same time, for ever
    cluster.elect("n1")
    cluster.tick(1.0)
    cluster.isolate("n1")
    cluster.tick(1.2)
    expect(not cluster["n1"].leads, "a leader nobody hears leads on")
    assert cluster.leader in ("n2", "n3")


# ----------------------------------------------------------------------------------------------------------- audit 19
@audited("19", off=replaced(Batcher, "lose_leadership", nothing), harm="its producer is never told")
def test_audit_19_who_waits_at_a_deposed_leader_is_told_that_the_outcome_is_unknown() -> None:
    """A batch is proposed at a leader that is cut off, and another leader's entries take its place."""
    cluster = LogCluster(3)
    cluster.elect("n1")
    cluster.isolate("n1")
    ticket = cluster.submit("n1", batch(1, 1))
    cluster.settle()
    assert ticket.result is None
    cluster.elect("n2")
    cluster.heal()
    cluster.tick(1.0)
    expect(ticket.result is not None, "its producer is never told")
    assert isinstance(ticket.result, OutcomeUnknown)
    assert cluster["n1"].core.machine.last_seq == 0, "and it did not happen"


# ----------------------------------------------------------------------------------------------------------- audit 20
def test_audit_20_an_answer_of_a_stranger_is_not_heard() -> None:
    """A node that is no member says that it has the entry; then a member does."""
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.cut("n1", "n3")
    cluster.propose("n1", b"\0a")
    cluster.sync("n1")
    cluster.hand("n9", "n1", Appended(cluster["n1"].term, 99, True, 3, 4))
    assert cluster["n1"].commit == 2
    cluster.settle()
    assert cluster["n1"].commit == 3


# ----------------------------------------------------------------------------------------------------------- audit 27
def test_audit_27_the_engines_pickle_is_out_of_reach() -> None:
    """Whatever path leads there, no bytes become code."""
    for name in ("loads", "dumps"):
        with pytest.raises(AssertionError, match="no pickle in this product"):
            getattr(pysyncobj.syncobj.pickle, name)(b"cos\nsystem\n(S'true'\ntR.")


@pytest.mark.parametrize(
    ("kind", "header", "body"),
    [
        (1, {}, b""),
        (255, {}, b""),
        (130, {"term": -1}, b""),
        (130, {"term": "1", "number": 1, "prev_index": 1, "prev_term": 1, "commit": 1, "entries": []}, b""),
        (130, {"type": "apply_command", "command": b"\x02"}, b""),
    ],
    ids=["a client's kind", "unknown kind", "negative term", "term as text", "the engine's own words"],
)
def test_audit_27_only_a_closed_set_of_messages_is_heard(kind: int, header: dict[str, Any], body: bytes) -> None:
    with pytest.raises(ProtocolError):
        from_parts(kind, header, body)
