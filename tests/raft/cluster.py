"""A Raft cluster by hand: virtual time, a network whose every message can be held, dropped or repeated, disks that
forget what was not synced. Deterministic; the product's own replicas, unchanged.

A test says what happens, in order::

    cluster = Cluster(3)
    cluster.elect("n1")                    # settled: all messages delivered, all disks synced
    cluster.cut("n1", "n3")                # from here on the link drops, both ways; `hold` queues instead
    cluster.propose("n1", b"a")            # one entry, appended by a turn of n1; nothing is delivered yet
    cluster.deliver("n1", "n2")            # what is queued on that link, each followed by a turn of n2
    cluster.sync("n2")                     # n2's disk
    cluster.settle()                       # all of it, until nothing moves

After every step the properties of the Raft paper's figure 3 are checked, and that a commit is on a majority of disks; a
breach raises `Broken`, in words. `LogCluster` is the same with whole logs (`LogCore`) instead of bare replicas.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from lanyinglog import record
from lanyinglog.batcher import BatcherLimits, Ticket
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members, members_in
from lanyinglog.raft.messages import PeerMessage
from lanyinglog.raft.replica import Replica
from lanyinglog.raft.timing import Timing
from lanyinglog.store.log_store import Entry, HardState, Writes, entry_crc
from lanyinglog.store.memory import MemoryDisk, MemoryStore

HEARTBEAT_S = 0.1
ELECTION_S = 1.0
STEP_S = 0.05
_ROUNDS_MAX = 2_000
WALL_NS = 1_800_000_000 * 10**9
"""What right clocks say when the cluster's time is 0."""
Link = tuple[str, str]


class Broken(Exception):
    """A property of Raft, or a promise, does not hold."""


def expect(condition: bool, harm: str) -> None:
    """`Broken` with ``harm`` unless ``condition``."""
    if not condition:
        raise Broken(harm)


def entries(terms: Sequence[int], *, label: str = "") -> list[Entry]:
    """A log with these terms at indexes 1, 2, 3 ... Entries of the same index, term and label are the same."""
    made = []
    for index, term in enumerate(terms, start=1):
        command = b"\x01" if index == 1 else b"\x00%s%d@%d" % (label.encode(), index, term)
        made.append(Entry(index, term, command, entry_crc(index, term, command)))
    return made


class Node:
    """One replica, its disk, and what it applied."""

    def __init__(self, name: str, members: Sequence[str], disk: MemoryDisk, now: float) -> None:
        self.name = name
        self.members = members
        self.disk = disk
        self.patience = 1.0
        """Where in the range of its election timeouts this node's dice fall, 0 to 1."""
        self.alive = False
        self.applied: list[Entry] = []
        self.replica: Replica
        self.start(now)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.patience

    def start(self, now: float) -> None:
        """From what is on the disk; the state machine starts empty."""
        self.store = MemoryStore(self.disk)
        self.applied = []
        self.replica = Replica(
            node=self.name,
            members=Members.of({name: f"{name}:1" for name in self.members}),
            members_in=members_in,
            store=self.store,
            applied=0,
            apply=self.applied.append,
            timing=Timing(HEARTBEAT_S, ELECTION_S),
            uniform=self.uniform,
            now=now,
        )
        self.replica.start(0)
        self.alive = True

    def receive(self, sender: str, message: PeerMessage, now: float) -> None:
        self.replica.receive(sender, message, now)

    def advance(self, now: float) -> None:
        self.replica.advance(now)

    @property
    def wants_write(self) -> bool:
        return self.replica.wants_write

    def sync(self, now: float) -> None:
        writes = self.replica.begin_write()
        self.store.write(writes)
        self.replica.end_write(now)

    # ---------------------------------------------------------------------------------------- what a test may ask
    @property
    def leads(self) -> bool:
        return self.alive and self.replica.leads

    @property
    def term(self) -> int:
        return self.replica.engine.term

    @property
    def commit(self) -> int:
        return self.replica.engine.commit

    @property
    def last_index(self) -> int:
        return self.replica.journal.last_index

    def log(self) -> list[Entry]:
        """All entries, on disk or not."""
        journal = self.replica.journal
        return [journal.entry(index) for index in range(journal.first_index, journal.last_index + 1)]

    def terms(self) -> list[int]:
        """The terms of all entries."""
        return [entry.term for entry in self.log()]

    def commands(self) -> list[bytes]:
        """What was proposed, without the leaders' no-ops."""
        return [entry.command for entry in self.log() if entry.command != b"\x01"]

    def durable(self, index: int) -> Entry | None:
        """The entry on the disk, if there is one."""
        return self.store.entry(index) if index in self.disk.entries else None


