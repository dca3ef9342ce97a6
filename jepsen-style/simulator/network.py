"""Links between nodes and connections of clients: what they delay, lose, repeat, and when they break.

A link carries one direction between two nodes, as `raft.peers` has it: in order, until it is reset; then what was sent
is lost and the sender dials again. A cut direction stalls its link, as TCP does, and resets it if it lasts. Beyond what
TCP would do a plan may lose, repeat and reorder single messages: the replica's contract allows that, so it is tested.

Clients reach nodes over connections of their own, in order both ways, which end when either side dies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lanyinglog.errors import ProtocolError
from lanyinglog.raft.messages import Chunk, Fetch, Offer, PeerMessage, from_parts, to_parts
from simulator.history import Violation

if TYPE_CHECKING:
    from simulator.node import Node
    from simulator.world import World

REDIAL_S = 0.1
DEAD_LINK_S = 5.0
"""As `raft.peers` has them, at an election timeout of one second: both scale with it."""
RETRANSMISSION_S = 0.2
CLIENT_RETRY_S = 0.05
HANG_UP = "hang up"
"""Behind the last message of either side."""
IN_FLIGHT_APPENDS_MAX = 16
"""What the product promises (audit 21), written down a second time on purpose."""


@dataclass(slots=True)
class Link:
    """What ``sender`` says to ``to``."""

    sender: str
    to: str
    up: bool = False
    generation: int = 0
    heard: int = 0
    """The generation that the receiver listens to: the old one until the new one has been introduced."""
    last_arrival: float = 0.0
    extra_s: float = 0.0
    """Clogged: all takes so much longer."""
    stalled: list[tuple[int, PeerMessage]] = field(default_factory=list)
    stalled_since: float = 0.0


class Network:
    """All links, and which directions are cut. Names are those of nodes and clients."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._plan = world.plan
        self._source = world.source
        self.cut: set[tuple[str, str]] = set()
        self.links = {(a, b): Link(a, b) for a in world.names for b in world.names if a != b}
        self.counts = {"lost": 0, "repeated": 0, "reordered": 0, "damaged": 0, "reset": 0}
        scale = world.plan.timing.election_timeout_s
        self._redial_s = REDIAL_S * scale
        self._dead_link_s = DEAD_LINK_S * scale

    # ------------------------------------------------------------------------------------------------------ peers
    def send(self, sender: str, to: str, message: PeerMessage) -> None:
        """``sender`` hands ``message`` to its link; lost if that is down."""
        link = self.links[sender, to]
        if not link.up:
            return
        plan, source = self._plan, self._source
        if plan.loss and source.random() < plan.loss:
            self.counts["lost"] += 1
            return
        when = self._world.schedule.now + source.uniform(*plan.link_s) + link.extra_s
        if plan.duplication and source.random() < plan.duplication:
            self.counts["repeated"] += 1
            again = when + source.uniform(0, source.choice((1, 50)) * plan.link_s[1])
            self._world.schedule.at(again, self._arrive, link, link.generation, message)
        if plan.repeated_parts and isinstance(message, (Offer, Fetch, Chunk)) and source.random() < plan.repeated_parts:
            self.counts["repeated"] += 1
            again = when + source.uniform(0, 4) * (plan.link_s[1] + plan.disk_s[1])
            self._world.schedule.at(again, self._arrive, link, link.generation, message)
        if plan.reordering and source.random() < plan.reordering:
            self.counts["reordered"] += 1
            when += source.uniform(0, 20 * plan.link_s[1])
        else:
            link.last_arrival = when = max(when, link.last_arrival)
        self._world.schedule.at(when, self._arrive, link, link.generation, message)

    def _arrive(self, link: Link, generation: int, message: PeerMessage) -> None:
        if generation != link.heard:
            return
        if (link.sender, link.to) in self.cut:
            if link.up and generation == link.generation:
                link.stalled.append((generation, message))
            return
        node = self._world.nodes[link.to]
        if self._plan.real_wire:
            try:
                message = self._through_frames(message)
            except ProtocolError:
                self.reset(link.sender, link.to)
                return
        node.hear(link.sender, message)

    def _through_frames(self, message: PeerMessage) -> PeerMessage:
        kind, header, parts = to_parts(message)
        body = b"".join(parts)
        if body and self._plan.wire_damage and self._source.random() < self._plan.wire_damage:
            self.counts["damaged"] += 1
            damaged = bytearray(body)
            damaged[self._source.randrange(len(body))] ^= 1 << self._source.randrange(8)
            body = bytes(damaged)
        return from_parts(kind, header, body)

    def reset(self, sender: str, to: str) -> None:
        """The connection under a link breaks; ``sender`` dials again."""
        link = self.links[sender, to]
        if link.up:
            self.counts["reset"] += 1
            here = self._world.nodes[sender]
            self._world.schedule.after(0.0, self._down, here, here.life, to)
        link.up = False
        link.generation += 1
        link.stalled.clear()
        self._world.schedule.after(self._redial_s, self._dial, link, link.generation)

    def _down(self, node: Node, life: int, peer: str) -> None:
        if node.life == life:
            node.link_changed(peer, False)

    def _dial(self, link: Link, generation: int) -> None:
        if generation != link.generation or link.up:
            return
        here, there = self._world.nodes[link.sender], self._world.nodes[link.to]
        open_both_ways = not self.cut & {(link.sender, link.to), (link.to, link.sender)}
        if here.runs and there.runs and open_both_ways:
            when = self._source.uniform(*self._plan.link_s) * 2 + link.extra_s
            self._world.schedule.after(when, self._introduced, link, generation)
        elif here.alive:
            self._world.schedule.after(self._redial_s, self._dial, link, generation)

    def _introduced(self, link: Link, generation: int) -> None:
        if generation != link.generation or link.up:
            return
        if not (self._world.nodes[link.sender].alive and self._world.nodes[link.to].alive):
            self.reset(link.sender, link.to)
            return
        link.up = True
        link.heard = generation
        link.last_arrival = self._world.schedule.now
        self._world.nodes[link.sender].link_changed(link.to, True)

    def node_started(self, name: str) -> None:
        """Its links, both ways, are to be dialled."""
        for link in self.links.values():
            if name in (link.sender, link.to):
                link.heard = -1 if link.to == name else link.heard  # a new process has heard nobody yet
                self.reset(link.sender, link.to)

    def node_died(self, name: str) -> None:
        """What it said may still arrive, for a while; what is said to it does not."""
        for link in self.links.values():
            if link.to == name or (link.sender == name and self._source.random() < 0.5):
                link.heard = -1
            if name in (link.sender, link.to):
                self.reset(link.sender, link.to)

    # ------------------------------------------------------------------------------------------------------- cuts
    def set_cut(self, directions: set[tuple[str, str]], *, cut: bool) -> None:
        """Cut or heal ``directions``."""
        now = self._world.schedule.now
        for direction in sorted(directions):
            if cut and direction not in self.cut:
                self.cut.add(direction)
                for link in self._touched(direction):
                    link.stalled_since = now
                    self._world.schedule.after(self._dead_link_s, self._give_up, link, link.generation, now)
            elif not cut:
                self.cut.discard(direction)
                if direction in self.links:
                    self._release(self.links[direction])

    def _touched(self, direction: tuple[str, str]) -> list[Link]:
        """Links that stall: the one that carries data there, and the one whose acknowledgements go that way."""
        a, b = direction
        return [self.links[key] for key in ((a, b), (b, a)) if key in self.links]

    def _give_up(self, link: Link, generation: int, since: float) -> None:
        still_cut = self.cut & {(link.sender, link.to), (link.to, link.sender)}
        if still_cut and link.up and link.generation == generation and link.stalled_since == since:
            self.reset(link.sender, link.to)

    def _release(self, link: Link) -> None:
        """TCP sends again what was not acknowledged, in order."""
        when = self._world.schedule.now + self._source.uniform(0, RETRANSMISSION_S) * self._redial_s / REDIAL_S
        for generation, message in link.stalled:
            link.last_arrival = when = max(when, link.last_arrival)
            self._world.schedule.at(when, self._arrive, link, generation, message)
        link.stalled.clear()

    def heal(self) -> None:
        """Everything works again, at once and for good."""
        self.set_cut(set(self.cut), cut=False)
        self._plan.loss = self._plan.duplication = self._plan.reordering = self._plan.wire_damage = 0.0
        self._plan.repeated_parts = 0.0
        for link in self.links.values():
            link.extra_s = 0.0


