"""The verbs ``backup`` and ``restore``: a copy of a running cluster's data, and a new cluster that begins with it.

What is copied and why it is whole: `lanyinglog.store.backup`. Here: which node to take it from, what it means, and the
new cluster around it. Both work aside and give the result its name when it is complete, so that a command that was
interrupted leaves nothing that looks like a backup or a cluster; the next try clears its traces away.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lanyinglog.cli import output, rollcall
from lanyinglog.cli.cluster import refuse_taken_ports
from lanyinglog.cli.directory import Member, create_cluster, open_cluster, plan_members
from lanyinglog.cli.options import Verb, applies, directory_option, format_option, option
from lanyinglog.config import CLIENT_PORT, Address, parse_address, parse_members, parse_node_id
from lanyinglog.errors import ConfigError, StoreError, Unavailable
from lanyinglog.machine.commands import KIND_MEMBERS, encode_command
from lanyinglog.machine.members import Members
from lanyinglog.machine.state_machine import StateMachine
from lanyinglog.store import backup as store_backup
from lanyinglog.store.backup import Content, DamagedBackup, Manifest
from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.layout import DATA_FILE, OWNER_FILE, Identity

_LOG = "main"
_PATH = click.Path(path_type=Path, file_okay=False)
_READ_BYTES = 4 << 20
_CATCH_UP_S_MAX = 10.0
_POLL_S = 0.05


# ------------------------------------------------------------------------------------------------------------- backup
@click.command(cls=Verb)
@click.argument("target", type=_PATH)
@directory_option(required=False, help="The cluster's directory.")
@option("--node", metavar="ID", help="Which node of --dir to take it from.  [a follower]")
@option("--data", type=_PATH, help="One node's data directory, in place of --dir.")
@option("--server", metavar="HOST:PORT", help="With --data: the node's client address, if it runs.")
@format_option()
def backup(
    target: Path, directory: Path | None, node: str | None, data: Path | None, server: str | None, form: str
) -> int:
    """Copy a node's log to the new directory TARGET while the node runs, and check every entry of the copy.

    Run it on the node's machine. It holds all that was acknowledged before it began. Exit 4 if the log is damaged.
    """
    source, committed = _source(directory, node, data, server)
    began = time.monotonic()
    made = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        manifest = store_backup.take(source, target.absolute(), committed=committed, made=made, content=_content)
    except DamagedBackup as error:
        output.print_error(error, form=form)
        return output.PROBLEM_FOUND
    _tell(manifest, {"backup": str(target)}, began, form)
    if manifest.left_out and committed == 0:
        output.note(
            f"lanyinglog: {manifest.left_out} entries at the end are not known to be committed, a restore leaves them"
            " out; if the cluster did not stop cleanly, start it and take the backup then"
        )
    return output.OK


def _source(directory: Path | None, node: str | None, data: Path | None, server: str | None) -> tuple[Path, int]:
    """The directory of the log, and up to where its node says that it is committed (0 if it does not run)."""
    given = applies(click.get_current_context(), "directory", "data")
    if given is None:
        raise ConfigError("backup needs either --dir, a cluster's directory, or --data, that of one node")
    if given == "data":
        assert data is not None
        source = _log_directory(data)
        if server is None:
            return source, 0
        address = parse_address("--server", server, default_port=CLIENT_PORT)
        commit = int(rollcall.ask(address)["commit"])
        return source, _wait_stored(source, address, commit)
    if click.get_current_context().get_parameter_source("server") is ParameterSource.COMMANDLINE:
        raise ConfigError("--server goes with --data: with --dir the nodes are known")
    assert directory is not None
    members = {member.node: member for member in open_cluster(directory).members}
    if node is not None and node not in members:
        raise ConfigError(f"--node {node}: {directory} has no such node")
    rows = rollcall.roll({name: member.client for name, member in members.items()})
    commit = max((row["commit"] for row in rows if row["commit"] is not None), default=0)
    # Of the running ones a follower rather than the leader, which has more to do.
    running = [row["node"] for row in rows if row["role"] == "follower"]
    running += [row["node"] for row in rows if row["commit"] is not None]
    member = members[node or (running[0] if running else _furthest(list(members.values())))]
    source = member.data / _LOG
    if member.node not in running:
        return source, 0
    return source, _wait_stored(source, member.client, commit)


def _furthest(members: list[Member]) -> str:
    """The stopped node that knows most to be committed."""
    found = [member for member in members if (member.data / _LOG / DATA_FILE).is_file()]
    if not found:
        raise ConfigError("there is no data: the nodes have never run")
    return max(found, key=lambda member: store_backup.peek(member.data / _LOG)[1].hard.commit).node


def _wait_stored(source: Path, address: Address, commit: int) -> int:
    """Returns when the node at ``address`` knows entry ``commit`` to be committed and has it on its own disk: what was
    acknowledged before is in the copy then. Gives back the node's commit index."""
    deadline = time.monotonic() + _CATCH_UP_S_MAX
    while True:
        reply = rollcall.ask(address)
        identity, state = store_backup.peek(source)
        if reply["node"] != identity.node:
            raise ConfigError(f"{address} is {reply['node']}, and {source} is the data of {identity.node}")
        if reply["commit"] >= commit and state.last >= commit:
            return int(reply["commit"])
        if time.monotonic() > deadline:
            raise Unavailable(f"{reply['node']} is behind: entry {state.last} of {commit}. Choose another with --node")
        time.sleep(_POLL_S)


