"""Who adds and removes nodes: asks whoever leads, as `lanyinglog cluster add` and `remove` do, and forgets about it.

A node that is to be added is started first, with a disk of its own that is empty. A node that was removed goes on
speaking until it is told, which takes a while, or until it starts again: nobody starts it then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanyinglog.errors import LanyingError

if TYPE_CHECKING:
    from simulator.node import Node
    from simulator.world import World


class MemberChanges:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._source = world.source
        self._scale = world.plan.timing.election_timeout_s

    def begin(self) -> None:
        """Look now and then who has left."""
        if self._world.plan.changes_members:
            self._world.schedule.after(self._scale, self._look)

    def add(self) -> str | None:
        """A spare node, or one whose addition came to nothing, asks to belong."""
        leader = self._leader()
        candidates = [name for name in self._world.names if name not in self._world.founders]
        if leader is None or not candidates:
            return None
        name = self._source.choice(candidates)
        members = leader.core.members
        if name in members.table or name in members.departed:
            return None
        node = self._world.nodes[name]
        if not node.belongs:
            node.settings = sorted(members.table)
            node.belongs = True
        node.start()
        return self._ask(leader, lambda: leader.core.add_member(name, f"{name}:1", leader.now), f"{name} joins")

    def remove(self) -> str | None:
        """A member leaves; a leader hands over first."""
        leader = self._leader()
        if leader is None:
            return None
        name = self._source.choice(sorted(leader.core.members.table))
        if name == leader.name:
            replica = leader.core.replica
            others = sorted(replica.guard.voters - {name})
            if others and replica.handing_over is None:
                leader.run(leader.core.transfer, self._source.choice(others), leader.now)
            return None
        return self._ask(leader, lambda: leader.core.remove_member(name, leader.now), f"{name} leaves")

    def _ask(self, leader: Node, change: object, words: str) -> str | None:
        try:
            change()  # type: ignore[operator]
        except LanyingError:
            return None
        leader.run(leader.wake)
        return words

    def _leader(self) -> Node | None:
        nodes = self._world.nodes.values()
        leaders = [node for node in nodes if node.runs and not node.installing and node.core.replica.leads]
        return self._source.choice(leaders) if leaders else None

    def _look(self) -> None:
        """Who has left, by what is committed, learns of it some day; nobody starts it again."""
        nodes = self._world.nodes.values()
        departed = set().union(*(node.core.departed for node in nodes if node.alive))
        for name in sorted(departed):
            node = self._world.nodes[name]
            if node.belongs and self._source.random() < 0.3:
                self.dismiss(node)
        self._world.schedule.after(self._scale * self._source.uniform(0.2, 1), self._look)

    def dismiss(self, node: Node) -> None:
        """It is told that it belongs no more, and ends."""
        node.belongs = False
        node.die("it was told that it left")

    def settle(self) -> bool:
        """After healing: who does not belong by the leader's committed members is gone; whether that is known."""
        leaders = [node for node in self._world.nodes.values() if node.alive and node.core.replica.leads]
        if len(leaders) != 1 or leaders[0].core.replica.membership.index > leaders[0].core.replica.engine.commit:
            return False
        table = leaders[0].core.members.table
        for node in self._world.nodes.values():
            if node.belongs and (node.name not in table or self._waits_in_vain(node)):
                self.dismiss(node)
        return True

    def _waits_in_vain(self, node: Node) -> bool:
        """Whether too many of those whom it was to ask have left since: its owner has to give it other settings."""
        left = [name for name in node.settings if self._world.nodes[name].belongs]
        return not node.disk.joined and 2 * len(left) <= len(node.settings)
