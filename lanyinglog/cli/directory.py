"""A directory that describes a cluster on this machine: what is in it, how it is made and read.

::

    cluster.json        nodes, their addresses, the cluster's name, who has left; written whole, last of all
    cluster.secret      what peers prove to each other; mode 0600
    cluster.lock        held while nodes of the directory are being started or stopped
    n1/node.toml        the node's settings: ``lanyinglog node --config`` starts it by hand
    n1/node.log         its standard output and error, appended
    n1/data/            its data directory
    n1/data/node.pid    who runs it, see `processes`

What an owner changes in a ``node.toml`` stays changed: it is written when missing and never again, but for the line
that says that a new node is still to be added.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lanyinglog.cli import encryption
from lanyinglog.config import CLIENT_PORT, MEMBERS_MAX, PEER_PORT_OFFSET, Address, parse_address, parse_node_id
from lanyinglog.errors import ConfigError, LanyingError, Outcome

STATE_FILE = "cluster.json"
SECRET_FILE = "cluster.secret"
LOCK_FILE = "cluster.lock"
_JOIN = "join = true"


class ProcessError(LanyingError):
    """A node process can't be started or stopped; the message says which and why, and names its log if that knows."""

    code = "process"
    outcome = Outcome.DEFINITE
    advice = "see to what the message says is in the way, then try again"


@dataclass(frozen=True, slots=True)
class Member:
    """One node of a cluster on this machine."""

    node: str
    client: Address
    peer: Address
    directory: Path

    @property
    def config_file(self) -> Path:
        return self.directory / "node.toml"

    @property
    def log_file(self) -> Path:
        return self.directory / "node.log"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def is_to_join(self) -> bool:
        """Whether its settings say that it is still to be added to the cluster."""
        return _JOIN in self.config_file.read_text().splitlines()

    def has_joined(self) -> None:
        """It belongs: a node that comes back without its data must not pass for a new one."""
        lines = self.config_file.read_text().splitlines()
        _write_whole(self.config_file, "\n".join(line for line in lines if line != _JOIN) + "\n")


@dataclass(frozen=True, slots=True)
class ClusterDirectory:
    """What `open_cluster` or `create_cluster` found or made."""

    directory: Path
    name: str
    members: tuple[Member, ...]
    departed: tuple[str, ...] = ()

    @property
    def servers(self) -> str:
        """Client addresses of all nodes, as ``--server`` takes them."""
        return ",".join(str(member.client) for member in self.members)


def is_cluster(directory: Path) -> bool:
    """Whether ``directory`` is one that `create_cluster` made."""
    return (directory / STATE_FILE).is_file()


def plan_members(directory: Path, *, nodes: int, port: int) -> tuple[Member, ...]:
    """The members that a new cluster in ``directory`` has: n1, n2 ... with client ports from ``port`` on."""
    if not 1 <= nodes <= MEMBERS_MAX:
        raise ConfigError(f"nodes must be 1 to {MEMBERS_MAX}, not {nodes}")
    if not 1 <= port <= 65_535 - PEER_PORT_OFFSET - nodes:
        raise ConfigError(f"port must be 1 to {65_535 - PEER_PORT_OFFSET - nodes}, not {port}")
    return tuple(
        Member(
            f"n{place}",
            Address("127.0.0.1", one),
            Address("127.0.0.1", one + PEER_PORT_OFFSET),
            directory / f"n{place}",
        )
        for place, one in enumerate(range(port, port + nodes), start=1)
    )


