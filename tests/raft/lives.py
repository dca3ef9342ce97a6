"""`raft.cluster.LogCluster` whose logs get shorter and whose disks get lost: nodes join, trim and install snapshots."""

from __future__ import annotations

from raft.cluster import ELECTION_S, HEARTBEAT_S, LogCluster, LogNode, Node, batch

from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.raft.messages import PeerMessage
from lanyinglog.raft.timing import Timing
from lanyinglog.service import Ack
from lanyinglog.store.memory import MemoryDisk, MemoryStore
from lanyinglog.store.state import State


class LivingNode(LogNode):
    """A node that may be new to its directory, and whose log may be replaced."""

    lives = 0

    def uniform(self, low: float, high: float) -> float:
        if high > 1e6:  # the number by which a newcomer knows the answers to its question
            LivingNode.lives += 1_000  # each uses some that follow
            return float(LivingNode.lives)
        return super().uniform(low, high)

    def start(self, now: float) -> None:
        self.store = MemoryStore(self.disk)
        while self.store.install_step():
            pass
        self._begin(now)
        self.alive = True

    def _begin(self, now: float) -> None:
        self.core = LogCore(
            node=self.name,
            members=Members.of({name: f"{name}:1" for name in self.members}),
            store=self.store,
            timing=Timing(HEARTBEAT_S, ELECTION_S),
            uniform=self.uniform,
            now=now,
            checkpoint_entries=2,
            newcomer=not self.store.joined(),
        )
        self.replica = self.core.replica

    def sync(self, now: float) -> None:
        super().sync(now)
        if self.core.installed:
            while self.store.install_step():
                pass
            self._begin(now)

    @property
    def first_index(self) -> int:
        return self.replica.journal.first_index

    @property
    def joined(self) -> bool:
        return self.store.joined()


class LivingCluster(LogCluster):
    """All nodes begin with new directories."""

    def _make(self, name: str, terms: object) -> Node:
        return self._node(name, MemoryDisk(State(joined=False)))

    def _node(self, name: str, disk: MemoryDisk) -> Node:
        return LivingNode(name, self.names, disk, self.now)

    def __getitem__(self, name: str) -> LivingNode:
        node = self.nodes[name]
        assert isinstance(node, LivingNode)
        return node

    def _check(self, node: Node) -> None:
        for index in [index for index in self.committed if index < node.replica.journal.first_index]:
            del self.committed[index]  # trimmed: nobody can be asked for it
        super()._check(node)

    def check_logs_match(self) -> None:
        """Of what two logs both still have, all is equal up to the last entry in which they agree."""
        alive = [node for node in self.nodes.values() if node.alive]
        logs = [{entry.index: entry for entry in node.log()} for node in alive]
        for mine in logs:
            for theirs in logs:
                both = sorted(mine.keys() & theirs.keys())
                agreed = [index for index in both if mine[index].term == theirs[index].term]
                assert all(mine[index] == theirs[index] for index in both if agreed and index <= agreed[-1])

    # --------------------------------------------------------------------------------------------------- what happens
    def begin(self, leader: str = "n1") -> None:
        """All have joined, and ``leader`` leads."""
        self.tick(0.3)
        assert all(self[name].joined for name in self.names)
        self.elect(leader)

    def publish(self, name: str, count: int, *, producer: int = 1, first: int = 1) -> None:
        """``count`` batches of a message each, one entry each, acknowledged."""
        for number in range(first, first + count):
            ticket = self.submit(name, batch(producer, number))
            self.tick(0.05)
            assert isinstance(ticket.result, Ack), ticket.result

    def limit(self, name: str, messages: int) -> None:
        """Keep so many messages."""
        ticket = self[name].core.configure({"messages": messages}, self.now)
        self.tick(0.1)
        assert isinstance(ticket.result, Ack), ticket.result

    def wipe(self, name: str) -> None:
        """The node dies and its directory is gone; it starts on a new one."""
        self.kill(name)
        self.nodes[name].disk = MemoryDisk(State(joined=False))
        self.restart(name)

    def sent(self, sender: str, receiver: str, kind: type[PeerMessage]) -> list[PeerMessage]:
        """What waits on a link that is held, of one kind."""
        return [message for message in self.queued(sender, receiver) if isinstance(message, kind)]

    def rows(self, name: str) -> list[tuple[bytes, bytes]]:
        """The derived state of a node, on its disk."""
        return self[name].store.rows()
