"""The verbs ``cluster add`` and ``cluster remove``: who belongs to a cluster, one change at a time.

With ``--dir`` they also make, start and stop the node's process; with ``--server`` they only tell the cluster, and the
node is started elsewhere, with ``lanyinglog node --join``.

An addition begins only where a node leads; then, in this order: with ``--dir`` the node is made, noted as one that is
still to join, and started; it becomes a learner; it has caught up and votes. A call that ends in between loses nothing:
the next one goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lanyinglog.cli import output, processes, rollcall
from lanyinglog.cli.cluster import cluster, refuse_taken_ports, rows_of
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
from lanyinglog.cli.quorum import UNREACHABLE, remarks
from lanyinglog.cli.reach import connect
from lanyinglog.config import Address, parse_address, parse_node_id
from lanyinglog.errors import BadRequest, ConfigError, NotSent, Unavailable

if TYPE_CHECKING:
    from lanyinglog.client.blocking import Client

COLUMNS = ("node", "peer", "role")
_POLL_S = 0.1
_ELECTION_S = 5.0  # an election takes two timeouts, 2 s
_OWN_LOG = (
    "its own log says why (link_down, link_refused: another secret or cluster name?); with its settings put right and"
    " the node started again it goes on by itself"
)


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
            members = _add_to_directory(directory, timeout_s, form)
    elif node is None or peer is None:
        raise ConfigError("name the NODE and its --peer address, or the cluster's --dir")
    else:
        name, address = parse_node_id("NODE", node), str(parse_address("--peer", peer))
        _require_leader(lambda: rollcall.roll_from(servers), timeout_s)
        servers_given = f"--server {','.join(map(str, servers))}"
        with connect(servers, timeout_s=timeout_s, form=form) as client:
            members = _join(client, name, address, timeout_s, where=servers_given)
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
    if directory is None:
        with connect(servers, timeout_s=timeout_s, form=form) as client:
            _print(client.remove_member(node)["members"], form)
        return output.OK
    with exclusive(directory):
        found = open_cluster(directory)
        gone = [member for member in found.members if member.node == node]
        with connect([member.client for member in found.members], timeout_s=timeout_s, form=form) as client:
            members = _left_by(client, node, half_added=any(member.is_to_join for member in gone))
        processes.stop(gone, grace_s=processes.STOP_GRACE_S)
        drop_member(found, node)
    _print(members, form)
    if gone:
        output.note(f"{node} is stopped; what it had stays in {gone[0].directory}")
    return output.OK


def _left_by(client: Client, node: str, *, half_added: bool) -> Mapping[str, Any]:
    """The members once ``node`` has left. One whose addition was broken off may never have been one."""
    try:
        left: Mapping[str, Any] = client.remove_member(node)["members"]
        return left
    except BadRequest:
        rows = client.status()
        roles = _leader_in(rows).get("members", {})
        if not half_added or not roles or node in roles:
            raise
    peers = {row.get("node"): row.get("peer") for row in rows}
    return {name: {"peer": peers.get(name), "votes": role == "voter"} for name, role in roles.items()}


def _require_leader(
    ask: Callable[[], Sequence[Mapping[str, Any]]], timeout_s: float, *, directory: Path | None = None
) -> None:
    """Returns once a node leads, by the rows that ``ask`` gives; `NotSent` if none answers, or none leads in time.
    Without a leader nothing can come of an addition, so nothing of it is begun."""
    deadline = time.monotonic() + min(timeout_s, _ELECTION_S)
    while True:
        try:
            rows = ask()
        except Unavailable as error:
            refused = NotSent(f"{error.message}; nothing was begun")
            refused.advice = error.advice
            raise refused from error
        if _leader_in(rows):
            return
        if time.monotonic() > deadline or all(row["role"] == UNREACHABLE for row in rows):
            refused = NotSent(f"nothing was begun: {remarks(rows)[0]}")
            if directory is not None:
                refused.advice = f"start its nodes with: lanyinglog cluster start --dir {directory}"
            raise refused
        time.sleep(_POLL_S)


def _leader_in(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((row for row in rows if row["role"] == "leader"), {})


def _add_to_directory(directory: Path, timeout_s: float, form: str) -> Mapping[str, Any]:
    found = open_cluster(directory)
    _require_leader(lambda: rows_of(found), timeout_s, directory=directory)
    member = _half_added(found)
    if member is None:
        found, member = add_member(found)
    if not processes.is_claimed(member.data):
        refuse_taken_ports([member])
        process = processes.spawn(member)
        _wait_until_it_answers(member, process, timeout_s)
    others = [one.client for one in found.members if one is not member]
    with connect(others, timeout_s=timeout_s, form=form) as client:
        members = _join(client, member.node, str(member.peer), timeout_s, where=f"--dir {directory}")
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


def _join(client: Client, node: str, peer: str, timeout_s: float, *, where: str) -> Mapping[str, Any]:
    """The members once ``node`` is one that votes."""
    deadline = time.monotonic() + timeout_s
    members = dict(client.add_member(node, peer)["members"])
    while not members[node]["votes"]:
        leader = _leader_in(_status(client))
        members[node]["votes"] = leader.get("members", {}).get(node) == "voter"
        if time.monotonic() > deadline:
            raise _still_a_learner(leader, node, peer, timeout_s, where)
        time.sleep(_POLL_S)
    return members


def _status(client: Client) -> list[dict[str, Any]]:
    try:
        return client.status()
    except Unavailable:
        return []  # for a moment; the deadline is the caller's


def _still_a_learner(leader: Mapping[str, Any], node: str, peer: str, timeout_s: float, where: str) -> Unavailable:
    error = Unavailable(
        f"{node} is a learner of the cluster now, at {peer}, and has not caught up within {timeout_s:g} s:"
        f" {_progress(leader, node)}. It counts for no quorum until it votes, and votes as soon as it has caught up"
    )
    error.advice = (
        f"{_OWN_LOG}; the same `cluster add` waits for it. If it was not meant to be, or not at {peer}:"
        f" `lanyinglog cluster remove {node} {where}`, then add it under another name, for a name is used once"
    )
    return error


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
