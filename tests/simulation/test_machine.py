"""A cluster in hypothesis' hands: it decides what happens and when, every step is checked, and it shrinks what fails.

The seeds of the simulator draw schedules at random; here the schedule itself is the example, so a failure is told as a
short list of rules.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from simulator import campaign  # noqa: F401  # registers the defects
from simulator.defects import DEFECTS
from simulator.history import Violation
from simulator.plan import Plan
from simulator.world import World

from lanyinglog.raft.timing import Timing

NODES = st.integers(1, 5).map(lambda number: f"n{number}")
ELECTION_S = 0.3


class Cluster(RuleBasedStateMachine):
    """`World` without faults of its own: the rules are the faults."""

    world: World | None = None

    @initialize(nodes=st.sampled_from((1, 3, 3, 5)), seed=st.integers(0, 1 << 20), checkpoint=st.sampled_from((1, 16)))
    def begin(self, nodes: int, seed: int, checkpoint: int) -> None:
        plan = Plan(seed, nodes, Timing(heartbeat_s=ELECTION_S / 10, election_timeout_s=ELECTION_S))
        plan.batches = 1_000
        plan.pause_between_batches_s = 1e9  # batches come by rule
        plan.producers, plan.subscribers = 2, 1
        plan.checkpoint_entries = checkpoint
        self.world = World(plan, random.Random(seed))
        self.world.start()
        self.tick(2.0)

    @rule(share=st.sampled_from((0.02, 0.1, 0.5, 1.0, 3.0)))
    def tick(self, share: float) -> None:
        """Time passes, in election timeouts."""
        self.world.schedule.run_until(self.world.schedule.now + share * ELECTION_S)

    @rule(publisher=st.integers(0, 1), batches=st.integers(1, 5))
    def publish(self, publisher: int, batches: int) -> None:
        for _ in range(batches):
            self.world.publishers[publisher].make()

    @rule(name=NODES, power=st.booleans())
    def kill(self, name: str, power: bool) -> None:
        if name in self.world.nodes:
            self.world.nodes[name].die("by rule", power=power)

    @rule(name=NODES, steps=st.integers(1, 12))
    def kill_in_some_steps(self, name: str, steps: int) -> None:
        if name in self.world.nodes:
            self.world.nodes[name].fuse = steps

    @rule(name=NODES)
    def restart(self, name: str) -> None:
        if name in self.world.nodes:
            self.world.nodes[name].start()

    @rule(name=NODES, stopped=st.booleans())
    def pause_or_resume(self, name: str, stopped: bool) -> None:
        if name in self.world.nodes:
            node = self.world.nodes[name]
            (node.pause if stopped else node.resume)()

    @rule(left=st.sets(NODES, min_size=1, max_size=3), one_way=st.booleans())
    def partition(self, left: set[str], one_way: bool) -> None:
        names = set(self.world.names)
        cut = {(a, b) for a in left & names for b in names - left}
        self.world.network.set_cut(cut if one_way else cut | {(b, a) for a, b in cut}, cut=True)

    @rule(batches=st.integers(1, 4), share=st.sampled_from((0.1, 1.2, 2.5)))
    def leader_alone(self, batches: int, share: float) -> None:
        """Who leads is cut off from all other nodes, not from its clients, and goes on for a while."""
        for node in self.world.nodes.values():
            if node.runs and node.core.replica.leads:
                others = set(self.world.names) - {node.name}
                self.world.network.set_cut(
                    {(node.name, b) for b in others} | {(a, node.name) for a in others}, cut=True
                )
                self.publish(0, batches)
                self.publish(1, batches)
                self.tick(share)
                return

    @rule()
    def client_loses_its_node(self) -> None:
        """Answers on their way are lost: the producer sends again."""
        for node in self.world.nodes.values():
            for connection in [*node.doors.sessions]:
                connection.broken()

    @precondition(lambda self: self.world is not None and self.world.network.cut)
    @rule()
    def mend(self) -> None:
        self.world.network.set_cut(set(self.world.network.cut), cut=False)

    @rule(name=NODES)
    def transfer(self, name: str) -> None:
        for node in self.world.nodes.values():
            if node.runs and node.core.replica.leads and name in node.core.replica.guard.peers:
                node.run(node.core.transfer, name, node.now)
                node.run(node.wake)

    @rule(name=NODES, full=st.booleans())
    def disk(self, name: str, full: bool) -> None:
        if name in self.world.nodes:
            self.world.nodes[name].disk.full = full

    @invariant()
    def no_two_leaders_share_a_term(self) -> None:
        if self.world is not None:
            led = [node.core.replica for node in self.world.nodes.values() if node.alive and node.core.replica.leads]
            assert len({replica.engine.term for replica in led}) == len(led)

    def teardown(self) -> None:
        """Healed, the cluster finishes all that was begun (every other property was checked at each step)."""
        if self.world is not None:
            try:
                self.world.finish()
            finally:
                self.world.close()


QUICK = settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
Cluster.TestCase.settings = QUICK
TestCluster = Cluster.TestCase


@pytest.mark.parametrize(
    ("name", "examples"),
    [("acknowledges_appended", 10), ("answers_before_sync", 10), ("vote_not_persisted", 10), ("no_deduplication", 200)],
)
def test_the_machine_finds_what_is_planted(name: str, examples: int) -> None:
    """Or it would prove nothing."""
    own = settings(
        QUICK,
        max_examples=examples,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    with DEFECTS[name].plant(), pytest.raises(Violation):
        run_state_machine_as_test(Cluster, settings=own)
