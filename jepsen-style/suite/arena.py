"""Where faults happen: the cluster, its links, and the book in which every fault is written down.

A fault is ordered by the schedule (`Order`), finds its victims here (`Arena.take`: nobody is hit twice at the same
time), writes down what it does (`Arena.told`), and undoes it when its time is over. Faults run in threads of their own.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from suite.availability import Trouble
from suite.cluster import Cluster
from suite.links import Layers, client_link, peer_link

LEADER, FOLLOWER, ANY, MINORITY, MAJORITY, ALL = "leader", "follower", "any", "minority", "majority", "all"
FOLLOWERS = "followers"
"""All but the leader."""
LEADER_WAIT_S = 2.0
READY_S_MAX = 8.0


class Skipped(Exception):
    """The fault could not happen: no node for it is free, or there is no leader."""


@dataclass(frozen=True, slots=True)
class Order:
    """One fault of the schedule: when (seconds into the run), for how long, which, to whom, and how exactly."""

    number: int
    start_s: float
    seconds: float
    fault: str
    target: str
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    overlaps: bool = False
    """Whether it does not wait for its turn: hard faults usually come one at a time."""


@dataclass(slots=True)
class Happened:
    """A fault as it was: ``words`` say what was done; times in ns since the run began, ``t1`` 0 while it lasts. ``out``
    are the nodes that could not do their part meanwhile; what is wrong with links, `Layers` knows."""

    number: int
    fault: str
    words: str
    nodes: tuple[str, ...]
    hit_leader: bool
    t0: int
    t1: int = 0
    out: tuple[str, ...] = ()


class Arena:
    """See the module."""

    def __init__(self, cluster: Cluster, layers: Layers, *, epoch_ns: int) -> None:
        self.cluster = cluster
        self.layers = layers
        self.over = threading.Event()
        """The run is over: faults end early."""
        self.book: list[Happened] = []
        self.skipped = 0
        self.remarks: list[tuple[str, str, int]] = []
        """Anomalies that a fault saw itself: name, words, ns."""
        self.turn = threading.Lock()
        """Held by the hard fault that is going on."""
        self.damage = threading.Lock()
        """Held while a node's copy is damaged or lost: a minority may be, not a second one."""
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._epoch_ns = epoch_ns

    def now(self) -> int:
        """Nanoseconds since the run began."""
        return time.monotonic_ns() - self._epoch_ns

    def since_epoch(self, monotonic_ns: int) -> int:
        """A time of the monotonic clock as nanoseconds since the run began."""
        return monotonic_ns - self._epoch_ns

    def hold(self, order: Order) -> None:
        """Waits as long as the fault is to last, or until the run is over."""
        self.over.wait(order.seconds)

    def revive(self, nodes: Sequence[str]) -> None:
        """Start ``nodes`` again; returns when they answer, or could have."""
        for node in nodes:
            self.cluster.start(node)
        self.cluster.wait_ready(nodes, timeout_s=READY_S_MAX)

    def begin_damage(self) -> None:
        """The caller may damage one copy until it releases `damage`; `Skipped` if another one is damaged."""
        if not self.damage.acquire(blocking=False):
            self.skipped += 1
            raise Skipped("another copy is damaged just now")

    # ----------------------------------------------------------------------------------------------------- victims
    @contextmanager
    def take(self, order: Order) -> Iterator[list[str]]:
        """The nodes that ``order.target`` means, nobody else's until the context ends. `Skipped` if there are none."""
        leader = self._wait_leader() if order.target in (LEADER, FOLLOWER, FOLLOWERS) else None
        with self._lock:
            free = [name for name in self.cluster.names if name not in self._held and self.cluster.nodes[name].running]
            chosen = self._choose(order, free, leader)
            if not chosen:
                self.skipped += 1
                raise Skipped(f"{order.fault}: no {order.target} is free")
            self._held.update(chosen)
        try:
            yield chosen
        finally:
            with self._lock:
                self._held.difference_update(chosen)

    def _choose(self, order: Order, free: list[str], leader: str | None) -> list[str]:
        source = random.Random(order.seed)
        count = len(self.cluster.names)
        if order.target == LEADER:
            return [leader] if leader in free else []
        if order.target == FOLLOWER:
            others = [name for name in free if name != leader]
            return [source.choice(others)] if others else []
        if order.target == FOLLOWERS:
            others = [name for name in self.cluster.names if name != leader]
            return others if leader is not None and set(others) <= set(free) else []
        if order.target == ANY:
            return [source.choice(free)] if free else []
        wanted = {MINORITY: (count - 1) // 2, MAJORITY: count // 2 + 1, ALL: count}[order.target]
        return source.sample(free, wanted) if len(free) >= wanted else []

    def _wait_leader(self) -> str | None:
        deadline = time.monotonic() + LEADER_WAIT_S
        while (leader := self.cluster.leader()) is None and time.monotonic() < deadline:
            if self.over.wait(0.05):
                break
        return leader

    # ------------------------------------------------------------------------------------------------------ the book
    @contextmanager
    def told(
        self, order: Order, words: str, nodes: Sequence[str], *, out: Sequence[str] = (), leader: str | None = None
    ) -> Iterator[Happened]:
        """Write down a fault that begins now and ends with the context. ``out`` are the nodes that cannot do their part
        until then: they are down, or stopped, or without a disk, and nobody may count on them."""
        hit = order.target == LEADER or (leader is not None and leader in nodes)
        happened = Happened(order.number, order.fault, words, tuple(nodes), hit, self.now(), out=tuple(out))
        self.book.append(happened)
        try:
            yield happened
        finally:
            happened.t1 = self.now()

    def remark(self, anomaly: str, words: str) -> None:
        """Something that must not be was seen by a fault itself."""
        self.remarks.append((anomaly, words, self.now()))

    def troubles(self) -> list[Trouble]:
        """All that kept nodes from doing their part, when the faults are over."""
        since = self.since_epoch
        mine = [Trouble(one.t0, one.t1 or self.now(), nodes=frozenset(one.out)) for one in self.book if one.out]
        return mine + [Trouble(since(t0), since(t1), links=links) for t0, t1, links in self.layers.troubled]

    def members(self) -> list[tuple[int, frozenset[str]]]:
        """Who belonged, and since when, in ns since the run began."""
        return [(self.since_epoch(since), names) for since, names in self.cluster.memberships]

    # ------------------------------------------------------------------------------------------------------- links
    def between(self, some: Sequence[str], others: Sequence[str]) -> list[str]:
        """The links on which ``some`` speak to ``others``."""
        return [peer_link(a, b) for a in some for b in others if a != b]

    def around(self, nodes: Sequence[str], *, clients: bool) -> list[str]:
        """All links to and from ``nodes``; those of clients to them if asked for."""
        names = self.cluster.names
        links = set(self.between(nodes, names)) | set(self.between(names, nodes))
        if clients:
            links |= {client_link(node) for node in nodes}
        return sorted(links)


def words_for(order: Order, nodes: Sequence[str]) -> str:
    """``the leader n1``, ``n2 and n3``: victims, for a sentence."""
    names = " and ".join([", ".join(nodes[:-1]), nodes[-1]] if len(nodes) > 2 else nodes)
    article = {LEADER: "the leader ", FOLLOWER: "the follower "}.get(order.target, "")
    return f"{article}{names}"