def _log_directory(data: Path) -> Path:
    return data if (data / DATA_FILE).is_file() else data / _LOG


def _content(directory: Path, identity: Identity, commit: int) -> Content:
    """What the log in ``directory``, which no node runs on, means up to ``commit``. Writes no message, nor an entry."""
    store = LmdbStore.open(directory, log=identity.log, node=identity.node, cluster=identity.cluster, create=False)
    try:
        machine = StateMachine()
        machine.load(store.applied(), store.rows())
        while machine.applied < commit:
            for entry in store.entries(machine.applied + 1, commit, bytes_max=_READ_BYTES):
                machine.apply(entry.index, entry.command)
        first_seq = max(machine.first_seq, store.base().last_seq + 1)
        topics, producers = len(machine.topics), len(machine.producers)
        return Content(first_seq, machine.last_seq, machine.last_timestamp, topics, producers)
    finally:
        store.close()


# ------------------------------------------------------------------------------------------------------------ restore
@click.command(cls=Verb)
@click.argument("source", metavar="BACKUP", type=click.Path(path_type=Path, file_okay=False, exists=True))
@directory_option(required=False, help="The new cluster's directory: absent or empty.")
@option(
    "--nodes", type=click.IntRange(1, 9), default=3, show_default=True, help="With --dir: nodes of the new cluster."
)
@option("--port", type=click.IntRange(1, 65_000), default=CLIENT_PORT, show_default=True, help="Its first client port.")
@option(
    "--data", type=_PATH, help="The new data directory of one node, in place of --dir; with --id, --cluster, --peers."
)
@option("--id", "node", metavar="ID", help="With --data: the node's name.")
@option("--cluster", metavar="NAME", help="With --data: the new cluster's name, as in the nodes' settings.")
@option("--peers", metavar="ID=H:P,...", help="With --data: its members, as in the nodes' settings, the same on all.")
@format_option()
def restore(
    source: Path,
    directory: Path | None,
    nodes: int,
    port: int,
    data: Path | None,
    node: str | None,
    cluster: str | None,
    peers: str | None,
    form: str,
) -> int:
    """Make a new cluster that begins with BACKUP: same seqs, timestamps, topics, and memory of producers.

    Nothing is started. On several machines restore the same BACKUP with --data on each, before any of them starts.
    Exit 4 if the backup is torn or damaged.
    """
    given = applies(click.get_current_context(), "directory", "data")
    if given is None:
        raise ConfigError("restore needs either --dir, a new cluster's directory, or --data, that of one node")
    began = time.monotonic()
    try:
        manifest = store_backup.read_manifest(source)
        if given == "directory":
            assert directory is not None
            name = _restore_cluster(source, manifest, directory.absolute(), nodes=nodes, port=port)
            made: dict[str, Any] = {"directory": str(directory), "cluster": name, "nodes": nodes}
        else:
            assert data is not None
            identity, members = _identity(manifest, node, cluster, peers)
            _restore_data(source, manifest, data.absolute(), identity, members)
            made = {"directory": str(data), "cluster": identity.cluster, "node": identity.node}
    except DamagedBackup as error:
        output.print_error(error, form=form)
        return output.PROBLEM_FOUND
    _tell(manifest, {"restored": str(source), **made}, began, form)
    if output.is_table(form):
        output.note(
            f"start it with: lanyinglog cluster start --dir {directory}" if given == "directory" else "start the node"
        )
    return output.OK


