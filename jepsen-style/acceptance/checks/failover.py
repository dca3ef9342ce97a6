"""The leader is killed during a publish, comes back, its successor is killed: each line is there once, in order."""

from __future__ import annotations

from typing import Any

import trio

from acceptance.cluster import Cluster, require, require_time, running
from acceptance.command import Scale
from acceptance.lines import first_difference, lines_of
from acceptance.readers import by_async_client
from acceptance.traffic import LINES_TOPIC, Feed, Probe, Watcher, background, own_connections

RESUME_S_MAX = 2.0
SUBSCRIBERS = 4


def run(scale: Scale) -> dict[str, Any]:
    """200,000 lines, two kills."""
    lines = lines_of(scale.lines_file, scale.pick(200_000, 40_000), seed=2)
    with running() as cluster:
        figures = trio.run(_run, cluster, lines)
        cluster.start()
        cluster.wait_equal(timeout_s=30)
        for server in cluster.servers:
            found = [message.payload for message in by_async_client(server, LINES_TOPIC, backend="trio")]
            difference = first_difference(lines, found)
            require(difference is None, f"read back from {server}: {difference}")
        return {"lines": len(lines), **figures}


async def _run(cluster: Cluster, lines: list[bytes]) -> dict[str, Any]:
    feed, probe = Feed(cluster, lines), Probe(cluster.servers)
    watchers = [Watcher(cluster.servers, lines) for _ in range(SUBSCRIBERS)]
    gaps: list[float] = []
    moved = 0
    async with background(probe.run, feed.run, *(watcher.run for watcher in watchers)) as nursery:
        for share in (0.3, 0.7):
            leader = await trio.to_thread.run_sync(cluster.leader)
            port = int(str(leader["client"]).rpartition(":")[2])
            while own_connections(port) < 2:  # the probe's, and a subscriber's
                watchers.append(Watcher(cluster.servers, lines))
                nursery.start_soon(watchers[-1].run)
                await watchers[-1].wait_seq(1)
            moved += own_connections(port) - 1
            feed.allow(share + 0.25)
            await feed.wait_fed(share)
            killed_at = trio.current_time()
            await trio.to_thread.run_sync(cluster.kill, leader)
            await probe.wait_begun_and_acked(killed_at)
            gaps.append(probe.gap_s(killed_at, trio.current_time()))
            require_time(gaps[-1] <= RESUME_S_MAX, f"writes stood still for {gaps[-1]:.2f} s after a kill")
            await trio.to_thread.run_sync(cluster.start)
        feed.allow(1.0)
        for watcher in watchers:
            await watcher.wait_lines(len(lines))
        await feed.wait_ending()
    return {"gaps s": [round(gap, 2) for gap in gaps], "subscribers": len(watchers), "moved": moved}
