"""What the Raft paper says, claim by claim, on the product's own replicas.

Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", extended version; ``d`` is Ongaro's
dissertation. Numbers are those of sections and figures.
"""

from __future__ import annotations

import pytest
from raft.cluster import ELECTION_S, HEARTBEAT_S, Cluster, LogCluster, batch, entries

from lanyinglog.errors import NotLeader
from lanyinglog.raft.messages import (
    Alive,
    Append,
    Appended,
    Heartbeat,
    PeerMessage,
    PreVote,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from lanyinglog.service import Ack


# ---------------------------------------------------------------------------------------------------------- 5.1 terms
@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
def test_5_1_whoever_hears_of_a_newer_term_takes_it_and_follows(leads: bool):
    cluster = Cluster(3)
    cluster.elect("n1" if leads else "n2")
    cluster.hand("n3", "n1", Heartbeat(7, 1))
    assert (cluster["n1"].term, cluster["n1"].leads) == (7, False)


def test_5_1_a_request_with_an_older_term_is_rejected():
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.elect("n2")
    before = cluster["n3"].log()
    cluster.hand("n1", "n3", Append(1, 99, cluster["n3"].last_index, 2, 1, tuple(before[-1:])))
    cluster.hand("n1", "n3", VoteRequest(1, 99, 99))
    cluster.sync("n3")
    answers = cluster.queued("n3", "n1")
    assert not [m for m in answers if isinstance(m, Appended | Vote)]
    assert Alive(2) in answers, "the answer has the newer term"
    assert cluster["n3"].log() == before


# ------------------------------------------------------------------------------------------------ 5.2 leader election
def test_5_2_a_node_starts_as_a_follower_and_stays_one_while_it_hears_a_leader():
    cluster = Cluster(3)
    assert not any(node.leads for node in cluster.nodes.values())
    cluster.elect("n1")
    cluster.tick(5 * ELECTION_S)
    assert {node.term for node in cluster.nodes.values()} == {1}


def test_5_2_a_leader_sends_heartbeats_to_all():
    cluster = Cluster(3)
    cluster.elect("n1")
    for other in ("n2", "n3"):
        cluster.hold("n1", other)
    cluster.tick(HEARTBEAT_S)
    assert cluster.queued("n1", "n2") and cluster.queued("n1", "n3")


@pytest.mark.parametrize(("size", "votes"), [(3, 1), (5, 2)])
def test_5_2_a_majority_of_votes_in_one_term_makes_a_leader_and_no_fewer(size: int, votes: int):
    cluster = Cluster(size)
    for other in cluster.names[1:]:
        cluster.hold("n1", other)
    cluster.campaign("n1")
    cluster.sync("n1")
    for voter in cluster.names[1 : 1 + votes]:
        assert not cluster["n1"].leads
        cluster.hand(voter, "n1", Vote(1))
    assert cluster["n1"].leads


def test_5_2_a_node_gives_one_vote_in_a_term_first_come_first_served():
    cluster = Cluster(3)
    cluster.hand("n1", "n3", VoteRequest(1, 1, 0))
    cluster.hand("n2", "n3", VoteRequest(1, 1, 0))
    cluster.sync("n3")
    assert [m for m in cluster.queued("n3", "n1") if isinstance(m, Vote)]
    assert not [m for m in cluster.queued("n3", "n2") if isinstance(m, Vote)]


def test_5_2_a_vote_is_remembered_over_a_restart():
    cluster = Cluster(3)
    cluster.hand("n1", "n3", VoteRequest(1, 1, 0))
    cluster.sync("n3")
    cluster.kill("n3")
    cluster.restart("n3")
    cluster.hand("n2", "n3", VoteRequest(1, 1, 0))
    cluster.sync("n3")
    assert not [m for m in cluster.queued("n3", "n2") if isinstance(m, Vote)]


def test_5_2_a_candidate_that_hears_a_leader_of_its_term_follows_it():
    cluster = Cluster(3)
    cluster.isolate("n1")
    cluster.campaign("n1")
    cluster.elect("n2")
    assert cluster["n1"].term == cluster["n2"].term == 1
    cluster.heal()
    cluster.tick(2 * HEARTBEAT_S)
    assert cluster["n1"].replica.engine.leader == "n2"


def test_5_2_a_split_vote_ends_because_patience_differs():
    cluster = Cluster(4)
    cluster.cut("n1", "n2")
    cluster.campaign("n1")
    cluster.campaign("n2")
    cluster.hold("n1", "n4")
    cluster.hold("n2", "n3")
    cluster.settle()
    assert cluster.leader is None, "two votes each"
    cluster.heal()
    cluster.release()
    cluster["n1"].patience = 0.0
    cluster.tick(2 * ELECTION_S)
    assert cluster.leader is not None


# ------------------------------------------------------------------------------------------------- 5.3 log replication
def test_5_3_an_entry_is_committed_once_a_majority_has_it():
    cluster = Cluster(5)
    cluster.elect("n1")
    for silent in ("n4", "n5"):
        cluster.cut("n1", silent)
    cluster.propose("n1", b"\0a")
    cluster.settle()
    assert cluster["n1"].commit == 3
    cluster.cut("n1", "n3")
    cluster.propose("n1", b"\0b")
    cluster.settle()
    assert cluster["n1"].commit == 3


def test_5_3_followers_learn_of_a_commit_and_apply_in_log_order():
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.propose("n1", b"\0a", b"\0b", b"\0c")
    cluster.settle()
    for node in cluster.nodes.values():
        assert [entry.index for entry in node.applied] == [1, 2, 3, 4, 5]


def test_5_3_a_follower_refuses_entries_that_do_not_continue_its_log():
    cluster = Cluster(3, logs={"n2": [0, 1, 1]})
    entry = cluster["n2"].replica.journal.entry(3)
    cluster.hand("n2", "n1", Append(2, 1, 2, 1, 1, (entry,)))
    cluster.sync("n1")
    refusals = [m for m in cluster.queued("n1", "n2") if isinstance(m, Appended)]
    assert [m.success for m in refusals] == [False]
    assert cluster["n1"].last_index == 1


FIGURE_7 = {
    "a: lacks one": [0, 1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b: lacks many": [0, 1, 1, 1, 4],
    "c: one too many": [0, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d: two of a later term too many": [0, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e: both": [0, 1, 1, 1, 4, 4, 4, 4],
    "f: terms nobody else saw": [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("log", FIGURE_7.values(), ids=FIGURE_7)
def test_5_3_a_leader_makes_a_followers_log_its_own_figure_7(log: list[int]):
    leader = [0, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    cluster = Cluster(3, logs={"n1": leader, "n2": log, "n3": leader}, term=7)
    cluster.elect("n1")
    cluster.tick(2 * ELECTION_S)
    assert cluster["n2"].log() == cluster["n1"].log()
    assert cluster["n1"].terms() == [*leader, cluster["n1"].term], "a leader only appends"


# ------------------------------------------------------------------------------------------------------- 5.4 safety
@pytest.mark.parametrize(
    ("mine", "theirs", "granted"),
    [
        ([0, 1], [0, 1], True),
        ([0, 1], [0, 1, 1], True),
        ([0, 1, 1], [0, 1], False),
        ([0, 1, 1, 1], [0, 2], True),
        ([0, 2], [0, 1, 1, 1], False),
    ],
    ids=["equal", "longer", "shorter", "later term, shorter", "older term, longer"],
)
def test_5_4_1_a_vote_goes_to_logs_at_least_as_up_to_date(mine: list[int], theirs: list[int], granted: bool):
    cluster = Cluster(3, logs={"n1": mine})
    cluster.hand("n2", "n1", VoteRequest(9, len(theirs), theirs[-1]))
    cluster.sync("n1")
    votes = [m for m in cluster.queued("n1", "n2") if isinstance(m, Vote)]
    assert bool(votes) == granted


def test_5_4_2_entries_of_older_terms_are_committed_with_one_of_the_leaders_own_figure_8():
    """(c) of the figure: index 3 of term 2 is on a majority, and is not committed by that; (e): with an entry of the
    leader's term it is."""
    logs = {"n1": [0, 1, 2], "n2": [0, 1, 2], "n3": [0, 1], "n4": [0, 1], "n5": [0, 1, 3]}
    cluster = Cluster(5, logs=logs, term=3)
    cluster.isolate("n5")
    for other in ("n2", "n3", "n4"):
        cluster.hold("n1", other)
    cluster.campaign("n1")
    cluster.sync("n1")
    for voter in ("n2", "n3"):
        cluster.hand(voter, "n1", Vote(cluster["n1"].term))
    assert cluster["n1"].leads
    old = cluster["n1"].replica.journal.entry(3)
    cluster.links["n1", "n3"].clear()
    cluster.hand("n1", "n3", Append(cluster["n1"].term, 1, 2, 1, 1, (old,)))
    cluster.sync("n3")
    cluster.deliver("n3", "n1")
    cluster.hand("n2", "n1", Appended(cluster["n1"].term, 1, True, 3, 4))
    cluster.turn("n1")
    assert cluster["n1"].commit < 3, "counted, and not committed"
    cluster.release()
    cluster.tick(2 * ELECTION_S)
    assert cluster["n1"].commit == 4, "its own no-op takes the others along"


# ------------------------------------------------------------------------------------------- figure 2: stable storage
@pytest.mark.parametrize(
    "request_of_n2",
    [Append(5, 1, 1, 0, 1, tuple(entries([0, 5])[1:])), VoteRequest(5, 9, 4), Heartbeat(5, 1)],
    ids=["append", "vote", "heartbeat of a newer term"],
)
def test_figure_2_what_a_request_changes_is_on_disk_before_it_is_answered(request_of_n2: PeerMessage):
    cluster = Cluster(3)
    cluster.settle()
    cluster.hand("n2", "n1", request_of_n2)
    assert not [m for m in cluster.queued("n1", "n2") if isinstance(m, Appended | Vote | Alive)]
    cluster.sync("n1")
    assert [m for m in cluster.queued("n1", "n2") if isinstance(m, Appended | Vote | Alive)]
    assert cluster["n1"].store.hard_state().term == 5


# --------------------------------------------------------------------------------------------- 5.5 crashes, 5.6 timing
def test_5_5_a_request_that_comes_twice_does_no_harm():
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.hold("n1", "n2")
    cluster.propose("n1", b"\0a", b"\0b", b"\0c")
    first, *others = cluster.take("n1", "n2")
    for message in (first, first, *others, first, *reversed(others), first):
        cluster.hand("n1", "n2", message)
    cluster.sync("n2")
    assert cluster["n2"].commands() == [b"\0a", b"\0b", b"\0c"]


def test_5_5_a_leader_tries_until_a_crashed_follower_is_back():
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.kill("n3")
    cluster.propose("n1", b"\0a", b"\0b")
    cluster.tick(3 * ELECTION_S)
    cluster.restart("n3")
    cluster.tick(2 * HEARTBEAT_S)
    assert cluster["n3"].commands() == [b"\0a", b"\0b"]


def test_5_6_a_new_leader_within_two_election_timeouts():
    cluster = Cluster(3)
    cluster["n2"].patience = 0.0
    cluster.elect("n1")
    cluster.tick(HEARTBEAT_S)
    cluster.kill("n1")
    cluster.tick(2 * ELECTION_S)
    assert cluster.leader in ("n2", "n3")


# ----------------------------------------------------------------------------------------------- 8 client interaction
def test_8_a_client_is_sent_to_the_leader():
    cluster = LogCluster(3)
    cluster.elect("n1")
    with pytest.raises(NotLeader):
        cluster.submit("n2", batch(1, 1))


def test_8_a_command_that_is_sent_again_after_a_crash_is_executed_once():
    cluster = LogCluster(3)
    cluster.elect("n1")
    cluster.submit("n1", batch(1, 1, b"once"))
    cluster.settle()
    cluster.kill("n1")
    cluster.elect("n2")
    ticket = cluster.submit("n2", batch(1, 1, b"once"))
    cluster.settle()
    assert isinstance(ticket.result, Ack) and ticket.result.duplicate
    assert cluster["n2"].core.machine.last_seq == 1


def test_8_a_new_leader_commits_a_no_op_first():
    cluster = Cluster(3)
    cluster.elect("n1")
    assert cluster["n1"].log()[-1].command == b"\x01"
    assert cluster["n1"].commit == 2


# ------------------------------------------------------------------------------------------------------- dissertation
def test_d_10_2_1_a_leader_sends_while_it_writes_and_counts_itself_when_it_has_written():
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.cut("n1", "n3")
    cluster.propose("n1", b"\0a")
    assert cluster["n1"].durable(3) is None
    cluster.deliver("n1", "n2")
    cluster.sync("n2")
    cluster.deliver("n2", "n1")
    assert cluster["n2"].durable(3) is not None and cluster["n1"].commit == 2
    cluster.sync("n1")
    assert cluster["n1"].commit == 3


def test_d_10_2_1_beyond_the_claim_a_commit_waits_for_the_leaders_disk_too():
    """Two of three have it. The product waits for its leader all the same: who leads can then read what it commits."""
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.propose("n1", b"\0a")
    for name in ("n2", "n3"):
        cluster.deliver("n1", name)
        cluster.sync(name)
        cluster.deliver(name, "n1")
    assert cluster["n1"].commit == 2
    cluster.sync("n1")
    assert cluster["n1"].commit == 3


def test_d_3_10_a_leader_hands_over_to_a_follower_that_has_all_of_its_log():
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.propose("n1", b"\0a")
    cluster["n1"].replica.transfer("n3", cluster.now)
    cluster.settle()
    assert cluster.leader == "n3" and not cluster["n1"].leads
    assert cluster["n3"].commands() == [b"\0a"]


def test_d_3_10_only_the_leader_can_start_anothers_election():
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.hand("n2", "n3", TimeoutNow(1))
    cluster.settle()
    assert cluster.leader == "n1"


def test_d_6_2_a_leader_without_a_majority_steps_down():
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.tick(HEARTBEAT_S)
    cluster.isolate("n1")
    cluster.tick(ELECTION_S + 2 * HEARTBEAT_S)
    assert not cluster["n1"].leads


def test_d_6_2_a_leader_that_is_heard_and_hears_nobody_hands_on_what_it_can_not_do():
    """Else the others would wait for a whole timeout of their own, from its last heartbeat on."""
    cluster = Cluster(3)
    cluster["n2"].patience = cluster["n3"].patience = 1.0
    cluster.elect("n1")
    cluster.tick(HEARTBEAT_S)
    cluster.deafen("n1")
    cluster.tick(ELECTION_S + 2 * HEARTBEAT_S)
    assert not cluster["n1"].leads
    assert cluster.leader in ("n2", "n3")


def test_d_6_2_who_is_asked_to_take_over_is_the_most_complete_of_those_that_are_silent():
    cluster = Cluster(5)
    cluster.elect("n1")
    cluster.hold("n1", "n3")
    cluster.propose("n1", b"\0a")
    cluster.settle()  # all but n3 have it
    for name in ("n3", "n4", "n5"):
        cluster.hold(name, "n1")
    cluster.tick(ELECTION_S + 2 * HEARTBEAT_S)
    assert not cluster["n1"].leads
    assert cluster.leader == "n4", "n2 was heard, n3 lacks an entry"
    assert not any(isinstance(message, TimeoutNow) for message in cluster.queued("n1", "n3"))


def test_d_9_6_a_pre_vote_is_refused_by_who_hears_a_leader_and_changes_nothing():
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.tick(HEARTBEAT_S)
    cluster.isolate("n3")
    cluster.tick(2 * ELECTION_S)
    assert cluster["n3"].term == 1, "it asks, and does not raise its term"
    cluster.heal()
    cluster.hold("n2", "n3")
    cluster.tick(HEARTBEAT_S)
    assert not [m for m in cluster.queued("n2", "n3") if isinstance(m, PreVote) and m.granted]
    assert cluster.leader == "n1"
