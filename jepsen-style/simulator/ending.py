"""The end of a run: everything is healed, so within a bound of virtual time all must be well and stay well.

1. All producers finish: each batch is acknowledged, or was refused for a reason of its own (P9).
2. In some runs, scripted checks of elections: a follower that was cut off and comes back deposes nobody; a leader that
   is cut off steps down within two election timeouts, and the others go on without it.
3. Every node has applied the same entries; derived state is the same to the byte.
4. What was acknowledged is there once, in the order of its producer, what was refused is not, nothing is half there.
5. Every subscriber has seen the log to its end.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from lanyinglog.errors import LanyingError, Outcome
from lanyinglog.machine.state_machine import StateMachine
from lanyinglog.service import Ack
from simulator.history import Violation

if TYPE_CHECKING:
    from simulator.node import Node
    from simulator.world import World

LIVE_WITHIN = 60
"""Election timeouts from healing to the last acknowledgement: links come back, a client gives up a silent node after
two, waits ten for a stalled one, and elections may split."""
STEP_DOWN_WITHIN = 1
PROBE_SLACK = 0.5
CALM_AFTER = 5
"""Election timeouts after which a message that was repeated has come for the last time."""


class Ending:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._scale = world.plan.timing.election_timeout_s

    def run(self) -> None:
        """All of it."""
        world = self._world
        for publisher in world.publishers:
            publisher.closing = True
        self._within("all producers finish", lambda: all(each.done for each in world.publishers))
        if world.plan.probes and not any(node.lost_for_good or node.disk.damaged for node in world.nodes.values()):
            self._calm_down()
            self._follower_returns()
            self._leader_is_cut_off()
        if world.plan.changes_members:
            self._within("it is known who belongs", world.members.settle)
        self._within("what was damaged is mended", self._is_mended)
        self._within("all nodes have the same log", self._is_even)
        self._check_state()
        self._check_bases()
        self._within("all subscribers read to the end", self._all_read)
        self._check_batches()

    # --------------------------------------------------------------------------------------------------- liveness
    def _within(self, what: str, done: object, *, timeouts: float = LIVE_WITHIN) -> None:
        world = self._world
        if done():  # type: ignore[operator]
            return
        limit = world.schedule.now + timeouts * self._scale
        world.schedule.run_until(limit, done)  # type: ignore[arg-type]
        if not done():  # type: ignore[operator]
            words = f"{timeouts:g} election timeouts after healing, and it is not so that {what}: {self._state()}"
            raise Violation("P9 live", words)

    def _state(self) -> str:
        nodes = [
            f"{node.name}: {node.core.replica.engine.role} term {node.core.replica.engine.term}"
            f" last {node.core.replica.journal.last_index} commit {node.core.replica.engine.commit}"
            if node.alive
            else f"{node.name}: down"
            for node in self._world.nodes.values()
        ]
        clients = [f"{each.name}: {each.settled} of {each.made}" for each in self._world.publishers]
        return "; ".join(nodes + clients)

    def _sound(self) -> list[Node]:
        """Nodes whose disks are whole: the others may stop at any read."""
        nodes = self._world.nodes.values()
        return [node for node in nodes if node.belongs and not node.lost_for_good and not node.disk.damaged]

    def _is_even(self) -> bool:
        nodes = self._sound()
        last = {node.core.replica.journal.last_index if node.alive else -1 for node in nodes}
        applied = {node.core.machine.applied if node.alive else -2 for node in nodes}
        joined = all(node.alive and not node.installing and node.disk.joined for node in nodes)
        return last == applied and len(last) == 1 and joined

    def _is_mended(self) -> bool:
        """On the disks of nodes that are up and belong. What no checkpoint covers yet may wait for the next one, and
        what all others have trimmed meanwhile can't be had any more."""
        running = [node for node in self._world.nodes.values() if node.alive and not node.installing]
        up = [node for node in running if node.name in node.core.members.table]
        return not any(
            self._has(node, index) and any(self._has(other, index) and index not in other.disk.damaged for other in up)
            for node in up
            for index in node.disk.damaged
        )

    @staticmethod
    def _has(node: Node, index: int) -> bool:
        return node.store.bounds()[0] <= index <= node.store.applied()

    def _all_read(self) -> bool:
        last = len(self._world.ledger.messages)
        return all(reader.through >= last for reader in self._world.subscribers)

    # ----------------------------------------------------------------------------------------------------- probes
    def _leader(self) -> Node | None:
        leaders = [node for node in self._world.nodes.values() if node.alive and node.core.replica.leads]
        return leaders[0] if len(leaders) == 1 else None

    def _calm_down(self) -> None:
        world = self._world
        self._within("there is one leader and an even log", lambda: self._leader() is not None and self._is_even())
        # What was sent in a clogged link is still on its way, perhaps the word to take over.
        late = max((link.last_arrival for link in world.network.links.values()), default=0.0)
        world.schedule.run_until(max(late, world.schedule.now) + CALM_AFTER * self._scale)
        self._within("there is one leader and an even log", lambda: self._leader() is not None and self._is_even())

    def _follower_returns(self) -> None:
        """Raft dissertation 9.6, audit 15."""
        world = self._world
        leader = self._leader()
        assert leader is not None
        term = leader.core.replica.engine.term
        follower = world.source.choice([node for node in world.nodes.values() if node is not leader])
        apart = {(follower.name, name) for name in world.names} | {(name, follower.name) for name in world.names}
        pause = world.source.random() < 0.5
        world.note("fault", "probe", f"{follower.name} is {'paused' if pause else 'cut off'} and returns")
        if pause:
            follower.pause()
        else:
            world.network.set_cut(apart, cut=True)
        world.schedule.run_until(world.schedule.now + world.source.uniform(2, 4) * self._scale)
        follower.resume()
        world.network.set_cut(apart, cut=False)
        world.schedule.run_until(world.schedule.now + 3 * self._scale)
        now = leader.core.replica.engine.term
        if not leader.core.replica.leads or now != term:
            words = f"{follower.name} came back, and {leader.name} no longer leads in term {term} but is in {now}"
            raise Violation("who returns deposes nobody", words, ("node", leader.name), ("node", follower.name))

    def _leader_is_cut_off(self) -> None:
        """Raft dissertation 6.2 (check quorum), P9."""
        world = self._world
        leader = self._leader()
        assert leader is not None
        apart = {(leader.name, name) for name in world.names} | {(name, leader.name) for name in world.names}
        world.note("fault", "probe", f"{leader.name} leads and is cut off")
        world.network.set_cut(apart, cut=True)
        limit = (STEP_DOWN_WITHIN + PROBE_SLACK) * self._scale
        world.schedule.run_until(world.schedule.now + limit)
        if leader.core.replica.leads:
            words = f"{leader.name} still leads {limit / self._scale:g} election timeouts after it was cut off"
            raise Violation("check quorum", words, ("node", leader.name))
        self._within("the others elect a leader", lambda: self._leader() is not None, timeouts=20)
        world.network.set_cut(apart, cut=False)

    # --------------------------------------------------------------------------------------------------- contents
    def _check_state(self) -> None:
        """Derived state, as a checkpoint of everything, is the same on all nodes."""
        first: tuple[str, bytes] | None = None
        for node in self._sound():
            state = fingerprint(node.core.machine)
            if first is None:
                first = (node.name, state)
            elif state != first[1]:
                words = f"{node.name} and {first[0]} have applied the same entries and differ in their tables"
                raise Violation("state-machine safety", words, ("node", node.name))

    def _check_bases(self) -> None:
        """The base of each node, from which a snapshot is made, is what replaying the log gives."""
        bases: dict[int, list[tuple[str, StateMachine]]] = {}
        for node in self._sound():
            first, _ = node.store.bounds()
            stored = StateMachine()
            stored.load(first - 1, node.store.base_rows(first))
            for base in (stored, node.core.trimmer.base):  # the one in memory may be ahead by a write
                bases.setdefault(base.applied, []).append((node.name, base))
        machine = StateMachine()
        for committed in self._world.ledger.entries:
            for name, base in bases.get(machine.applied, ()):
                if fingerprint(base) != fingerprint(machine):
                    words = f"the base of {name} is not the state as of entry {machine.applied}"
                    raise Violation("snapshots", words, ("node", name))
            machine.apply(machine.applied + 1, committed.command)

    def _check_batches(self) -> None:
        world = self._world
        for publisher in world.publishers:
            if publisher.settled != publisher.made:
                raise Violation("P7 answers", f"{publisher.name} never heard of a batch", ("client", publisher.name))
        for batch in world.ledger.batches():
            about = ("client", batch.client)
            if isinstance(batch.result, Ack) and not batch.first_seq:
                raise Violation(
                    "P1 durable", f"batch {batch.ordinal} of {batch.client} is acknowledged, not stored", about
                )
            refused = isinstance(batch.result, LanyingError) and batch.result.outcome is Outcome.DEFINITE
            if refused and batch.first_seq:
                raise Violation("P7 honest", f"batch {batch.ordinal} of {batch.client} is refused and stored", about)


def fingerprint(machine: StateMachine) -> bytes:
    """All derived state: what a first checkpoint would hold. Made from copies, for taking a checkpoint is an act."""
    producers, topics = copy.deepcopy(machine.producers), copy.deepcopy(machine.topics)
    producers._changed.update(producers._table)
    topics._changed.update(topics._table)
    rows = {**producers.take_changes(), **topics.take_changes()[0]}
    numbers = (machine.applied, machine.last_seq, machine.last_timestamp, machine.end_bytes)
    return repr((numbers, machine.retention, machine.first_index, machine.first_seq, sorted(rows.items()))).encode()