class Cluster:
    """See the module. ``logs`` has the terms of what is on some nodes' disks before the start; those nodes have been in
    ``term``, too."""

    def __init__(self, size: int, *, logs: Mapping[str, Sequence[int]] | None = None, term: int = 0) -> None:
        self.names = tuple(f"n{number}" for number in range(1, size + 1))
        self.now = 100.0
        self.links: defaultdict[Link, deque[PeerMessage]] = defaultdict(deque)
        self.dropping: set[Link] = set()
        self.holding: set[Link] = set()
        self.committed: dict[int, Entry] = {}
        self.leaders: dict[int, str] = {}
        self._past_term = term
        self.nodes = {name: self._make(name, (logs or {}).get(name)) for name in self.names}
        for name in self.names:
            self.nodes[name].patience = 1.0

    def _make(self, name: str, terms: Sequence[int] | None) -> Node:
        disk = MemoryDisk()
        if terms:
            stored = entries(terms)
            MemoryStore(disk).write(
                Writes(entries=stored, hard_state=HardState(max(self._past_term, stored[-1].term), None, 1))
            )
        return self._node(name, disk)

    def _node(self, name: str, disk: MemoryDisk) -> Node:
        return Node(name, self.names, disk, self.now)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    # ------------------------------------------------------------------------------------------------- one node
    def turn(self, name: str) -> None:
        """One turn of the node; what may leave it goes onto its links."""
        node = self.nodes[name]
        if node.alive:
            node.advance(self.now)
            self._post(node)

    def sync(self, name: str) -> None:
        """All that the node wants on its disk is there, and it turns."""
        node = self.nodes[name]
        while node.alive and node.wants_write:
            node.sync(self.now)
            self._check(node)
            self.turn(name)

    def propose(self, name: str, *commands: bytes) -> None:
        """One entry and one turn for each."""
        node = self.nodes[name]
        for command in commands:
            assert node.replica.may_append, f"{name} may not propose"
            node.replica.propose(command)
            self.turn(name)

    def campaign(self, name: str) -> None:
        """Start an election there, as if a majority had wished it luck before."""
        node = self.nodes[name]
        node.replica._campaign(self.now)
        self.turn(name)

    def kill(self, name: str) -> None:
        """The process ends; the disk keeps what was synced; what was under way to and from it is lost."""
        self.nodes[name].alive = False
        for link in list(self.links):
            if name in link:
                self.links[link].clear()

    def restart(self, name: str) -> None:
        """The process starts again, on its disk, and the others have new links to it."""
        self.nodes[name].start(self.now)
        for other in self.nodes.values():
            if other.alive and other.name != name:
                other.replica.peer_connected(name, self.now)

    def _post(self, node: Node) -> None:
        take = node.core.take_outbox if isinstance(node, LogNode) else node.replica.take_outbox
        for outgoing in take():
            link = (node.name, outgoing.to)
            there = self.nodes.get(outgoing.to)  # None: a member that nobody has started yet
            if link not in self.dropping and there is not None and there.alive:
                self.links[link].append(outgoing.message)
        self._check(node)

    # -------------------------------------------------------------------------------------------------- the network
    def cut(self, one: str, other: str) -> None:
        """Between the two nothing passes from now on."""
        self._drop({(one, other), (other, one)})

    def isolate(self, *names: str) -> None:
        """Between these and all others nothing passes from now on."""
        self._drop({(a, b) for a in self.names for b in self.names if (a in names) != (b in names)})

    def deafen(self, name: str) -> None:
        """Nothing reaches it from now on; what it says still arrives."""
        self._drop({(other, name) for other in self.names if other != name})

    def _drop(self, links: set[Link]) -> None:
        self.dropping |= links
        for link in links:
            self.links[link].clear()

    def heal(self) -> None:
        """All links carry again."""
        self.dropping.clear()

    def hold(self, sender: str, receiver: str) -> None:
        """Keep what is sent on that link until the test delivers it."""
        self.holding.add((sender, receiver))

    def release(self) -> None:
        """Hold nothing any more."""
        self.holding.clear()

    def deliver(self, sender: str, receiver: str, count: int | None = None) -> None:
        """What is queued on the link (or its first ``count`` messages), each followed by a turn of the receiver."""
        link = self.links[sender, receiver]
        for _ in range(len(link) if count is None else count):
            self.hand(sender, receiver, link.popleft())

    def hand(self, sender: str, receiver: str, message: PeerMessage) -> None:
        """A message, from nowhere if need be."""
        node = self.nodes[receiver]
        if node.alive:
            node.receive(sender, message, self.now)
            self._check(node)
            self.turn(receiver)

    def queued(self, sender: str, receiver: str) -> list[PeerMessage]:
        """What waits on the link."""
        return list(self.links[sender, receiver])

    def take(self, sender: str, receiver: str) -> list[PeerMessage]:
        """The same, removed."""
        taken = self.queued(sender, receiver)
        self.links[sender, receiver].clear()
        return taken

    # ------------------------------------------------------------------------------------------------------- time
    def settle(self) -> None:
        """Turn, sync and deliver, without time passing, until nothing moves."""
        for _ in range(_ROUNDS_MAX):
            for name in self.names:
                self.turn(name)
                self.sync(name)
            open_links = [link for link, queue in self.links.items() if queue and link not in self.holding]
            if not open_links:
                self.check_logs_match()
                return
            for link in open_links:
                self.deliver(*link)
        raise Broken("the cluster does not come to rest")

    def tick(self, seconds: float) -> None:
        """Time passes, settled at every step."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now = min(until, self.now + STEP_S)
            self.settle()

    def elect(self, name: str) -> None:
        """Make ``name`` lead, and settle."""
        self.campaign(name)
        self.settle()
        assert self.nodes[name].leads, f"{name} was not elected"

    @property
    def leader(self) -> str | None:
        """Who leads in the highest term."""
        leading = [node for node in self.nodes.values() if node.leads]
        return max(leading, key=lambda node: node.term).name if leading else None

    # -------------------------------------------------------------------------------------------------- properties
    def _check(self, node: Node) -> None:
        """Election safety, leader completeness, state machine safety (figure 3), and P1 for each new commit."""
        if node.leads and self.leaders.setdefault(node.term, node.name) != node.name:
            raise Broken(f"election safety: {node.name} and {self.leaders[node.term]} lead in term {node.term}")
        newest = max(self.committed, default=1)
        for index in range(newest + 1, min(node.commit, node.last_index) + 1):
            entry = node.replica.journal.entry(index)
            membership = node.replica.membership
            holders = {other.name for other in self.nodes.values() if other.durable(index) == entry}
            majorities = [
                2 * len(holders & one.voters) > len(one.voters) for one in (membership.current, membership.settled)
            ]
            # Alone, the engine elects itself, appends its no-op and counts to one in one turn. Nothing of that leaves
            # the node, it holds no message, and all before it is on disk.
            own_no_op = entry.command == b"\x01" and membership.current.voters == {node.name}
            if not any(majorities) and not own_no_op:
                raise Broken(f"durability: {index} is committed on {len(holders)} of {len(self.names)} disks")
            self.committed[index] = entry
        for entry in node.applied:
            if self.committed.get(entry.index, entry) != entry:
                raise Broken(f"state machine safety: {node.name} applied another entry {entry.index}")
        if node.leads and node.term == max(self.leaders):
            trimmed = node.replica.journal.first_index
            for index, entry in self.committed.items():
                if index >= trimmed and (index > node.last_index or node.replica.journal.entry(index) != entry):
                    raise Broken(f"leader completeness: {node.name} leads without committed entry {index}")

    def check_logs_match(self) -> None:
        """Log matching (figure 3): logs that agree in index and term of an entry agree in all up to it."""
        alive = [node for node in self.nodes.values() if node.alive]
        for one in alive:
            for other in alive:
                mine = {entry.index: entry for entry in one.log()}
                theirs = {entry.index: entry for entry in other.log()}
                both = sorted(mine.keys() & theirs.keys(), reverse=True)
                agree = next((index for index in both if mine[index].term == theirs[index].term), 0)
                for index in both:
                    if index <= agree and mine[index] != theirs[index]:
                        raise Broken(f"log matching: {one.name} and {other.name} differ at {index}, below {agree}")


class LogNode(Node):
    """A node with the whole log on it: batches in, tickets out."""

    core: LogCore
    wall_ns_ahead = 0
    """How much this node's clock is ahead."""
    limits: BatcherLimits | None = None

    def start(self, now: float) -> None:
        self.store = MemoryStore(self.disk)
        self.core = LogCore(
            node=self.name,
            members=Members.of({name: f"{name}:1" for name in self.members}),
            store=self.store,
            timing=Timing(HEARTBEAT_S, ELECTION_S),
            uniform=self.uniform,
            now=now,
            limits=self.limits,
        )
        self.replica = self.core.replica
        self.alive = True

    def receive(self, sender: str, message: PeerMessage, now: float) -> None:
        self.core.receive(sender, message, now)

    def advance(self, now: float) -> None:
        self.core.advance(now, WALL_NS + int(now * 1e9) + self.wall_ns_ahead)

    @property
    def wants_write(self) -> bool:
        return self.core.wants_write

    def sync(self, now: float) -> None:
        writes = self.core.begin_write()
        self.store.write(writes)
        self.core.end_write(writes, now)
        if self.core.installed:  # another log is on the disk: what the node's own loop does then (`commit_loop`)
            while self.store.install_step():
                pass
            self.start(now)


