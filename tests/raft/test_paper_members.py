"""What the Raft paper says of members, claim by claim, on the product's own replicas: its section 6.

The paper changes members by joint consensus. The product changes one at a time, as the dissertation does in chapter 4
(``d``); what section 6 says of new servers, of leaders that leave and of removed servers holds for both. The claims of
the other sections are in `test_paper`.
"""

from __future__ import annotations

from itertools import combinations

import pytest
from raft.cluster import ELECTION_S, HEARTBEAT_S, LogCluster, batch

from lanyinglog.errors import BadRequest, Busy
from lanyinglog.machine.members import Members, added, removed
from lanyinglog.service import Ack


def _grown() -> LogCluster:
    """n4 was asked for and is in the leader's log alone; n1 leads n2 and n3."""
    cluster = LogCluster(3, spares=1)
    cluster.elect("n1")
    cluster.join("n4")
    cluster["n1"].core.add_member("n4", "n4:1", cluster.now)
    return cluster


def _majorities(voters: frozenset[str]) -> list[set[str]]:
    return [set(some) for some in combinations(sorted(voters), len(voters) // 2 + 1)]


@pytest.mark.parametrize("size", range(1, 9))
def test_d_4_1_any_majority_before_a_change_and_any_after_it_have_a_node_in_common(size: int):
    """Figure 4.3. A change is what the rules give: a learner first, which counts for nothing, then one vote."""
    before = Members.of({f"n{number}": f"h:{number}" for number in range(1, size + 1)})
    asked = added(before, "n9", "h:9")
    assert asked.voters == before.voters
    after = [asked.with_voter("n9")]
    if size > 1:
        after.append(removed(before, "n1", ready=before.voters))
    for one in _majorities(before.voters):
        for members in after:
            assert all(one & other for other in _majorities(members.voters))


def test_d_4_1_a_configuration_counts_from_the_moment_it_is_in_the_log():
    cluster = _grown()
    cluster.isolate("n1")
    cluster.turn("n1")
    assert cluster["n1"].commit < cluster["n1"].last_index
    assert "n4" in cluster["n1"].replica.membership.current.table
    assert "n4" not in cluster["n1"].replica.membership.settled.table


def test_d_4_1_who_loses_the_entry_falls_back_to_the_configuration_before():
    cluster = _grown()
    cluster.isolate("n1")
    cluster.turn("n1")
    cluster.sync("n1")
    cluster.elect("n2")
    assert "n4" in cluster["n1"].replica.membership.current.table
    cluster.heal()
    cluster.tick(2 * ELECTION_S)
    assert cluster.leader == "n2"
    assert set(cluster["n1"].replica.membership.current.table) == {"n1", "n2", "n3"}


def test_d_4_1_no_second_change_before_the_first_is_committed():
    cluster = _grown()
    cluster.isolate("n1")
    cluster.turn("n1")
    with pytest.raises(Busy, match="not committed"):
        cluster["n1"].core.remove_member("n3", cluster.now)
    cluster.heal()
    cluster.tick(2 * ELECTION_S)
    cluster["n1"].core.remove_member("n3", cluster.now)


def test_6_a_new_server_that_is_away_holds_up_nothing():
    """Section 6, the first issue; d 4.2.1: it counts for nothing yet. Two of three commit, too few of four."""
    cluster = _grown()
    cluster.settle()
    assert cluster["n1"].replica.membership.current.learners == {"n4"}
    cluster.kill("n3")
    cluster.kill("n4")
    ticket = cluster.submit("n1", batch(1, 1))
    cluster.settle()
    assert isinstance(ticket.result, Ack)


def test_6_a_learner_asks_nobody_for_a_vote():
    cluster = _grown()
    cluster.settle()
    assert cluster["n1"].replica.membership.current.learners == {"n4"}
    cluster.isolate("n4")
    cluster.now += 5 * ELECTION_S
    for _ in range(3):
        cluster.turn("n4")
        cluster.sync("n4")
    assert cluster["n4"].term == 1 and not cluster["n4"].leads


def test_6_a_leader_that_is_to_leave_leads_no_more_once_that_is_committed():
    """Section 6, the second issue; d 4.2.2 hands over instead of managing a cluster that one is no part of: so here."""
    cluster = LogCluster(3)
    cluster.elect("n1")
    cluster.tick(HEARTBEAT_S)
    cluster["n1"].core.transfer("n2", cluster.now)
    cluster.settle()
    assert cluster.leader == "n2"
    cluster.tick(3 * HEARTBEAT_S)
    cluster["n2"].core.remove_member("n1", cluster.now)
    cluster.tick(3 * HEARTBEAT_S)
    assert cluster["n2"].replica.guard.voters == {"n2", "n3"} and cluster.leader == "n2"
    ticket = cluster.submit("n2", batch(1, 1))
    cluster.settle()
    assert isinstance(ticket.result, Ack)


def test_6_a_removed_server_does_not_disrupt_the_cluster():
    """Section 6, the third issue; d 4.2.3. It hears no heartbeats, times out, and asks whoever it knows."""
    cluster = LogCluster(3)
    cluster.elect("n1")
    cluster.tick(HEARTBEAT_S)
    cluster.cut("n1", "n3")
    cluster["n1"].core.remove_member("n3", cluster.now)
    cluster.tick(5 * ELECTION_S)
    assert (cluster.leader, cluster["n1"].term, cluster["n2"].term) == ("n1", 1, 1)


def test_6_a_vote_request_is_disregarded_by_who_hears_a_leader():
    """The same from a member, on the minimum election timeout: a pre-vote here (d 9.6), so that no term rises."""
    cluster = LogCluster(3)
    cluster.elect("n1")
    cluster.tick(HEARTBEAT_S)
    cluster.cut("n1", "n3")
    cluster.tick(5 * ELECTION_S)
    assert (cluster.leader, cluster["n1"].term) == ("n1", 1)


def test_d_4_1_entries_are_taken_from_a_leader_that_is_no_member_by_ones_own_log():
    """A founder that has missed n4's addition follows n4."""
    cluster = _grown()
    cluster.cut("n1", "n3")
    cluster.cut("n2", "n3")
    cluster.cut("n4", "n3")
    cluster.tick(5 * HEARTBEAT_S)
    assert cluster["n1"].replica.guard.voters == {"n1", "n2", "n3", "n4"}
    assert "n4" not in cluster["n3"].replica.membership.current.table
    cluster.elect("n4")
    cluster.heal()
    cluster.tick(2 * ELECTION_S)
    assert cluster.leader == "n4"
    assert cluster["n3"].last_index == cluster["n4"].last_index
    assert cluster["n3"].replica.guard.voters == {"n1", "n2", "n3", "n4"}


def test_d_4_4_a_change_that_would_leave_too_few_is_refused():
    """Availability: d 4.2 has the operator see to it; here the leader does."""
    cluster = LogCluster(3)
    cluster.elect("n1")
    cluster.tick(HEARTBEAT_S)
    cluster.kill("n3")
    cluster.tick(2 * ELECTION_S)
    with pytest.raises(BadRequest, match="too few"):
        cluster["n1"].core.remove_member("n2", cluster.now)
