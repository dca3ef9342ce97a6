"""Where things are: the addresses of nodes and links, and the namespaces that make them real.

Isolated, node *i* has the address 10.99.*i*.2 at one end of a cable (veth) whose other end, 10.99.*i*.1, is in the
suite's own network, where relays and clients are; nothing leads from one node to another but through a relay. Else
all is on 127.0.0.1, on ports that were free when the run began.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from lanyinglog.cli.processes import free_port
from suite.links import Link, client_link, peer_link

CLIENT_PORT, PEER_PORT, RELAY_PORT, CLIENT_RELAY_PORT = 7420, 7520, 7600, 7700


@dataclass(frozen=True, slots=True)
class Place:
    """One node's addresses. ``peer`` is where it listens, and what all know it by; who dials it from here is led
    through a relay: ``relays`` has the relay's address by the name of the node that it leads to."""

    node: str
    client: tuple[str, int]
    peer: tuple[str, int]
    relays: dict[str, tuple[str, int]]
    client_relay: tuple[str, int]


def plan(nodes: Sequence[str], *, isolated: bool) -> tuple[list[Place], list[Link]]:
    """Addresses of all nodes, and the links between them and to their clients."""
    places = _isolated(nodes) if isolated else _on_loopback(nodes)
    by_name = {place.node: place for place in places}
    links = [
        Link(peer_link(place.node, other), place.relays[other], by_name[other].peer, True)
        for place in places
        for other in nodes
        if other != place.node
    ]
    links += [Link(client_link(place.node), place.client_relay, place.client, False) for place in places]
    return places, links


def _isolated(nodes: Sequence[str]) -> list[Place]:
    places = []
    for i, node in enumerate(nodes, 1):
        own, hub = f"10.99.{i}.2", f"10.99.{i}.1"
        relays = {other: (hub, RELAY_PORT + j) for j, other in enumerate(nodes, 1) if other != node}
        places.append(Place(node, (own, CLIENT_PORT), (own, PEER_PORT), relays, ("127.0.0.1", CLIENT_RELAY_PORT + i)))
    return places


def _on_loopback(nodes: Sequence[str]) -> list[Place]:
    """Runs of ports: for each node its client port, its client relay, its peer port, and a relay to each other node."""
    count = len(nodes)
    first = free_port(nodes=count * (count + 2))
    host = "127.0.0.1"
    places = []
    for i, node in enumerate(nodes):
        base = first + i * (count + 2)
        ports = {other: (host, base + 2 + j) for j, other in enumerate(nodes)}
        own = ports.pop(node)
        places.append(Place(node, (host, base), own, ports, (host, base + 1)))
    return places


class Cables:
    """The network namespaces of the nodes; only in a sandbox. The kernel removes them with the run's processes."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        for i, place in enumerate(places, 1):
            # A process that does nothing keeps the namespace; a node may die without taking it along.
            holder = subprocess.Popen(
                ["unshare", "-n", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE
            )
            assert holder.stdout is not None
            holder.stdout.readline()  # it is in its namespace now
            self._holders[place.node] = holder
            hub_end, node_end = f"hub{i}", f"node{i}"
            _ip("link", "add", hub_end, "type", "veth", "peer", "name", node_end, "netns", str(holder.pid))
            _ip("addr", "add", f"10.99.{i}.1/24", "dev", hub_end)
            _ip("link", "set", hub_end, "up")
            inside = self.prefix(place.node)
            _ip("addr", "add", f"{place.client[0]}/24", "dev", node_end, prefix=inside)
            _ip("link", "set", node_end, "up", prefix=inside)
            _ip("link", "set", "lo", "up", prefix=inside)
        self._devices = {place.node: (f"hub{i}", f"node{i}") for i, place in enumerate(places, 1)}

    def prefix(self, node: str) -> list[str]:
        """What to put before a command so that it runs in the node's network."""
        return ["nsenter", f"--net=/proc/{self._holders[node].pid}/ns/net", "--"]

    def drop_packets(self, node: str, *, inbound: bool, outbound: bool) -> None:
        """The kernel drops every packet to (``inbound``) or from (``outbound``) the node, and tells nobody."""
        hub_end, node_end = self._devices[node]
        if inbound:
            _run(["tc", "qdisc", "replace", "dev", hub_end, "root", "pfifo", "limit", "0"])
        if outbound:
            _run([*self.prefix(node), "tc", "qdisc", "replace", "dev", node_end, "root", "pfifo", "limit", "0"])

    def carry_packets(self, node: str) -> None:
        """Packets pass again."""
        hub_end, node_end = self._devices[node]
        _run(["tc", "qdisc", "del", "dev", hub_end, "root"], check=False)
        _run([*self.prefix(node), "tc", "qdisc", "del", "dev", node_end, "root"], check=False)

    def close(self) -> None:
        """The namespaces go with their holders."""
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
            if holder.stdout is not None:
                holder.stdout.close()


def _ip(*arguments: str, prefix: Sequence[str] = ()) -> None:
    _run([*prefix, "ip", *arguments])


def _run(command: Sequence[str], *, check: bool = True) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if check and result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
