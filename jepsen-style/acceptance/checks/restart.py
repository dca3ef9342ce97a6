"""A node of a long log restarts, after a kill and after a clean stop, and serves within three seconds."""

from __future__ import annotations

import time
from typing import Any

import lanyinglog
from acceptance.cluster import Cluster, require, running
from acceptance.command import Scale

SERVES_S_MAX = 3.0
_CHUNK = 10_000


def run(scale: Scale) -> dict[str, Any]:
    """1,000,000 messages of 100 bytes; then a follower is killed, the leader is killed, all are stopped."""
    count = scale.pick(1_000_000, 100_000)
    with running() as cluster:
        fill(cluster, count)
        cluster.wait_equal(timeout_s=60)
        follower = cluster.followers()[0]
        cluster.kill(follower)
        figures = {"messages": count, "follower killed s": _serving_again(cluster, follower, count)}
        leader = cluster.leader()
        cluster.kill(leader)
        figures["leader killed s"] = _serving_again(cluster, leader, count)
        cluster.stop()
        figures["all stopped s"] = _serving_again(cluster, follower, count)
        return figures


def fill(cluster: Cluster, count: int) -> None:
    """``count`` numbered messages of 100 bytes."""
    with lanyinglog.sync.connect(cluster.servers) as client, client.publisher() as publisher:
        for first in range(0, count, _CHUNK):
            publisher.send_many(
                "check.fill", [b"%-100d" % number for number in range(first, min(count, first + _CHUNK))]
            )


def _serving_again(cluster: Cluster, row: dict[str, Any], count: int) -> float:
    """Seconds from the start command until the node gives out the middle and the end of the log."""
    began = time.monotonic()
    cluster.start()
    with lanyinglog.sync.connect(row["client"]) as client:
        for seq in (count // 2, count):
            with client.subscribe(">", start=seq) as subscription:
                first = next(iter(subscription))
            require(
                first.seq == seq and first.payload == b"%-100d" % (seq - 1),
                f"{row['node']} gave seq {first.seq} {first.payload[:20]!r} for {seq}",
            )
    took_s = time.monotonic() - began
    require(took_s <= SERVES_S_MAX, f"{row['node']} served {took_s:.1f} s after its start")
    return round(took_s, 2)
