"""Seqs without gap and timestamps that rise, whoever leads and whatever its clock says (P2)."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from raft.audit import planted
from raft.cluster import WALL_NS, LogCluster, batch

HOUR_NS = 3_600 * 10**9
NAMES = ("n1", "n2", "n3")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 4)),
        st.tuples(st.just("elect"), st.sampled_from(NAMES)),
        st.tuples(st.just("lose"), st.sampled_from(NAMES)),  # this leader proposes in vain; that one takes over
        st.tuples(st.just("clock"), st.tuples(st.sampled_from(NAMES), st.integers(-2 * HOUR_NS, 2 * HOUR_NS))),
        st.tuples(st.just("restart"), st.sampled_from(NAMES)),
    ),
    max_size=12,
)


class Run:
    """A cluster, and the acknowledgements it gave in their order."""

    def __init__(self) -> None:
        self.cluster = LogCluster(3)
        self.cluster.elect("n1")
        self.acked: list[tuple[int, int, int]] = []
        self.producer = 0

    def lead(self, name: str) -> None:
        self.cluster.heal()
        if self.cluster.leader != name:
            self.cluster.elect(name)
        self.cluster.tick(1.2)  # the others have the whole log, and pre-votes nobody's favour

    def publish(self, count: int) -> None:
        leader = self.cluster.leader
        assert leader is not None
        self.producer += 1
        ticket = self.cluster.submit(leader, batch(self.producer, 1, *[b"x"] * count))
        self.cluster.settle()
        result = ticket.result
        self.acked.append((result.first_seq, result.count, result.timestamp))  # type: ignore[union-attr]

    def lose(self, successor: str) -> None:
        leader = self.cluster.leader
        assert leader is not None
        if leader == successor:
            return
        self.cluster.isolate(leader)
        self.producer += 1
        self.cluster.submit(leader, batch(self.producer, 1, b"lost"))
        self.cluster.settle()
        self.lead(successor)

    def take(self, step: str, how: object) -> None:
        if step == "publish":
            self.publish(how)  # type: ignore[arg-type]
        elif step == "elect":
            self.lead(how)  # type: ignore[arg-type]
        elif step == "lose":
            self.lose(how)  # type: ignore[arg-type]
        elif step == "clock":
            name, self.cluster[name].wall_ns_ahead = how  # type: ignore[misc]
        else:
            self.cluster.kill(how)  # type: ignore[arg-type]
            self.cluster.restart(how)  # type: ignore[arg-type]
            self.lead(self.cluster.leader or "n1")

    def check(self) -> None:
        next_seq, last_timestamp = 1, 0
        for first_seq, count, timestamp in self.acked:
            assert first_seq == next_seq, "a gap"
            assert timestamp > last_timestamp, "time goes back"
            next_seq, last_timestamp = first_seq + count, timestamp + count - 1
        self.cluster.heal()
        self.cluster.tick(1.5)
        for node in self.cluster.nodes.values():
            machine = node.core.machine
            assert (machine.last_seq, machine.last_timestamp) == (next_seq - 1, last_timestamp)


def run(sequence: list[tuple[str, object]]) -> None:
    running = Run()
    for step, how in sequence:
        running.take(step, how)
    running.check()


BACKWARDS = [
    ("clock", ("n1", HOUR_NS)),
    ("publish", 3),
    ("elect", "n2"),
    ("publish", 2),
    ("clock", ("n2", -HOUR_NS)),
    ("publish", 1),
]


@settings(max_examples=25, deadline=None)
@given(steps)
@example(BACKWARDS)
def test_seqs_have_no_gap_and_timestamps_rise(sequence: list[tuple[str, object]]) -> None:
    run(sequence)


def test_the_wall_clock_alone_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    planted("wall_clock_alone")(monkeypatch)
    with pytest.raises(AssertionError, match="time goes back"):
        run(BACKWARDS)


def test_a_timestamp_is_the_wall_clock_where_it_can_be() -> None:
    cluster = LogCluster(3)
    cluster.elect("n1")
    cluster["n1"].wall_ns_ahead = HOUR_NS
    ticket = cluster.submit("n1", batch(1, 1))
    cluster.settle()
    assert ticket.result.timestamp == WALL_NS + int(cluster.now * 1e9) + HOUR_NS  # type: ignore[union-attr]


def test_a_new_leader_goes_on_behind_what_it_has_in_its_log_committed_or_not() -> None:
    """n1's clock is an hour ahead; n2 has its entry, which nobody has committed when n2 begins to lead."""
    cluster = LogCluster(3)
    cluster.elect("n1")
    cluster["n1"].wall_ns_ahead = HOUR_NS
    cluster.hold("n2", "n1")
    cluster.cut("n1", "n3")
    cluster.submit("n1", batch(1, 1, *[b"x"] * 5))
    cluster.settle()
    cluster.kill("n1")
    cluster.hold("n2", "n3")
    cluster.campaign("n2")
    cluster.deliver("n2", "n3")
    cluster.sync("n2")
    cluster.deliver("n2", "n3")
    cluster.sync("n3")
    cluster.deliver("n3", "n2")
    assert cluster["n2"].leads and cluster["n2"].core.machine.last_seq == 0
    ticket = cluster.submit("n2", batch(2, 1))
    cluster.turn("n2")
    cluster.release()
    cluster.settle()
    assert ticket.result.timestamp > WALL_NS + int(cluster.now * 1e9) + HOUR_NS + 4  # type: ignore[union-attr]
    assert cluster["n2"].core.machine.last_timestamp == ticket.result.timestamp  # type: ignore[union-attr]