def _identity(manifest: Manifest, node: str | None, cluster: str | None, peers: str | None) -> tuple[Identity, Members]:
    """Who the one node of ``--data`` is, and who belongs to its cluster."""
    if node is None or cluster is None or peers is None:
        raise ConfigError("--data needs --id, the node's name, --cluster, the new cluster's, and --peers, its members")
    if cluster == manifest.cluster:
        raise ConfigError(f"--cluster {cluster} is the name of the old cluster: a restored one needs a new name")
    members = Members.of({name: str(address) for name, address in parse_members("--peers", peers).items()})
    if parse_node_id("--id", node) not in members.table:
        raise ConfigError(f"--peers must have every member, and {node!r} is not among them")
    return Identity(manifest.log, node, cluster), members


def _restore_cluster(source: Path, manifest: Manifest, target: Path, *, nodes: int, port: int) -> str:
    """A cluster in ``target`` whose nodes all begin with the backup; its name."""
    store_backup.require_absent(target)
    refuse_taken_ports(plan_members(target, nodes=nodes, port=port))
    aside = store_backup.make_aside(target)
    try:
        made = create_cluster(aside, nodes=nodes, port=port)
        members = Members.of({member.node: str(member.peer) for member in made.members})
        for member in made.members:
            identity = Identity(manifest.log, member.node, made.name)
            _restore_log(source, manifest, member.data / manifest.log, identity, members)
        store_backup.publish_directory(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return made.name


def _restore_data(source: Path, manifest: Manifest, target: Path, identity: Identity, members: Members) -> None:
    store_backup.require_absent(target)
    aside = store_backup.make_aside(target)
    try:
        _restore_log(source, manifest, aside / manifest.log, identity, members)
        store_backup.publish_directory(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _restore_log(source: Path, manifest: Manifest, directory: Path, identity: Identity, members: Members) -> None:
    """The backup as the log of one node, opened once to see that it means what the manifest says."""
    store_backup.copy_data(source, manifest, directory)
    command = encode_command(manifest.last_timestamp + 1, KIND_MEMBERS, members.encode())
    store_backup.adopt(directory, identity, commit=manifest.commit, command=command)
    found = asdict(_content(directory, identity, manifest.commit))
    told = asdict(manifest)
    wrong = [f"{key} is {value}, not {told[key]}" for key, value in found.items() if value != told[key]]
    if wrong:
        raise StoreError(f"{source} does not hold what it says: {', '.join(wrong)}")
    for extra in ("lock.mdb", OWNER_FILE):
        (directory / extra).unlink(missing_ok=True)


# -------------------------------------------------------------------------------------------------------------- words
def _tell(manifest: Manifest, about: dict[str, Any], began: float, form: str) -> None:
    seconds = round(time.monotonic() - began, 2)
    if not output.is_table(form):
        output.print_json({**about, **asdict(manifest), "seconds": seconds})
        return
    what, where = next(iter(about.items()))
    click.echo(f"{what} {where}: {manifest.bytes:,} bytes in {seconds} s, every entry checked")
    if "cluster" in about:
        click.echo(f"  made: {about['directory']}, cluster {about['cluster']}")
    click.echo(f"  from: node {manifest.node} of cluster {manifest.cluster}, {manifest.made}")
    last = "none" if not manifest.last_seq else f"seq {manifest.first_seq:,} to {manifest.last_seq:,}"
    click.echo(f"  messages: {last}; the newest of {output.local_time(manifest.last_timestamp)}")
    click.echo(f"  entries: {manifest.first:,} to {manifest.commit:,}, term {manifest.term}")
    click.echo(f"  topics: {manifest.topics:,}; producers remembered: {manifest.producers:,}")
