"""The verb ``demo``: the promises in half a minute, on real processes. A cluster, real lines, a subscriber, and a kill.

It uses nothing that users do not have: nodes as ``dev`` runs them, the blocking client, a signal.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import click

import lanyinglog
from lanyinglog.cli import output, processes
from lanyinglog.cli.cluster import open_or_create, rows_of, wait_until_up
from lanyinglog.cli.directory import ClusterDirectory
from lanyinglog.cli.foreground import ended_by_signals, spawn_tied
from lanyinglog.cli.options import Verb, option, timeout_option
from lanyinglog.errors import Unavailable
from lanyinglog.record import Message

TOPIC = "demo.lines"
_SHOWN = 3
_CHUNK = 200


@click.command(cls=Verb)
@option(
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The lines to send.  [this program's own source]",
)
@option("--nodes", type=click.IntRange(3, 9), default=3, show_default=True, help="Nodes of the cluster.")
@timeout_option(60.0, "How long any step may take.")
def demo(file: Path | None, nodes: int, timeout_s: float) -> int:
    """Start a cluster, send it real lines, kill its leader in the middle, and show what a subscriber receives.

    Everything is made in a temporary directory and gone afterwards. Exit 4 if a line is missing, doubled or misplaced.
    """
    lines = _lines(file)
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lanyinglog-demo-")))
        _say(f"starting {nodes} nodes on this machine, each with its own disk log ...")
        cluster = open_or_create(directory, nodes=nodes, port=processes.free_port(nodes=nodes))
        stack.callback(processes.stop, cluster.members)
        started = spawn_tied(list(cluster.members), stack)
        wait_until_up(cluster, started, timeout_s=timeout_s)
        for member in cluster.members:
            _say(f"  {member.node}  clients at {member.client}  {_role(cluster, member.node)}")
        subscriber = _Subscriber(cluster.servers, len(lines), timeout_s)
        stack.callback(subscriber.stop)
        subscriber.start()
        _publish(cluster, lines, timeout_s)
        received = subscriber.wait(timeout_s)
        return _verdict(lines, received)


def _lines(file: Path | None) -> list[bytes]:
    files = [file] if file else sorted(Path(lanyinglog.__file__).parent.rglob("*.py"))
    return [line for one in files for line in one.read_bytes().splitlines()]


def _role(cluster: ClusterDirectory, node: str) -> str:
    return next(str(row["role"]) for row in rows_of(cluster) if row["node"] == node)


class _Subscriber:
    """Receives in a thread of its own, through the same client as everybody."""

    def __init__(self, servers: str, count: int, timeout_s: float) -> None:
        self.received: list[Message] = []
        self._count = count
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(servers, timeout_s), name="demo-subscriber")
        self._failure: BaseException | None = None
        self._stopping = False

    def start(self) -> None:
        self._thread.start()

    def _run(self, servers: str, timeout_s: float) -> None:
        try:
            with (
                lanyinglog.sync.connect(servers, timeout=timeout_s) as client,
                client.subscribe(TOPIC, start="first") as subscription,
            ):
                while len(self.received) < self._count and not self._stopping:
                    try:
                        self.received += subscription.next_batch(timeout=0.2)
                    except TimeoutError:
                        continue
        except Exception as error:
            # The thread's boundary: `wait` raises it where somebody hears it.
            self._failure = error
        finally:
            self._done.set()

    def wait(self, timeout_s: float) -> list[Message]:
        """All messages; raises what went wrong."""
        if not self._done.wait(timeout_s):
            raise Unavailable(f"the subscriber has {len(self.received)} of {self._count} lines after {timeout_s:g} s")
        if self._failure is not None:
            raise self._failure
        return self.received

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()


def _publish(cluster: ClusterDirectory, lines: Sequence[bytes], timeout_s: float) -> None:
    """Half of the lines, a kill, the other half: one publisher, which is not told of any of it."""
    half = len(lines) // 2
    _say(f"publishing {len(lines):,} lines ...")
    with (
        lanyinglog.sync.connect(cluster.servers, timeout=timeout_s) as client,
        client.publisher(batch_messages=_CHUNK) as publisher,
    ):
        publisher.send_many(TOPIC, lines[:half])
        publisher.flush()
        _say(f"  {publisher.acknowledged:,} acknowledged: on disk on a majority of the nodes")
        publisher.send_many(TOPIC, lines[half:-1])
        leader = next(row for row in rows_of(cluster) if row["role"] == "leader")
        os.kill(leader["pid"], signal.SIGKILL)
        killed_at = time.monotonic()
        _say(f"  killed the leader, {leader['node']}, with SIGKILL")
        publisher.send_many(TOPIC, lines[-1:])
        publisher.flush()
        _say(f"  all {publisher.acknowledged:,} acknowledged {time.monotonic() - killed_at:.2f} s after the kill")


def _verdict(lines: Sequence[bytes], received: Sequence[Message]) -> int:
    _say("what the subscriber received:")
    for message in received[:_SHOWN]:
        _say(f"  seq {message.seq:>6}  {_shown(message.payload)}")
    _say("  ...")
    for message in received[-_SHOWN:]:
        _say(f"  seq {message.seq:>6}  {_shown(message.payload)}")
    in_order = [message.payload for message in received] == list(lines)
    rising = all(
        after.seq == before.seq + 1 and after.timestamp > before.timestamp for before, after in pairwise(received)
    )
    if not (in_order and rising):
        _say("NOT what was published: lines are missing, doubled or misplaced")
        return output.PROBLEM_FOUND
    _say(f"all {len(received):,} lines, byte for byte, each once, in order, with rising timestamps")
    return output.OK


def _shown(payload: bytes) -> str:
    text = payload.decode(errors="backslashreplace")
    text = "".join(one if one.isprintable() else " " for one in text)
    return text if len(text) <= 90 else text[:87] + "..."


def _say(text: str) -> None:
    click.echo(text)
