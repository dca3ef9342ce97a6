"""The verbs ``cluster start``, ``stop``, ``transfer`` and ``status``: all nodes of a directory, in the background."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from lanyinglog.cli import output, processes, rollcall
from lanyinglog.cli.directory import (
    ClusterDirectory,
    Member,
    ProcessError,
    create_cluster,
    exclusive,
    is_cluster,
    open_cluster,
    plan_members,
)
from lanyinglog.cli.options import Verb, directory_option, format_option, option, server_option, timeout_option
from lanyinglog.cli.quorum import UNREACHABLE, has_quorum
from lanyinglog.cli.reach import connect
from lanyinglog.config import CLIENT_PORT, Address
from lanyinglog.errors import ConfigError, Unavailable

_POLL_S = 0.05
_CATCH_UP_S = 5.0  # a node of a new cluster votes at once, one whose disk was lost may have gigabytes to fetch
_DIRECTORY = "The cluster's directory."


# ------------------------------------------------------------------------------------- what the verbs and `dev` share
def open_or_create(directory: Path, *, nodes: int | None, port: int | None) -> ClusterDirectory:
    """The cluster in ``directory``, made if there is none.

    `ConfigError` if it is there and differs from what is asked; `ProcessError` if a port that it needs is taken.
    """
    if not is_cluster(directory):
        refuse_taken_ports(plan_members(directory, nodes=nodes or 3, port=port or CLIENT_PORT))
        return create_cluster(directory, nodes=nodes or 3, port=port or CLIENT_PORT)
    cluster = open_cluster(directory)
    if nodes is not None and nodes != len(cluster.members):
        raise ConfigError(
            f"{directory} is a cluster of {len(cluster.members)} nodes: --nodes {nodes} can't change that, but"
            " `lanyinglog cluster add` and `cluster remove` can"
        )
    first_port = cluster.members[0].client.port
    if port is not None and port != first_port:
        raise ConfigError(f"the cluster in {directory} begins at port {first_port}: --port {port} can't change that")
    return cluster


def idle_members(cluster: ClusterDirectory) -> list[Member]:
    """The members that no process runs. Raises `ProcessError` if one of their ports is taken by somebody else."""
    idle = [member for member in cluster.members if not processes.is_claimed(member.data)]
    refuse_taken_ports(idle)
    return idle


def refuse_taken_ports(members: Sequence[Member]) -> None:
    """Raises `ProcessError` if another program listens on a port of ``members``."""
    taken = processes.taken_port(members)
    if taken is not None:
        member, role, address = taken
        raise ProcessError(
            f"port {address.port} ({role} port of {member.node}) is taken by another program;"
            " stop it, or begin a new cluster elsewhere with --port"
        )


def rows_of(cluster: ClusterDirectory, *, timeout_s: float = rollcall.ANSWER_S) -> list[dict[str, Any]]:
    """`rollcall.roll` of ``cluster``, and what only its directory tells: peer addresses and pids of silent nodes."""
    rows = rollcall.roll({member.node: member.client for member in cluster.members}, timeout_s=timeout_s)
    for row, member in zip(rows, cluster.members, strict=True):
        row["peer"] = row["peer"] or str(member.peer)
        row["pid"] = row["pid"] or processes.running_pid(member.data)
    return rows


def wait_until_up(
    cluster: ClusterDirectory,
    started: Sequence[tuple[Member, subprocess.Popen[bytes]]],
    *,
    timeout_s: float,
    seen: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """Returns the rows once the cluster has a quorum and every node in ``started`` answers and is up to date.

    The last of these is waited for `_CATCH_UP_S` at most: as long as a node does not vote, no other may fail, and
    who has just been told that the cluster is up may stop one right away. Raises `ProcessError` when one of ``started``
    ends, `Unavailable` after ``timeout_s``. ``seen`` gets rows meanwhile.
    """
    deadline = time.monotonic() + timeout_s
    caught_up_by = None
    waited_for = {member.node for member, _ in started}
    while True:
        for member, process in started:
            if process.poll() is not None:
                tail = processes.log_tail(member)
                raise ProcessError(
                    f"{member.node} ended with {processes.why_it_ended(process)}; {member.log_file} ends with:\n{tail}"
                )
        rows = rows_of(cluster, timeout_s=min(rollcall.ANSWER_S, timeout_s))
        seen(rows)
        silent = {row["node"] for row in rows if row["role"] == UNREACHABLE} & waited_for
        if has_quorum(rows) and not silent:
            caught_up_by = caught_up_by or min(deadline, time.monotonic() + _CATCH_UP_S)
            behind = any(row.get("catch_up") for row in rows if row["node"] in waited_for)
            if not behind or time.monotonic() >= caught_up_by:
                return rows
        elif time.monotonic() > deadline:
            missing = f"{', '.join(sorted(silent))} did not answer" if silent else "no leader was elected"
            raise Unavailable(f"{missing} within {timeout_s:g} s; the logs are in {cluster.directory}/*/node.log")
        time.sleep(_POLL_S)


# --------------------------------------------------------------------------------------------------------- the verbs
@click.group(context_settings={"max_content_width": 100})
def cluster() -> None:
    """Start, stop and look at a cluster on this machine, in the background."""


@cluster.command(cls=Verb)
@directory_option(required=True, help=_DIRECTORY)
@option("--nodes", type=click.IntRange(1, 9), help="Nodes of a new cluster.  [3]")
@option("--port", type=click.IntRange(1, 65_000), help="First client port of a new cluster; peers: plus 100.  [7420]")
@timeout_option(30.0, "How long to wait for a leader.")
@format_option()
def start(directory: Path, nodes: int | None, port: int | None, timeout_s: float, form: str) -> int:
    """Start whatever of the cluster in --dir is not running, and wait until it has a leader and is up to date.

    A node that has much to fetch is waited for a few seconds only; standard error says so. A directory that is empty
    or absent becomes a new cluster of --nodes nodes.
    """
    with exclusive(directory):
        found = open_or_create(directory, nodes=nodes, port=port)
        started = [(member, processes.spawn(member)) for member in idle_members(found)]
        rows = wait_until_up(found, started, timeout_s=timeout_s)
    code = rollcall.show(rows, form=form)
    if output.is_table(form):
        names = ", ".join(member.node for member, _ in started)
        output.note(f"started {names}" if started else "all nodes were running already")
        output.note(f"use it with --server {found.servers}; stop it with: lanyinglog cluster stop --dir {directory}")
    return code


@cluster.command(cls=Verb)
@directory_option(required=True, help=_DIRECTORY)
@timeout_option(processes.STOP_GRACE_S, "How long a node may take to stop before it is killed.")
@format_option()
def stop(directory: Path, timeout_s: float, form: str) -> int:
    """Stop all nodes of the cluster in --dir; its data stays."""
    found = open_cluster(directory)
    with exclusive(directory):
        outcome = processes.stop(found.members, grace_s=timeout_s)
    rows = [{"node": node, "outcome": outcome[node]} for node in sorted(outcome)]
    output.print_rows(rows, ("node", "outcome"), form=form, empty="")
    return output.OK


@cluster.command(cls=Verb)
@server_option()
@click.option("--to", metavar="NODE", help="Who is to lead.  [the node with the most of the log]")
@timeout_option(10.0, "How long to wait for the leader.")
@format_option()
def transfer(servers: tuple[Address, ...], to: str | None, timeout_s: float, form: str) -> int:
    """Move leadership to another node, without an error at any client.

    Prints who leads now and how long that took. A node that is stopped cleanly does the same by itself.
    """
    with connect(servers, timeout_s=timeout_s, form=form) as client:
        began = time.monotonic()
        leader = client.transfer_leadership(to)
        row = {"leader": leader, "ms": round((time.monotonic() - began) * 1000, 1)}
    output.print_rows([row], ("leader", "ms"), form=form, empty="")
    return output.OK


@cluster.command(cls=Verb)
@directory_option(required=True, help=_DIRECTORY)
@timeout_option(rollcall.ANSWER_S, "How long a node may take to answer.")
@format_option()
def status(directory: Path, timeout_s: float, form: str) -> int:
    """Show each node of the cluster in --dir.

    Exit 3 without quorum; standard error says what is missing. A narrow terminal shows fewer columns.
    """
    return rollcall.show(rows_of(open_cluster(directory), timeout_s=timeout_s), form=form)