class LogCluster(Cluster):
    """`Cluster` of `LogNode`. ``spares`` more nodes may `join`."""

    nodes: dict[str, LogNode]

    def __init__(self, size: int, *, spares: int = 0) -> None:
        super().__init__(size)
        self._spares = [f"n{size + number}" for number in range(1, spares + 1)]

    def join(self, name: str) -> None:
        """Start a spare node, which knows the founders and waits to be added."""
        assert name == self._spares.pop(0)
        self.nodes[name] = LogNode(name, self.names, MemoryDisk(), self.now)
        self.names = (*self.names, name)

    def _node(self, name: str, disk: MemoryDisk) -> Node:
        return LogNode(name, self.names, disk, self.now)

    def __getitem__(self, name: str) -> LogNode:
        return self.nodes[name]

    def submit(self, name: str, batch: record.BatchView) -> Ticket:
        """Hand a batch to the node; `NotLeader` and others at once, or a ticket."""
        return self.nodes[name].core.submit(batch, self.now)


def batch(producer: int, number: int, *payloads: bytes, topic: str = "t") -> record.BatchView:
    """A batch of one run."""
    run = record.encode_columns(topic, list(payloads) or [b"x"])
    return record.parse_batch(record.encode_batch(producer.to_bytes(16, "big"), number, [run]))
