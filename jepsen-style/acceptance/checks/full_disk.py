"""Disks of 64 MB, filled to the last byte and freed under load: clear refusals, no loss, service back within 5 s."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import trio

import lanyinglog
from acceptance import pinned
from acceptance.changes import Changes
from acceptance.cluster import Cluster, Skipped, Violated, require, require_time, running
from acceptance.cluster import lanyinglog as lanyinglog_program
from acceptance.command import Scale
from acceptance.readers import by_async_client
from acceptance.traffic import background
from lanyinglog.errors import LanyingError, Outcome, StorageFull, Trimmed

TOPIC = "check.full"
DISK_BYTES = 64 << 20
BACK_S_MAX = 5.0
LOG_BYTES = 16 << 20
"""What the log is limited to in the last round, which shows that a log can live in the pages that it frees."""
WRITERS = 4
PACE_S = 0.02
FLOODS = 4
FLOOD_BYTES = 64 << 10
FLOOD_MESSAGES = 320
"""20 MiB of messages: more than what was set aside before the disk was filled, and the reserve."""
READ_TRIES = 10
_INSIDE = "LANYINGLOG_CHECK_FULL_DISK"
_TARGETS = ("leader", "follower", "all")


def run(scale: Scale) -> dict[str, Any]:
    """50 times, in turn: the leader's disk, a follower's, all three. In mounts that nobody else sees."""
    if os.environ.get(_INSIDE):
        return _run_mounted(scale)
    namespace = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    _require_mounts(namespace)
    here = Path(__file__).resolve().parents[2]
    arguments = ["check", "full_disk", *(("--quick",) if scale.quick else ())]
    child = subprocess.run(
        [*namespace, sys.executable, str(here), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, _INSIDE: "1"},
    )
    (result,) = json.loads(child.stdout.splitlines()[-1])["checks"]
    if result["verdict"] == "violated":
        raise Violated(result["why"])
    if result["verdict"] != "ok":
        raise RuntimeError(result["why"])
    figures: dict[str, Any] = result["figures"]
    return figures


def _require_mounts(namespace: Sequence[str]) -> None:
    """`Skipped`, in words, where a process may not mount a file system of its own."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        raise Skipped("unshare or mount is not installed")
    probe = [*namespace, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    tried = subprocess.run(probe, capture_output=True, text=True, timeout=20, check=False)
    if tried.returncode != 0:
        raise Skipped(f"mounting a file system is not allowed here: {tried.stderr.strip()}")


def _run_mounted(scale: Scale) -> dict[str, Any]:
    """Rounds of fills, each with a cluster of its own: a log that is not limited grows by what is set aside at each."""
    rounds = [_round(scale.pick(10, 3), limited=False) for _ in range(scale.pick(4, 1))]
    if not scale.quick:
        rounds.append(_round(10, limited=True))
    total: Counter[str] = Counter()
    for figures in rounds:
        total.update({key: value for key, value in figures.items() if key != "back s"})
    return {**total, "back s at most": max(figures["back s"] for figures in rounds)}


def _round(fills: int, *, limited: bool) -> dict[str, Any]:
    with running() as cluster, _small_disks(cluster):
        cluster.start()
        if limited:
            lanyinglog_program("log", "set", "--max-bytes", f"{LOG_BYTES}B", "--server", cluster.server_list)
        load, back_s = trio.run(_cycles, cluster, fills)
        floods = sum(_TARGETS[number % len(_TARGETS)] != "follower" for number in range(fills))
        require(limited or load.refused_fills == floods, f"{load.refused_fills} of {floods} floods met a full disk")
        cluster.wait_equal(timeout_s=20)
        for server in cluster.servers:
            load.compare(by_async_client(server, TOPIC, backend="trio"))
        return {"fills": fills, "back s": round(back_s, 2), **load.figures()}


@contextlib.contextmanager
def _small_disks(cluster: Cluster) -> Iterator[None]:
    """The stopped cluster's data on one file system of `DISK_BYTES` a node."""
    cluster.stop()
    mounted: list[Path] = []
    try:
        for row in cluster.rows():
            data = cluster.directory / row["node"] / "data"
            aside = data.with_name("data.aside")
            data.rename(aside)
            data.mkdir()
            options = f"size={DISK_BYTES},mode=700"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(data)], check=True)
            mounted.append(data)
            shutil.copytree(aside, data, dirs_exist_ok=True)
        yield
    finally:
        cluster.kill_all()
        for data in mounted:
            subprocess.run(["umount", "--lazy", str(data)], check=False)


