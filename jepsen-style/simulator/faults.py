"""What goes wrong: each fault of the plan comes at random times of its rate, lasts, and is undone.

A fault is a method named after it in `plan.FAULTS`; what happened is counted only if it hit something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.operator import Operator

if TYPE_CHECKING:
    from simulator.node import Node
    from simulator.world import World


class Faults:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._source = world.source
        self._plan = world.plan
        self._scale = world.plan.timing.election_timeout_s
        self._healed = False
        self._operator = Operator(world)

    def start(self) -> None:
        """Schedule the first of each."""
        for name in self._plan.rates:
            self._schedule(name)
        self._operator.begin()

    def _schedule(self, name: str) -> None:
        self._world.schedule.after(self._source.expovariate(self._plan.rates[name]), self._strike, name)

    def _strike(self, name: str) -> None:
        if self._healed:
            return
        what = getattr(self, f"_{name}")()
        if what is not None:
            self._world.count(name)
            self._world.note("fault", name, what)
        self._schedule(name)

    def heal(self) -> None:
        """No more faults; all that can be undone is undone."""
        self._healed = True
        world = self._world
        world.note("heal")
        world.plan.install_kills = 0.0
        for node in world.nodes.values():
            node.fuse = None
            node.slow_s = 0.0
            node.disk.full = node.disk.broken = False
            node.disk.slow = 1.0
            node.resume()
            node.start()
            for n in range(1, 6):  # who was about to stop, and does so only now, is started again
                world.schedule.after(n * self._scale, self._start_if_dead, node)
        world.network.heal()

    # ---------------------------------------------------------------------------------------------------- choices
    def _one(self) -> Node:
        """A node; the leader more often than its share."""
        nodes = list(self._world.nodes.values())
        leaders = [node for node in nodes if node.alive and node.core.replica.leads]
        if leaders and self._source.random() < 0.4:
            return self._source.choice(leaders)
        return self._source.choice(nodes)

    def _while(self) -> float:
        """How long a fault lasts: from a blink to a few election timeouts."""
        return self._scale * self._source.choice((0.05, 0.3, 1.0, 1.0, 3.0)) * self._source.uniform(0.5, 1.5)

    # ------------------------------------------------------------------------------------------------------ death
    def _kill(self, *, power: bool = False) -> str | None:
        node = self._one()
        if not node.alive:
            return None
        node.die("power cut" if power else "killed", power=power)
        self._restart_later(node)
        return node.name

    def _restart_later(self, node: Node) -> None:
        self._world.schedule.after(self._while(), node.start)

    def _kill_at_step(self) -> str | None:
        node = self._one()
        if not node.alive or node.fuse is not None:
            return None
        node.fuse = self._source.randrange(1, 40)
        # It burns down at a moment we can't foresee: look now and then whether there is somebody to start.
        for n in range(1, 4):
            self._world.schedule.after(n * self._scale, self._start_if_dead, node)
        return node.name

    def _start_if_dead(self, node: Node) -> None:
        if not node.alive:
            node.start()

    def _power_cut_one(self) -> str | None:
        return self._kill(power=True)

    def _power_cut_some(self) -> str | None:
        return self._power_cut(self._source.sample(self._world.names, self._source.randint(1, len(self._world.names))))

    def _power_cut_all(self) -> str | None:
        return self._power_cut(self._world.names)

    def _power_cut(self, names: list[str]) -> str | None:
        struck = [node for node in (self._world.nodes[name] for name in names) if node.alive]
        for node in struck:
            node.die("power cut", power=True)
            self._restart_later(node)
        return ",".join(node.name for node in struck) or None

    def _restart_cleanly(self) -> str | None:
        node = self._one()
        if not node.runs or node.stopping:
            return None
        replica = node.core.replica
        others = sorted(replica.guard.voters - {node.name})
        if replica.leads and others and self._source.random() < 0.5:
            node.run(node.core.transfer, self._source.choice(others), node.now)
            self._world.schedule.after(self._scale * 0.2, node.stop_cleanly)
        else:
            node.stop_cleanly()
        for n in range(1, 4):
            self._world.schedule.after(n * self._scale, self._start_if_dead, node)
        return node.name

    def _pause(self) -> str | None:
        node = self._one()
        if not node.runs:
            return None
        node.pause()
        self._world.schedule.after(self._while(), node.resume)
        return node.name

    # ---------------------------------------------------------------------------------------------------- network
    def _cut(self, directions: set[tuple[str, str]]) -> str | None:
        if not directions:
            return None
        self._world.network.set_cut(directions, cut=True)
        self._world.schedule.after(self._while(), self._mend, directions)
        return " ".join(f"{a}>{b}" for a, b in sorted(directions))

    def _mend(self, directions: set[tuple[str, str]]) -> None:
        self._world.network.set_cut(directions, cut=False)

    def _apart(self, left: list[str], right: list[str]) -> set[tuple[str, str]]:
        return {(a, b) for a in left for b in right} | {(b, a) for a in left for b in right}

    def _partition_halves(self) -> str | None:
        """A minority and a majority, clients on either side."""
        places = list(self._world.names)
        self._source.shuffle(places)
        left = places[: self._source.randint(1, max(1, len(places) // 2))]
        right = [name for name in places if name not in left]
        for client in self._world.client_names:
            (left if self._source.random() < 0.5 else right).append(client)
        return self._cut(self._apart(left, right))

    def _partition_leader(self) -> str | None:
        leaders = [name for name, node in self._world.nodes.items() if node.alive and node.core.replica.leads]
        if not leaders:
            return None
        others = [name for name in self._world.names if name != leaders[0]]
        return self._cut(self._apart([leaders[0]], others))

    def _minority_leader(self) -> str | None:
        """The leader and some followers are a minority for long enough to be replaced, and get leadership back soon
        after: what they did meanwhile must not count. Mostly what they say to the leader comes very late, and
        what it says to them not at all, so that it leads again before they have followed anybody else far."""
        leader = self._leader()
        minority = (len(self._world.names) - 1) // 2
        if leader is None or not minority:
            return None
        others = [name for name in self._world.names if name != leader.name]
        few = self._source.sample(others, minority - 1)
        directions = self._apart([leader.name, *few], [name for name in others if name not in few])
        self._world.network.set_cut(directions, cut=True)
        together_s = self._scale * self._source.uniform(1.3, 2.5)
        self._world.schedule.after(together_s, self._mend, directions)
        if self._source.random() < 0.7:
            for name in few:
                self._world.network.links[name, leader.name].extra_s = self._scale * self._source.uniform(1, 4)
            deaf = {(leader.name, name) for name in few}
            self._world.schedule.after(together_s + 0.05 * self._scale, self._cut_for, deaf, 3 * self._scale)
        for n in range(8):
            self._world.schedule.after(together_s + 0.15 * (n + 1) * self._scale, self._give_back, leader)
        self._world.schedule.after(together_s + 3 * self._scale, self._unclog_all)
        return f"{leader.name} {few}"

    def _cut_for(self, directions: set[tuple[str, str]], seconds: float) -> None:
        if not self._healed:
            self._world.network.set_cut(directions, cut=True)
            self._world.schedule.after(seconds, self._mend, directions)

    def _leader(self) -> Node | None:
        """A node that leads, as far as it knows."""
        for node in self._world.nodes.values():
            if node.runs and node.core.replica.leads:
                return node
        return None

    def _give_back(self, to: Node) -> None:
        """Leadership goes to ``to`` again, if it will have it."""
        for node in self._world.nodes.values():
            if self._healed or node is to or not node.runs or not node.core.replica.leads:
                continue
            if to.name in node.core.replica.guard.voters:
                node.run(node.core.transfer, to.name, node.now)
                node.run(node.wake)

    def _unclog_all(self) -> None:
        for link in self._world.network.links.values():
            link.extra_s = 0.0

    def _partition_ring(self) -> str | None:
        """Each node sees its two neighbours only."""
        names = self._world.names
        if len(names) < 4:
            return None
        apart = {(a, b) for i, a in enumerate(names) for j, b in enumerate(names) if (i - j) % len(names) in (2, 3)}
        return self._cut(apart)

    def _partition_bridge(self) -> str | None:
        """Two sides and one node that sees both."""
        names = list(self._world.names)
        if len(names) < 3:
            return None
        self._source.shuffle(names)
        half = len(names) // 2
        return self._cut(self._apart(names[:half], names[half + 1 :]))

    def _one_way(self) -> str | None:
        if len(self._world.names) < 2:
            return None
        node = self._one().name
        others = [name for name in self._world.names if name != node]
        chosen = self._source.sample(others, self._source.randint(1, len(others)))
        outward = self._source.random() < 0.5
        return self._cut({(node, other) if outward else (other, node) for other in chosen})

    def _client_cut(self) -> str | None:
        client = self._source.choice(self._world.client_names)
        node = self._one().name
        return self._cut(self._apart([client], [node]))

    def _clog(self) -> str | None:
        """A link takes long; what is on it comes late, perhaps in another term."""
        links = [link for link in self._world.network.links.values() if link.up]
        if not links:
            return None
        link = self._source.choice(links)
        link.extra_s = self._while()
        self._world.schedule.after(self._while(), self._unclog, link)
        return f"{link.sender}>{link.to}"

    def _unclog(self, link: object) -> None:
        link.extra_s = 0.0  # type: ignore[attr-defined]

    def _reset(self) -> str | None:
        links = [link for link in self._world.network.links.values() if link.up]
        if not links:
            return None
        link = self._source.choice(links)
        self._world.network.reset(link.sender, link.to)
        return f"{link.sender}>{link.to}"

    # ------------------------------------------------------------------------------------------- clocks and disks
    def _clock_jump(self) -> str | None:
        node = self._one()
        jump = self._source.choice((-3600.0, -1.0, -0.01, 0.01, 1.0, 3600.0))
        node.clock.wall_jump_s += jump
        return f"{node.name} {jump:+g}s"

    def _disk_slow(self) -> str | None:
        node = self._one()
        node.disk.slow = self._source.choice((5.0, 30.0))
        self._world.schedule.after(self._while(), self._disk_well, node)
        return node.name

    def _disk_well(self, node: Node) -> None:
        node.disk.slow = 1.0

    def _disk_full(self) -> str | None:
        node = self._one()
        if node.disk.full:
            return None
        node.disk.full = True
        self._world.schedule.after(self._while(), self._disk_has_room, node)
        return node.name

    def _disk_has_room(self, node: Node) -> None:
        node.disk.full = False

    def _disk_error(self) -> str | None:
        """The next write fails; the process must end."""
        node = self._one()
        if not node.alive or node.disk.broken:
            return None
        node.disk.broken = True
        for n in range(1, 4):
            self._world.schedule.after(n * self._scale, self._start_if_dead, node)
        return node.name

    def _corrupt(self) -> str | None:
        """Bits flip on the disks of a minority, always the same one: a majority must be able to go on."""
        victims = self._world.names[: (len(self._world.names) - 1) // 2]
        if not victims:
            return None
        if not self._all_joined():
            return None  # one disk at a time: who has lost his needs all others
        node = self._world.nodes[self._source.choice(victims)]
        index = node.disk.flip()
        return None if index is None else f"{node.name} entry {index}"

    def _all_joined(self) -> bool:
        """Whether no node has a disk that is new to it, nor damaged, nor lost."""
        nodes = self._world.nodes.values()
        return all(node.disk.joined and not node.disk.damaged and not node.lost_for_good for node in nodes)

    def _wipe(self) -> str | None:
        """A node comes back with an empty disk."""
        node = self._one()
        if len(self._world.names) < 3 or not self._all_joined():
            return None
        node.die("its disk is lost", power=True)
        node.disk.wipe()
        self._restart_later(node)
        return node.name

    def _long_gone(self) -> str | None:
        """A node is away for so long that the log does not wait for it."""
        node = self._one()
        if not node.alive or sum(not other.alive for other in self._world.nodes.values()):
            return None
        node.die("killed for long")
        self._world.schedule.after(self._scale * self._source.uniform(4, 10), node.start)
        return node.name

    # ------------------------------------------------------------------------------------------------- membership
    def _member_add(self) -> str | None:
        """The operator adds a node."""
        return self._world.members.add()

    def _member_remove(self) -> str | None:
        """The operator removes a node."""
        return self._world.members.remove()

    # ------------------------------------------------------------------------------------------------- leadership
    def _transfer(self) -> str | None:
        """The operator moves leadership."""
        for node in self._world.nodes.values():
            if node.runs and node.core.replica.leads and len(node.core.replica.guard.voters) > 1:
                to = self._source.choice(sorted(node.core.replica.guard.voters - {node.name}))
                if node.core.replica.handing_over is None:
                    node.run(node.core.transfer, to, node.now)
                    node.run(node.wake)
                    return f"{node.name}>{to}"
        return None
