"""All nodes are killed in the middle of a publish: what was acknowledged is there, and the retry doubles nothing."""

from __future__ import annotations

from typing import Any

import trio

from acceptance.cluster import Cluster, require, running
from acceptance.command import Scale
from acceptance.lines import first_difference, lines_of
from acceptance.readers import by_async_client, require_order
from acceptance.traffic import LINES_TOPIC, PROBE_TOPIC, Feed, Probe, background


def run(scale: Scale) -> dict[str, Any]:
    """Lines through the command line and single publishes beside it; every process gets SIGKILL, several times."""
    lines = lines_of(scale.lines_file, scale.pick(200_000, 40_000), seed=3)
    blackouts = scale.pick(3, 1)
    with running() as cluster:
        figures = trio.run(_run, cluster, lines, blackouts)
        cluster.wait_equal(timeout_s=30)
        acked: list[int] = figures.pop("acked")
        for server in cluster.servers:
            found = by_async_client(server, LINES_TOPIC, backend="trio")
            difference = first_difference(lines, [message.payload for message in found])
            require(difference is None, f"read back from {server}: {difference}")
            probes = by_async_client(server, PROBE_TOPIC, backend="trio")
            require_order(probes, where=server)
            payloads = [message.payload for message in probes]
            require(len(set(payloads)) == len(payloads), f"{server} has a probe twice")
            at = {message.seq: message.payload for message in probes}
            for number, seq in enumerate(acked, 1):
                require(at.get(seq) == b"%d" % number, f"{server}: probe {number}, acknowledged as seq {seq}, is lost")
        return {"lines": len(lines), "probes acknowledged": len(acked), **figures}


async def _run(cluster: Cluster, lines: list[bytes], blackouts: int) -> dict[str, Any]:
    feed, probe = Feed(cluster, lines), Probe(cluster.servers)
    async with background(probe.run, feed.run):
        for number in range(1, blackouts + 1):
            share = number / (blackouts + 1)
            feed.allow(share + 0.5 / (blackouts + 1))
            await feed.wait_fed(share)
            await trio.to_thread.run_sync(_kill_all, cluster)
            await trio.to_thread.run_sync(cluster.start)
            await probe.wait_more(2)
        feed.allow(1.0)
        await feed.wait_ending()
    return {"blackouts": blackouts, "acked": [seq for _, seq in probe.acked]}


def _kill_all(cluster: Cluster) -> None:
    rows = cluster.rows()
    for row in rows:
        cluster.kill(row)
