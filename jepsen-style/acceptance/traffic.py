"""What goes on while a cluster is being hurt: a publisher fed line by line, a probe, and watchers that miss nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psutil
import trio

import lanyinglog
from acceptance.changes import Changes
from acceptance.cluster import Cluster, command, require
from acceptance.lines import as_file

LINES_TOPIC = "check.lines"
PROBE_TOPIC = "check.probe"
_CHUNK = 500


class Feed:
    """``lanyinglog publish --file -``, given ``lines`` as fast as it takes them, up to where it may go (`allow`)."""

    def __init__(self, cluster: Cluster, lines: Sequence[bytes]) -> None:
        self._cluster = cluster
        self._lines = lines
        self._allowed = 0
        self._changes = Changes()
        self.fed = 0
        self.ending: dict[str, Any] | None = None
        """The last object it printed."""

    def allow(self, share: float) -> None:
        """Feed the first ``share`` (0 to 1) of all lines."""
        self._allowed = max(self._allowed, round(share * len(self._lines)))
        self._changes.wake()

    async def wait_fed(self, share: float) -> None:
        """Returns when so many lines were taken from us."""
        await self._changes.until(lambda: self.fed >= round(share * len(self._lines)))

    async def wait_ending(self) -> None:
        """Returns when the publisher has ended."""
        await self._changes.until(lambda: self.ending is not None)

    async def run(self) -> None:
        """Until all lines are acknowledged; `Violated` if the publisher says anything else."""
        arguments = ["publish", LINES_TOPIC, "--file", "-", "--format", "json", "--server", self._cluster.server_list]
        async with trio.open_nursery() as nursery:
            process = await trio.lowlevel.open_process(
                command(*arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            try:
                words: list[bytes] = []
                printed: list[bytes] = []
                nursery.start_soon(_collect, process.stdout, printed)
                nursery.start_soon(_collect, process.stderr, words)
                await self._feed(process.stdin)
                code = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
        text = b"".join(printed).decode()
        require(code == 0, f"publish ended with {code}: {b''.join(words).decode().strip()[-1000:]} {text[-300:]}")
        ending = json.loads(text.splitlines()[-1])
        acknowledged = ending["acknowledged"]
        require(acknowledged == len(self._lines), f"{acknowledged} lines acknowledged, {len(self._lines)} were given")
        self.ending = ending
        self._changes.wake()

    async def _feed(self, stdin: trio.abc.SendStream) -> None:
        async with stdin:
            while self.fed < len(self._lines):
                await self._changes.until(lambda: self.fed < self._allowed)
                chunk = self._lines[self.fed : min(self.fed + _CHUNK, self._allowed)]
                await stdin.send_all(as_file(list(chunk)))
                self.fed += len(chunk)
                self._changes.wake()


async def _collect(stream: trio.abc.ReceiveStream, into: list[bytes]) -> None:
    async for chunk in stream:
        into.append(bytes(chunk))


class Probe:
    """One publish at a time, for ever: when each was acknowledged tells how long writes stood still."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = servers
        self.acked: list[tuple[float, int]] = []
        """(trio's clock, seq) of each acknowledgement, in order."""
        self.waits_s: list[float] = []
        self._changes = Changes()

    async def run(self) -> None:
        """Until cancelled; an error of any publish is an error of the check."""
        async with lanyinglog.connect(list(self._servers)) as client:
            number = 0
            while True:
                number += 1
                began = trio.current_time()
                ack = await client.publish(PROBE_TOPIC, b"%d" % number)
                now = trio.current_time()
                self.acked.append((now, ack.seq))
                self.waits_s.append(now - began)
                self._changes.wake()

    async def wait_begun_and_acked(self, since: float) -> None:
        """Returns when a publish that began after ``since`` (trio's clock) was acknowledged."""
        await self._changes.until(lambda: bool(self.acked) and self.acked[-1][0] - self.waits_s[-1] > since)

    async def wait_more(self, count: int) -> None:
        """Returns when so many more were acknowledged."""
        wanted = len(self.acked) + count
        await self._changes.until(lambda: len(self.acked) >= wanted)

    def gap_s(self, since: float, until: float) -> float:
        """The longest time without an acknowledgement that overlaps ``since`` .. ``until``."""
        times = [at for at, _ in self.acked]
        pairs = zip(times, [*times[1:], until], strict=True)
        return max(
            (after - before for before, after in pairs if after >= since and before <= until), default=until - since
        )


class Watcher:
    """A subscriber to everything, checked as it reads: seqs 1, 2, 3 ... and the lines in their order, each once."""

    def __init__(self, servers: Sequence[str], lines: Sequence[bytes]) -> None:
        self._servers = servers
        self._lines = lines
        self.last_seq = 0
        self.last_timestamp = 0
        self.lines_seen = 0
        self.probes: set[bytes] = set()
        self._changes = Changes()

    async def run(self) -> None:
        """Until cancelled; `Violated`."""
        async with (
            lanyinglog.connect(list(self._servers)) as client,
            client.subscribe(">", start="first") as subscription,
        ):
            async for batch in subscription.batches():
                for message in batch:
                    self._take(message)
                self._changes.wake()

    def _take(self, message: Any) -> None:
        require(message.seq == self.last_seq + 1, f"a subscriber got seq {message.seq} behind {self.last_seq}")
        require(message.timestamp > self.last_timestamp, f"the timestamp of seq {message.seq} does not rise")
        self.last_seq, self.last_timestamp = message.seq, message.timestamp
        if message.topic == LINES_TOPIC:
            wanted = self._lines[self.lines_seen] if self.lines_seen < len(self._lines) else None
            require(
                message.payload == wanted, f"line {self.lines_seen + 1}: got {message.payload[:99]!r}, not {wanted!r}"
            )
            self.lines_seen += 1
        elif message.topic == PROBE_TOPIC:
            require(message.payload not in self.probes, f"probe {message.payload!r} came twice")
            self.probes.add(message.payload)

    async def wait_seq(self, seq: int) -> None:
        """Returns when it has seen ``seq``."""
        await self._changes.until(lambda: self.last_seq >= seq)

    async def wait_lines(self, count: int) -> None:
        """Returns when it has seen ``count`` lines."""
        await self._changes.until(lambda: self.lines_seen >= count)


def own_connections(port: int) -> int:
    """How many connections this process has to a node's client port."""
    return sum(
        bool(one.raddr) and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED
        for one in psutil.Process().net_connections("tcp")
    )


@asynccontextmanager
async def background(*tasks: Any) -> AsyncIterator[trio.Nursery]:
    """``tasks`` (async functions without arguments) run beside the body and are cancelled behind it."""
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
        yield nursery
        nursery.cancel_scope.cancel()
