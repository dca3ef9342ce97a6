"""A node with an empty directory: what it may have promised before can't be lost, whoever else fails (P1)."""

from __future__ import annotations

from dataclasses import replace

from raft.lives import LivingCluster

from lanyinglog.machine.commands import KIND_MEMBERS, encode_command
from lanyinglog.raft.joining import Joining
from lanyinglog.raft.messages import Appended, Join, Joined, PreVote, Vote, VoteRequest


def test_a_new_cluster_joins_and_elects_by_itself() -> None:
    cluster = LivingCluster(3)
    cluster.tick(4)
    assert cluster.leader is not None
    assert all(cluster[name].joined for name in cluster.names)


def test_a_new_node_takes_no_part_before_it_has_heard_enough_others() -> None:
    """With n3 silent n1 and n2 can't know that they are new together: one may have lost what the other never had."""
    cluster = LivingCluster(3)
    cluster.kill("n3")
    cluster.tick(5)
    assert cluster.leader is None
    assert cluster["n1"].replica.joining is not None
    assert cluster["n1"].replica.joining.missing == ["n3"]
    cluster.restart("n3")
    cluster.tick(4)
    assert cluster.leader is not None


def committed_by_two() -> LivingCluster:
    """n1 leads and has, with n2 alone, committed entries that n3 has never seen."""
    cluster = LivingCluster(3)
    cluster.begin()
    cluster.isolate("n3")
    cluster.publish("n1", 3)
    return cluster


def test_who_lost_its_disk_helps_nobody_to_lead_who_lacks_what_it_acknowledged() -> None:
    cluster = committed_by_two()
    cluster.wipe("n2")
    cluster.tick(0.1)
    cluster.heal()
    cluster.isolate("n1")
    cluster.tick(10)
    assert cluster.leader in (None, "n1")
    assert not cluster["n3"].leads
    cluster.heal()
    cluster.tick(3)
    assert all(len(cluster[name].commands()) == 3 for name in cluster.names)


def test_who_has_heard_enough_acknowledges_before_it_may_vote() -> None:
    cluster = committed_by_two()
    cluster.heal()
    cluster.tick(0.5)
    cluster.hold("n2", "n1")
    cluster.hold("n2", "n3")
    cluster.wipe("n2")
    cluster.tick(0.3)
    for link in (("n2", "n1"), ("n2", "n3")):
        cluster.deliver(*link)
    cluster.tick(0.05)
    assert cluster["n2"].replica.joining is not None
    assert cluster["n2"].replica.joining.heard_enough
    assert not cluster["n2"].joined
    cluster.hand("n3", "n2", VoteRequest(cluster["n2"].term, 1_000, 1_000))
    assert not cluster.sent("n2", "n3", Vote)
    assert not cluster.sent("n2", "n3", PreVote)
    cluster.release()
    cluster.tick(3)
    assert cluster["n2"].joined


def test_a_node_without_all_answers_acknowledges_nothing() -> None:
    cluster = committed_by_two()
    cluster.wipe("n2")
    cluster.hold("n2", "n1")
    cluster.tick(2)
    assert cluster["n2"].last_index <= 1
    assert not [one for one in cluster.sent("n2", "n1", Appended) if isinstance(one, Appended) and one.success]


def test_it_takes_the_highest_term_and_abstains_in_it() -> None:
    cluster = committed_by_two()
    cluster.heal()
    cluster.tick(0.5)
    term = cluster["n1"].term
    cluster.hold("n1", "n2")  # no append reaches it: only what it was told
    cluster.wipe("n2")
    cluster.tick(0.2)
    for message in cluster.take("n1", "n2"):
        if isinstance(message, Joined):
            cluster.hand("n1", "n2", message)
    assert cluster["n2"].term == term
    assert cluster["n2"].replica.journal.hard_state.vote == "n2"


def test_a_leader_forgets_what_a_node_had_before_it_lost_its_disk() -> None:
    cluster = committed_by_two()
    assert cluster["n1"].replica.engine.match_index("n2") == cluster["n1"].last_index
    cluster.hold("n1", "n2")
    cluster.wipe("n2")
    cluster.tick(0.2)
    assert cluster["n1"].replica.engine.match_index("n2") == 0


def test_what_is_sent_while_it_is_deaf_is_sent_again_as_soon_as_it_hears() -> None:
    """Not only when the leader misses an answer to it, an election timeout later."""
    cluster = committed_by_two()
    cluster.heal()
    cluster.tick(0.5)
    cluster.hold("n3", "n2")
    cluster.wipe("n2")
    cluster.tick(0.25)  # the leader has told it what it knows, and sent it all, in vain
    assert cluster["n2"].last_index <= 1
    assert cluster["n1"].replica.guard.feeds.of("n2").in_flight
    cluster.release()
    cluster.tick(0.03)
    assert cluster["n2"].last_index == cluster["n1"].last_index
    assert cluster["n2"].joined


