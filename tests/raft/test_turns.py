"""When a replica wants a turn: whenever one would decide something, and not for what decides nothing.

That a turn which is not wanted brings nothing is searched for by the simulator (`Invariants.check_idle`); here is what
a small entry costs.
"""

from __future__ import annotations

from raft.cluster import Cluster


def at_rest() -> Cluster:
    cluster = Cluster(3)
    cluster.elect("n1")
    for node in cluster.nodes.values():
        node.advance(cluster.now)
        assert not node.replica.wants_turn
    return cluster


def test_a_proposal_wants_a_turn() -> None:
    cluster = at_rest()
    cluster["n1"].replica.propose(b"\x00a")
    assert cluster["n1"].replica.wants_turn


def test_an_answer_wants_a_turn_of_the_leader_if_it_makes_a_majority() -> None:
    cluster = at_rest()
    leader = cluster["n1"]
    cluster.propose("n1", b"a")
    answers = []
    for name in ("n2", "n3"):
        (append,) = cluster.take("n1", name)
        cluster[name].receive("n1", append, cluster.now)
        assert not cluster[name].replica.wants_turn, "it has something to write, and nothing to decide"
        cluster[name].sync(cluster.now)
        answers.append((name, cluster[name].replica.take_outbox()[0].message))
    leader.receive(*answers[0], cluster.now)
    assert not leader.replica.wants_turn, "its own disk is behind"
    leader.sync(cluster.now)
    assert leader.replica.wants_turn, "two of three have it"
    leader.advance(cluster.now)
    assert leader.commit == leader.last_index
    leader.receive(*answers[1], cluster.now)
    assert not leader.replica.wants_turn, "that the third has it too changes nothing"


def test_a_notice_of_commit_wants_a_turn_of_the_follower_once() -> None:
    cluster = at_rest()
    cluster.propose("n1", b"a")
    cluster.deliver("n1", "n2")
    cluster.sync("n2")
    cluster.deliver("n2", "n1")
    cluster.sync("n1")
    notices = cluster.take("n1", "n2")
    follower = cluster["n2"]
    for notice in notices:
        follower.receive("n1", notice, cluster.now)
        assert follower.replica.wants_turn
        follower.advance(cluster.now)
        assert follower.commit == cluster["n1"].commit
        follower.receive("n1", notice, cluster.now)
        assert not follower.replica.wants_turn
    assert notices
