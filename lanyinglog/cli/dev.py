"""The verb ``dev``: a cluster of real node processes in the foreground, to play with and to hurt.

Nodes are not restarted when they die: whoever kills one wants to see the rest go on. ``cluster start --dir`` brings it
back, in this cluster, while ``dev`` runs, and Ctrl-C here stops that one too.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import click

from lanyinglog.cli import output, processes
from lanyinglog.cli.cluster import idle_members, open_or_create, rows_of, wait_until_up
from lanyinglog.cli.dev_view import View, view_of
from lanyinglog.cli.directory import ClusterDirectory, ProcessError, exclusive
from lanyinglog.cli.foreground import Started, ended_by_signals, spawn_tied
from lanyinglog.cli.options import Verb, directory_option, format_option, option, timeout_option
from lanyinglog.cli.streams import reader_watched

_LOOK_S = 0.5
_ANSWER_S = 0.5


@click.command(cls=Verb)
@option("--nodes", type=click.IntRange(1, 9), help="Nodes of a new cluster.  [3]")
@directory_option(required=False, help="Keep data here; without it, it is gone afterwards.")
@option("--port", type=click.IntRange(1, 65_000), help="First client port of a new cluster; peers: plus 100.  [7420]")
@timeout_option(30.0, "How long to wait for a leader.")
@format_option()
def dev(nodes: int | None, directory: Path | None, port: int | None, timeout_s: float, form: str) -> int:
    """Run a cluster of real node processes on this machine, in the foreground; Ctrl-C stops it."""
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lanyinglog-")))
        try:
            _run(directory, nodes=nodes, port=port, timeout_s=timeout_s, form=form)
        except KeyboardInterrupt:
            return output.OK


def _run(directory: Path, *, nodes: int | None, port: int | None, timeout_s: float, form: str) -> NoReturn:
    with ExitStack() as stack:
        with exclusive(directory):
            cluster = open_or_create(directory, nodes=nodes, port=port)
            idle = idle_members(cluster)
            if len(idle) < len(cluster.members):
                raise ProcessError(
                    f"nodes run in {directory} already; first: lanyinglog cluster stop --dir {directory}"
                )
            stack.callback(processes.stop, cluster.members)
            started = spawn_tied(idle, stack)
            view = view_of(cluster, form)
            stack.callback(view.close)
            stack.enter_context(reader_watched())  # left before the nodes are stopped, which nothing is to interrupt
            wait_until_up(cluster, started, timeout_s=timeout_s, seen=view.show)
        view.ready(started)
        _watch(cluster, started, view)


def _watch(cluster: ClusterDirectory, started: Started, view: View) -> NoReturn:
    """Shows the cluster for ever, and tells once of each process that ended and of each node that came back."""
    alive = list(started)
    gone: set[str] = set()
    while True:
        for member, process in list(alive):
            if process.poll() is not None:
                alive.remove((member, process))
                gone.add(member.node)
                view.ended(member, process.pid, processes.why_it_ended(process))
        for member in cluster.members:
            if member.node in gone and (pid := processes.running_pid(member.data)) is not None:
                gone.remove(member.node)
                view.returned(member, pid)
        view.show(rows_of(cluster, timeout_s=_ANSWER_S))
        time.sleep(_LOOK_S)