def test_who_lacks_what_is_trimmed_has_all_within_a_few_heartbeats() -> None:
    cluster = LivingCluster(3)
    cluster.begin()
    cluster.publish("n1", 6)
    cluster.limit("n1", 1)
    cluster.publish("n1", 3, first=7)
    cluster.hold("n3", "n2")
    cluster.wipe("n2")
    cluster.tick(0.25)
    cluster.release()
    cluster.tick(0.25)
    assert cluster["n2"].joined
    assert cluster["n2"].first_index == cluster["n1"].first_index > 2


def test_a_new_link_is_asked_over_at_once() -> None:
    cluster = committed_by_two()
    cluster.wipe("n2")
    cluster.tick(0.05)
    cluster.hold("n2", "n1")
    asked = len(cluster.sent("n2", "n1", Join))
    for peer in ("n1", "n9"):
        cluster["n2"].replica.peer_connected(peer, cluster.now)
    cluster.tick(0.001)
    assert len(cluster.sent("n2", "n1", Join)) == asked + 1


def test_a_newcomer_that_dies_before_it_is_done_is_a_newcomer_again() -> None:
    cluster = committed_by_two()
    cluster.wipe("n2")
    cluster.tick(0.5)
    cluster.kill("n2")
    cluster.restart("n2")
    assert cluster["n2"].replica.joining is not None
    cluster.heal()
    cluster.tick(2)
    assert cluster["n2"].joined
    cluster.kill("n2")
    cluster.restart("n2")
    assert cluster["n2"].replica.joining is None


def answer(number: int = 7, term: int = 3, *, blank: bool = False, leads: bool = False, last: int = 9) -> Joined:
    return Joined(term, number, blank, leads, last, votes=True)


def test_answers_to_another_question_do_not_count() -> None:
    joining = Joining(node="n1", peers=["n2", "n3"], number=7)
    joining.answered("n2", answer(6))
    joining.answered("n9", answer())
    assert joining.missing == ["n2", "n3"]
    joining.answered("n2", answer())
    joining.answered("n3", answer(term=5))
    assert joining.heard_enough
    assert joining.term == 5


def test_it_asks_with_another_number_as_soon_as_it_hears() -> None:
    joining = Joining(node="n1", peers=["n2", "n3"], number=7)
    joining.answered("n2", answer())
    assert joining.question(3).number == 7
    joining.answered("n3", answer(leads=True, last=20))
    assert joining.question(3).number == 8
    joining.answered("n3", answer(8, leads=True, last=30))
    assert joining.question(3).number == 8
    assert joining.is_done(term=3, reached=20)


def test_it_is_done_at_what_the_leader_of_its_term_had() -> None:
    joining = Joining(node="n1", peers=["n2", "n3"], number=7)
    joining.answered("n2", answer(term=4, leads=True, last=50))  # its time is over, and it does not know
    joining.answered("n3", answer(term=5, leads=True, last=60))
    assert not joining.is_done(term=4, reached=55)
    assert not joining.is_done(term=5, reached=59)
    assert joining.is_done(term=5, reached=60)
    joining.answered("n3", answer(term=5, leads=True, last=90))  # the goal stays where it was
    assert joining.is_done(term=5, reached=60)


def test_one_empty_log_among_others_proves_nothing() -> None:
    joining = Joining(node="n1", peers=["n2", "n3"], number=7)
    joining.answered("n2", answer(blank=True, last=1))
    joining.answered("n3", answer())
    assert not joining.is_done(term=3, reached=1)


def test_it_asks_whom_it_is_told_of_and_does_not_wait_for_who_left() -> None:
    joining = Joining(node="n1", peers=["n2", "n3"], number=7)
    joining.answered("n2", replace(answer(), voters=("n1", "n2", "n4"), departed=("n3",)))
    assert joining.question(0).peers == ("n2", "n4")
    assert joining.missing == ["n4"]
    joining.answered("n3", answer(term=9))
    assert joining.term == 3, "who left is not heard"
    joining.answered("n4", answer(term=5))
    assert joining.heard_enough
    assert joining.term == 5


def test_a_node_that_lost_its_disk_comes_back_though_others_of_its_settings_are_gone() -> None:
    cluster = LivingCluster(3)
    cluster.begin()
    cluster.kill("n3")
    gone = cluster["n1"].replica.membership.current.without("n3")
    cluster["n1"].replica.propose(encode_command(1, KIND_MEMBERS, gone.encode()))
    cluster.tick(1)
    cluster.publish("n1", 1)
    cluster.wipe("n2")
    cluster.tick(3)
    assert cluster["n2"].joined
    assert len(cluster["n2"].commands()) == len(cluster["n1"].commands())