# --------------------------------------------------------------------------------------------------------- the load
class _Load:
    """Writers that publish one message after another and note how each ended."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = servers
        self._changes = Changes()
        self._next = 0
        self.acked: dict[bytes, int] = {}
        """The number a payload begins with -> seq."""
        self.refused: set[bytes] = set()
        """Those that are definitely not stored."""
        self.refused_fills = 0
        """Times that a fill led to refusals."""
        self.errors: Counter[str] = Counter()
        self.begun_of_last_ack = 0.0
        """When, on trio's clock, the publish that was acknowledged last began."""

    async def write(self) -> None:
        """One writer of small messages, until cancelled."""
        await self._write(200, PACE_S)

    async def flood(self) -> None:
        """One writer of large messages, as fast as it can, until cancelled."""
        await self._write(FLOOD_BYTES, 0.0)

    async def _write(self, size: int, pace_s: float) -> None:
        """A client of its own: what one of them meets must not stop the others."""
        async with lanyinglog.connect(list(self._servers), timeout=3.0) as client:
            while True:
                self._next += 1
                payload = (b"%08d " % self._next).ljust(size, b"x")
                began = trio.current_time()
                try:
                    ack = await client.publish(TOPIC, payload)
                except LanyingError as error:
                    self._note_failure(payload, error)
                else:
                    self.acked[payload[:8]] = ack.seq
                    self.begun_of_last_ack = max(self.begun_of_last_ack, began)
                self._changes.wake()
                await trio.sleep(pace_s)

    def _note_failure(self, payload: bytes, error: LanyingError) -> None:
        self.errors[error.code] += 1
        if error.outcome is Outcome.DEFINITE:
            self.refused.add(payload[:8])

    async def wait_refused_or_through(self, count: int) -> None:
        """Returns when a publish was declined because of a full disk; or so many went through, for a log that is
        trimmed as it grows can live in the pages that it frees."""
        refused, through = self.errors[StorageFull.code], len(self.acked) + count
        await self._changes.until(
            lambda: self.errors[StorageFull.code] > refused or len(self.acked) >= through, seconds_max=30
        )
        self.refused_fills += self.errors[StorageFull.code] > refused

    async def wait_acks(self, since: float, count: int = 1) -> None:
        """Returns when publishes that began after ``since`` were acknowledged."""
        wanted = len(self.acked) + count
        await self._changes.until(lambda: self.begun_of_last_ack > since and len(self.acked) >= wanted, seconds_max=15)

    def compare(self, found: Sequence[Any]) -> None:
        """``found`` is the topic as read back, as far as it is kept: all acknowledged at their seqs, none refused, none
        twice."""
        stored = {message.payload[:8]: message.seq for message in found}
        require(len(stored) == len(found), f"{len(found) - len(stored)} messages are stored twice")
        first = found[0].seq
        lost = [name for name, seq in self.acked.items() if seq >= first and stored.get(name) != seq]
        require(not lost, f"{len(lost)} acknowledged messages are lost or moved: {lost[:5]}")
        came_true = [name for name in self.refused if name in stored]
        require(not came_true, f"{len(came_true)} messages are stored that were definitely refused: {came_true[:5]}")

    def figures(self) -> dict[str, Any]:
        return {"floods refused": self.refused_fills, "acknowledged": len(self.acked), **self.errors}


async def _cycles(cluster: Cluster, count: int) -> tuple[_Load, float]:
    """``count`` fills; the load, and the longest that service was away after one."""
    load = _Load(cluster.servers)
    back_s: list[float] = []
    pids = {row["node"]: row["pid"] for row in cluster.rows()}
    async with background(*[load.write] * WRITERS):
        await load.wait_acks(0.0, 20)
        for number in range(count):
            back_s.append(await _cycle(cluster, load, _TARGETS[number % len(_TARGETS)]))
            require_time(
                back_s[-1] <= BACK_S_MAX, f"cycle {number + 1}: service back {back_s[-1]:.1f} s after room was made"
            )
            await load.wait_acks(trio.current_time(), 5)
        now = {row["node"]: row["pid"] for row in await trio.to_thread.run_sync(cluster.rows)}
    require(now == pids, f"a node ended: it was {pids}, it is {now}")
    return load, max(back_s)


async def _cycle(cluster: Cluster, load: _Load, target: str) -> float:
    """Fills the disks of ``target``, looks at the errors and the reads, frees them; seconds until service was back."""
    leader = await trio.to_thread.run_sync(cluster.leader)
    rows = await trio.to_thread.run_sync(cluster.rows)
    followers = [row for row in rows if row["node"] != leader["node"]]
    full = {"leader": [leader], "follower": followers[:1], "all": rows}[target]
    disks = [cluster.directory / row["node"] / "data" for row in full]
    try:
        for disk in disks:
            fill(disk)
        if target != "follower":
            async with background(*[load.flood] * FLOODS):
                await load.wait_refused_or_through(FLOOD_MESSAGES)
        if target != "all":
            # The others have room: a leader that has none lets one of them lead.
            await load.wait_acks(trio.current_time(), 5)
        for row in full:
            await trio.to_thread.run_sync(_require_readable, row["client"])
    finally:
        for disk in disks:
            (disk / "filler").unlink(missing_ok=True)
    freed_at = trio.current_time()
    await load.wait_acks(freed_at)
    return trio.current_time() - freed_at


def _require_readable(server: str) -> None:
    """A node whose disk is full serves the oldest message that it keeps."""
    for _ in range(READ_TRIES):
        with contextlib.suppress(Trimmed):  # between the subscription and the read: the log goes on
            require(
                any(True for _ in pinned.read(server, TOPIC, through=1)), f"{server} serves nothing: its disk is full"
            )
            return
    raise Violated(f"{server}, whose disk is full, trims faster than it serves")


def fill(directory: Path) -> None:
    """Leaves not a byte on the file system of ``directory``."""
    with (directory / "filler").open("ab") as file:
        step = DISK_BYTES
        while step:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), step)
            except OSError:
                step //= 4