class Connection:
    """One client's connection to one node. Either side is told once when it ends.

    What a client sent before it closed may arrive long after: the node reads it all the same.
    """

    def __init__(self, world: World, client: str, node: str, receive: Callable[[Any], None], lost: Callable[[], None]):
        self._world = world
        self.client = client
        self.node = node
        self._receive = receive  # at the client
        self._lost = lost
        self._arrivals = {client: 0.0, node: 0.0}
        self._stalled: dict[str, list[Any]] = {client: [], node: []}  # by who is to receive
        self.open = True
        """For the client: it may send and will hear."""
        self.heard = True
        """At the node: what is on the way to it will be read."""
        self.life = world.nodes[node].life

    def to_node(self, message: Any) -> None:
        """The client sends."""
        if self.open:
            self._send(self.client, self.node, message)

    def to_client(self, message: Any) -> None:
        """The node sends."""
        self._send(self.node, self.client, message)

    def _send(self, sender: str, to: str, message: Any) -> None:
        world = self._world
        when = world.schedule.now + world.source.uniform(*world.plan.link_s)
        self._arrivals[to] = when = max(when, self._arrivals[to])
        world.schedule.at(when, self._carry, sender, to, message)

    def _carry(self, sender: str, to: str, message: Any) -> None:
        stalled = self._stalled[to]
        if stalled or (sender, to) in self._world.network.cut:
            stalled.append(message)  # TCP keeps trying, and what is behind waits
            if len(stalled) == 1:
                self._world.schedule.after(CLIENT_RETRY_S, self._retry, sender, to)
        else:
            self._arrive(to, message)

    def _retry(self, sender: str, to: str) -> None:
        if (sender, to) in self._world.network.cut:
            self._world.schedule.after(CLIENT_RETRY_S * self._world.source.uniform(0.2, 1), self._retry, sender, to)
            return
        stalled, self._stalled[to] = self._stalled[to], []
        for message in stalled:
            self._arrive(to, message)

    def _arrive(self, to: str, message: Any) -> None:
        if to == self.client:
            if message is HANG_UP:
                self.broken()
            elif self.open:
                self._receive(message)
            return
        node = self._world.nodes[self.node]
        if node.life != self.life or not self.heard:
            return
        if message is HANG_UP:
            node.doors.hang_up(self)
        else:
            node.doors.hear(self, message)

    def close(self) -> None:
        """The client ends it; the node hears of that behind all that was sent, or at once and of nothing more."""
        if self.open:
            self.open = False
            if self._world.source.random() < 0.3:
                self.heard = False
                self._world.nodes[self.node].doors.hang_up(self)
            else:
                self._send(self.client, self.node, HANG_UP)

    def end_by_node(self) -> None:
        """The node ends it; the client hears of that behind all that was sent."""
        self.heard = False
        self._send(self.node, self.client, HANG_UP)

    def broken(self) -> None:
        """The node, or the network, ended it."""
        self.heard = False
        if self.open:
            self.open = False
            self._world.schedule.after(self._world.source.uniform(*self._world.plan.link_s), self._lost)


def check_window(sender: str, to: str, in_flight: int) -> None:
    """Audit 21: what a leader has sent and not heard of is bounded."""
    if in_flight > IN_FLIGHT_APPENDS_MAX:
        words = f"{sender} has {in_flight} unanswered appends under way to {to}, {IN_FLIGHT_APPENDS_MAX} are the bound"
        raise Violation("P8 window", words, ("node", sender), ("node", to))
