"""A log with a limit takes many times as much: files stay below twice the limit, and who was away catches up.

Latency at the end is held against latency at the beginning, within this run.
"""

from __future__ import annotations

import hashlib
import random
import statistics
import time
from typing import Any

import trio

import lanyinglog
from acceptance import pinned
from acceptance.cluster import Cluster, Row, require, require_time, running
from acceptance.cluster import lanyinglog as program
from acceptance.command import Scale
from acceptance.traffic import Probe, background
from lanyinglog.errors import Trimmed

TOPIC = "check.retention"
MESSAGE_BYTES = 1_000
BATCH = 200
CATCH_UP_S_MAX = 120.0
SLOWER_MAX = 3.0
"""Median latency of the last fifth of the probes against that of the first fifth behind `RAMP`; both are of a machine
that does other things as well."""
RAMP = 0.1
"""The share of the probes that is not counted: until the producer has filled what waits before the leader, a publish
waits behind less than later on."""


def run(scale: Scale) -> dict[str, Any]:
    """One follower is killed at the beginning, 256 MB are kept of 5 GB (quick: 64 MB of 1 GB), and it is started.

    Not less: what is on its way, and room set aside for the next writes, come on top of any limit."""
    bound = scale.pick(256_000_000, 64_000_000)
    traffic = scale.pick(5_000_000_000, 1_000_000_000)
    with running() as cluster:
        program("log", "set", "--max-bytes", f"{bound}B", "--server", cluster.server_list)
        absent = cluster.followers()[0]
        cluster.kill(absent)
        watch = _Files(cluster, bound)
        figures = trio.run(_fill, cluster, traffic, watch)
        began = time.monotonic()
        cluster.start()
        seen = _wait_equal(cluster, watch)
        figures["back in s"] = round(time.monotonic() - began, 1)
        figures["shown meanwhile"] = "; ".join(seen) or "nothing"
        figures["largest file MB"] = round(watch.largest / 1e6, 1)
        _require_same_content(cluster)
        cluster.stop()
        program("verify", str(cluster.directory))
        return figures


class _Files:
    """The sizes of all nodes' files, looked at again and again."""

    def __init__(self, cluster: Cluster, bound: int) -> None:
        self._cluster = cluster
        self._bound = bound
        self.largest = 0

    def look(self) -> None:
        for number in range(1, self._cluster.nodes + 1):
            file = self._cluster.data_file(f"n{number}")
            size = file.stat().st_blocks * 512 if file.exists() else 0
            self.largest = max(self.largest, size)
            require(size <= 2 * self._bound, f"{file.parts[-4]} takes {size} bytes, the limit is {self._bound}")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await trio.sleep(0.1)


async def _fill(cluster: Cluster, traffic: int, watch: _Files) -> dict[str, Any]:
    probe = Probe(cluster.servers)
    source = random.Random(7)
    began = trio.current_time()
    async with (
        background(watch.run, probe.run),
        lanyinglog.connect(cluster.servers) as client,
        client.publisher() as publisher,
    ):
        for _ in range(traffic // (MESSAGE_BYTES * BATCH)):
            block = source.randbytes(MESSAGE_BYTES + BATCH)  # slices of it do not compress
            await publisher.send_many(TOPIC, [block[at : at + MESSAGE_BYTES] for at in range(BATCH)])
        await publisher.flush()
    seconds = trio.current_time() - began
    waits_s = probe.waits_s[int(RAMP * len(probe.waits_s)) :]
    fifth = max(1, len(waits_s) // 5)
    first, last = (statistics.median(part) for part in (waits_s[:fifth], waits_s[-fifth:]))
    require_time(
        last <= SLOWER_MAX * first, f"a publish took {first * 1e3:.1f} ms at first and {last * 1e3:.1f} ms at last"
    )
    return {
        "MB": traffic // 1_000_000,
        "MB/s": round(traffic / 1e6 / seconds, 1),
        "latency ms": f"{first * 1e3:.1f} -> {last * 1e3:.1f}",
    }


def _wait_equal(cluster: Cluster, watch: _Files) -> list[str]:
    """What the node that was away said of itself until all were equal."""
    seen: list[str] = []
    deadline = time.monotonic() + CATCH_UP_S_MAX
    while True:
        watch.look()
        rows = cluster.rows()
        seen += [row["catch_up"] for row in rows if row["catch_up"] and row["catch_up"] not in seen]
        if _are_equal(rows):
            return seen
        require(time.monotonic() < deadline, f"the nodes are not equal within {CATCH_UP_S_MAX:g} s: {rows}")
        time.sleep(0.02)


def _are_equal(rows: list[Row]) -> bool:
    alike = len({(row["last_seq"], row["first_seq"]) for row in rows}) == 1
    return alike and all(row["role"] != "unreachable" and row["catch_up"] is None for row in rows)


def _require_same_content(cluster: Cluster) -> None:
    """Every node gives out the same messages from the same first one on, and says which that is."""
    contents = set()
    row = cluster.rows()[0]
    first, last = row["first_seq"], row["last_seq"]
    require(first > 1, "nothing was trimmed")
    for server in cluster.servers:
        digest = hashlib.sha256()
        expected = first
        for message in pinned.read(server, ">", through=last):
            require(message.seq == expected, f"{server} gives seq {message.seq}, {expected} comes next")
            digest.update(b"%d %d " % (message.seq, message.timestamp) + message.payload)
            expected += 1
        require(expected == last + 1, f"{server} ends with seq {expected - 1}, not {last}")
        contents.add(digest.digest())
        _require_trimmed(server, first)
    require(len(contents) == 1, "the nodes differ in what they give out")


def _require_trimmed(server: str, first: int) -> None:
    with lanyinglog.sync.connect(server) as client:
        try:
            with client.subscribe(">", start=1) as subscription:
                next(iter(subscription))
        except Trimmed as error:
            require(error.hint == str(first), f"{server} says that the log begins at {error.hint}, not {first}")
        else:
            require(False, f"{server} lets a subscription begin at seq 1, the log begins at {first}")