def create_cluster(directory: Path, *, nodes: int = 3, port: int = CLIENT_PORT) -> ClusterDirectory:
    """A new cluster of ``nodes`` nodes in ``directory``, which must be empty or absent. Starts nothing."""
    members = plan_members(directory, nodes=nodes, port=port)
    directory.mkdir(parents=True, exist_ok=True)
    if any(one.name != LOCK_FILE for one in directory.iterdir()):
        raise ConfigError(f"{directory} is not empty and not a cluster's directory: choose another")
    made = ClusterDirectory(directory, f"local-{secrets.token_hex(4)}", members)
    descriptor = os.open(directory / SECRET_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
    _save(made)  # last: a directory with this file is complete
    return open_cluster(directory)


def add_member(cluster: ClusterDirectory) -> tuple[ClusterDirectory, Member]:
    """One node more, with the next name and ports, whose settings say that it is to be added. Starts nothing."""
    if len(cluster.members) >= MEMBERS_MAX:
        raise ConfigError(f"the cluster has {len(cluster.members)} nodes; {MEMBERS_MAX} is the most")
    numbers = [int(name[1:]) for name in (*(one.node for one in cluster.members), *cluster.departed)]
    place, first = max(numbers) + 1, cluster.members[0]
    port = first.client.port - int(first.node[1:]) + place
    peer_port = first.peer.port - int(first.node[1:]) + place
    node = f"n{place}"
    member = Member(node, Address("127.0.0.1", port), Address("127.0.0.1", peer_port), cluster.directory / node)
    larger = replace(cluster, members=(*cluster.members, member))
    _write_settings(member, larger, join=True)
    _save(larger)
    return larger, member


def drop_member(cluster: ClusterDirectory, node: str) -> None:
    """``node`` has left the cluster: it is not started any more, and its name not used again. Its files stay."""
    left = tuple(one for one in cluster.members if one.node != node)
    _save(replace(cluster, members=left, departed=tuple(sorted({*cluster.departed, node}))))


def _save(cluster: ClusterDirectory) -> None:
    state = {
        "version": 1,
        "cluster": cluster.name,
        "nodes": {one.node: {"client": str(one.client), "peer": str(one.peer)} for one in cluster.members},
        "departed": cluster.departed,
    }
    _write_whole(cluster.directory / STATE_FILE, json.dumps(state, indent=2) + "\n")


def _write_whole(file: Path, text: str) -> None:
    partial = file.with_name(f"{file.name}.new")
    partial.write_text(text)
    partial.replace(file)


def open_cluster(directory: Path) -> ClusterDirectory:
    """The cluster in ``directory``; `ConfigError` if there is none, or its state file makes no sense."""
    directory = directory.resolve()
    file = directory / STATE_FILE
    try:
        state = json.loads(file.read_text())
        members = tuple(
            Member(
                parse_node_id("nodes", node),
                parse_address(f"nodes.{node}.client", one["client"]),
                parse_address(f"nodes.{node}.peer", one["peer"]),
                directory / node,
            )
            for node, one in state["nodes"].items()
        )
        departed = tuple(str(name) for name in state.get("departed", ()))
        cluster = ClusterDirectory(directory, str(state["cluster"]), members, departed)
    except FileNotFoundError:
        raise ConfigError(f"{directory} has no cluster ({STATE_FILE} is missing)") from None
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} is damaged: {error!r}") from error
    for member in members:
        _write_settings(member, cluster)
    encryption.go_by(members[0].config_file)
    return cluster


def _write_settings(member: Member, cluster: ClusterDirectory, *, join: bool = False) -> None:
    """The node's settings file, unless there is one: what its owner changed in it stays changed."""
    if member.config_file.exists():
        return
    member.directory.mkdir(exist_ok=True)
    lines = [
        f'node = "{member.node}"',
        'data = "data"',
        f'client_listen = "{member.client}"',
        f'peer_listen = "{member.peer}"',
        f'cluster = "{cluster.name}"',
        f'secret_file = "../{SECRET_FILE}"',
        *([_JOIN] if join else []),
        "",
        "[peers]",
        *(f'{one.node} = "{one.peer}"' for one in cluster.members),
        "",
        "[clients]",
        *(f'{one.node} = "{one.client}"' for one in cluster.members),
    ]
    member.config_file.write_text("\n".join(lines) + "\n")


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Held while nodes of ``directory`` are started or stopped, so that two commands do not do both at once."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ProcessError(f"another command is starting or stopping nodes in {directory}; wait for it") from None
        yield
