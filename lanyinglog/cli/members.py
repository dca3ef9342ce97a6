"""The verbs ``cluster add`` and ``cluster remove``: who belongs to a cluster, one change at a time.

With ``--dir`` they also make, start and stop the node's process; with ``--server`` they only tell the cluster, and the
node is started elsewhere, with ``lanyinglog node --join``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from lanyinglog.cli import output, processes, rollcall
from lanyinglog.cli.cluster import cluster, refuse_taken_ports
from lanyinglog.cli.directory import (
    ClusterDirectory,
    Member,
    ProcessError,
    add_member,
    drop_member,
    exclusive,
    open_cluster,
)
from lanyinglog.cli.options import Verb, cluster_options, format_option, timeout_option
from lanyinglog.cli.quorum import UNREACHABLE
from lanyinglog.config import Address, parse_address, parse_node_id
from lanyinglog.errors import ConfigError, Unavailable

COLUMNS = ("node", "peer", "role")
_POLL_S = 0.1


@cluster.command(cls=Verb)
@click.argument("node", required=False)
@cluster_options("The cluster's directory: the node is made and started there.")
@click.option("--peer", metavar="HOST:PORT", help="Where the node listens for peers; only with --server.")
@timeout_option(60.0, "How long the node may take to catch up and to become a voter.")
@format_option()
def add(
    node: str | None,
    directory: Path | None,
    servers: tuple[Address, ...],
    peer: str | None,
    timeout_s: float,
    form: str,
) -> int:
    """Have one more node join: it is sent all there is, and votes once it has that.

    With --dir: makes and starts the next node of the directory, or finishes what an earlier call began. With --server:
    NODE, started with --join, listens for peers at --peer.
    """
    if directory is not None:
        if peer is not None or node is not None:
            raise ConfigError("--dir makes a node, with the next name and ports: NODE and --peer go with --server")
        with exclusive(directory):
            members = _add_to_directory(directory, timeout_s)
    elif node is None or peer is None:
        raise ConfigError("name the NODE and its --peer address, or the cluster's --dir")
    else:
        name, address = parse_node_id("NODE", node), str(parse_address("--peer", peer))
        members = _join(",".join(map(str, servers)), name, address, timeout_s)
    _print(members, form)
    return output.OK


@cluster.command(cls=Verb)
@click.argument("node")
@cluster_options("The cluster's directory: the node's process is stopped, its data stays.")
@timeout_option(30.0, "How long the cluster may take.")
@format_option()
def remove(node: str, directory: Path | None, servers: tuple[Address, ...], timeout_s: float, form: str) -> int:
    """Have NODE leave the cluster for good; if it leads, another leads first.

    Refused if too few of the others answer and have caught up. The name is never used again.
    """
    from lanyinglog import sync

    if directory is None:
        with sync.connect(",".join(map(str, servers)), timeout=timeout_s) as client:
            _print(client.remove_member(node)["members"], form)
        return output.OK
    with exclusive(directory):
        found = open_cluster(directory)
        with sync.connect(found.servers, timeout=timeout_s) as client:
            members = client.remove_member(node)["members"]
        gone = [member for member in found.members if member.node == node]
        processes.stop(gone, grace_s=processes.STOP_GRACE_S)
        drop_member(found, node)
    _print(members, form)
    if gone:
        output.note(f"{node} is stopped; what it had stays in {gone[0].directory}")
    return output.OK


def _add_to_directory(directory: Path, timeout_s: float) -> Mapping[str, Any]:
    found = open_cluster(directory)
    member = _half_added(found)
    if member is None:
        found, member = add_member(found)
    if not processes.is_claimed(member.data):
        refuse_taken_ports([member])
        process = processes.spawn(member)
        _wait_until_it_answers(member, process, timeout_s)
    others = ",".join(str(one.client) for one in found.members if one is not member)
    members = _join(others, member.node, str(member.peer), timeout_s)
    member.has_joined()
    return members


def _half_added(found: ClusterDirectory) -> Member | None:
    """A node of the directory that is still to be added: an earlier call was ended."""
    return next((member for member in found.members if member.is_to_join), None)


def _wait_until_it_answers(member: Member, process: Any, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while rollcall.roll({member.node: member.client})[0]["role"] == UNREACHABLE:
        if process.poll() is not None:
            raise ProcessError(f"{member.node} ended with {processes.why_it_ended(process)}; see {member.log_file}")
        if time.monotonic() > deadline:
            raise Unavailable(f"{member.node} did not answer within {timeout_s:g} s; see {member.log_file}")
        time.sleep(_POLL_S)


def _join(servers: str, node: str, peer: str, timeout_s: float) -> Mapping[str, Any]:
    """The members once ``node`` is one that votes."""
    from lanyinglog import sync

    deadline = time.monotonic() + timeout_s
    with sync.connect(servers, timeout=timeout_s) as client:
        members = dict(client.add_member(node, peer)["members"])
        while not members[node]["votes"]:
            leader = next((row for row in client.status() if row["role"] == "leader"), {})
            members[node]["votes"] = leader.get("members", {}).get(node) == "voter"
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{node} belongs to the cluster, but has not caught up within {timeout_s:g} s:"
                    f" {_progress(leader, node)}; it will vote as soon as it has"
                )
            time.sleep(_POLL_S)
    return members


def _progress(leader: Mapping[str, Any], node: str) -> str:
    peer = leader.get("peers", {}).get(node)
    if peer is None:
        return "no leader tells how far it is"
    if not peer["connected"]:
        return "the leader can't reach it"
    if peer.get("snapshot") is not None:
        return f"it has {peer['snapshot']} % of a snapshot"
    return f"it lacks {peer['lag']} entries"


def _print(members: Mapping[str, Any], form: str) -> None:
    rows = [
        {"node": name, "peer": one["peer"], "role": "voter" if one["votes"] else "learner"}
        for name, one in sorted(members.items())
    ]
    output.print_rows(rows, COLUMNS, form=form, empty="")
