"""What ``dev`` shows: a table that stays current on a terminal, one JSON object for each event in a pipe."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from lanyinglog.cli import output, rollcall
from lanyinglog.cli.directory import ClusterDirectory, Member
from lanyinglog.config import CLIENT_PORT

_EVENTS_SHOWN = 8

Rows = Sequence[Mapping[str, Any]]


class View(Protocol):
    """What there is to tell about a running cluster."""

    def show(self, rows: Rows) -> None:
        """The nodes as they are now."""

    def ready(self, started: Sequence[tuple[Member, subprocess.Popen[bytes]]]) -> None:
        """The cluster takes messages."""

    def ended(self, member: Member, pid: int, how: str) -> None:
        """A node's process ended, and nobody here asked it to."""

    def returned(self, member: Member, pid: int) -> None:
        """Somebody started the node again."""

    def close(self) -> None:
        """The nodes are about to be stopped."""


def view_of(cluster: ClusterDirectory, form: str) -> View:
    """The view that fits ``--format form`` and standard output."""
    return TableView(cluster) if output.is_table(form) else LineView()


class LineView:
    """JSON lines: a ``ready`` with a row of each node, then ``leader``, ``ended``, ``returned`` and ``stopping``."""

    def __init__(self) -> None:
        self._rows: Rows = ()
        self._leader: tuple[Any, Any] | None = None

    def show(self, rows: Rows) -> None:
        self._rows = rows
        leader = max(((row["term"], row["node"]) for row in rows if row["role"] == "leader"), default=None)
        if leader not in (None, self._leader):
            self._leader = leader
            output.print_json({"event": "leader", "node": leader[1], "term": leader[0]})

    def ready(self, started: Sequence[tuple[Member, subprocess.Popen[bytes]]]) -> None:
        output.print_json({"event": "ready", "nodes": rollcall.told(self._rows)})

    def ended(self, member: Member, pid: int, how: str) -> None:
        output.print_json({"event": "ended", "node": member.node, "pid": pid, "how": how})

    def returned(self, member: Member, pid: int) -> None:
        output.print_json({"event": "returned", "node": member.node, "pid": pid})

    def close(self) -> None:
        output.print_json({"event": "stopping"})


class TableView:
    """A table of the nodes, the last events below it, and what to type next."""

    def __init__(self, cluster: ClusterDirectory) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._cluster = cluster
        self._rows: Rows = ()
        self._events: deque[str] = deque(maxlen=_EVENTS_SHOWN)
        self._hint = "waiting for a leader ..."
        self._live = Live(self._drawn(), console=self._console, refresh_per_second=4, transient=False)
        self._live.start()

    def show(self, rows: Rows) -> None:
        self._rows = rows
        self._live.update(self._drawn())

    def ready(self, started: Sequence[tuple[Member, subprocess.Popen[bytes]]]) -> None:
        first = self._cluster.members[0].client
        server = "" if first.port == CLIENT_PORT else f"--server {first} "
        self._hint = (
            f"lanyinglog subscribe {server}'>'            in a second terminal, and\n"
            f"lanyinglog publish {server}hello 'it works'   in a third.  Ctrl-C here stops all nodes."
        )
        self._tell(f"the cluster is up; its data is in {self._cluster.directory}")

    def ended(self, member: Member, pid: int, how: str) -> None:
        again = f"lanyinglog cluster start --dir {self._cluster.directory}"
        self._tell(f"{member.node} (pid {pid}) ended: {how}; start it again with: {again}")

    def returned(self, member: Member, pid: int) -> None:
        self._tell(f"{member.node} is back (pid {pid})")

    def close(self) -> None:
        self._hint = ""
        self._tell("stopping all nodes")
        self._live.stop()

    def _tell(self, text: str) -> None:
        self._events.append(f"{datetime.now():%H:%M:%S}  {text}")
        self._live.update(self._drawn())

    def _drawn(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        events = Text("\n".join(self._events))
        columns = output.fitting(self._rows, rollcall.COLUMNS, rollcall.DROPPABLE, width=self._console.width)
        return Group(output.table(self._rows, columns), events, Text(self._hint, style="dim"))
