"""A long log costs no time: restarts, after a kill and after a clean stop, and a snapshot for an empty disk.

Each restart serves within three seconds, and with ten times the messages nothing takes notably longer.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

import lanyinglog
from acceptance.cluster import Cluster, Row, require, require_time, running
from acceptance.cluster import lanyinglog as program
from acceptance.command import Scale

SERVES_S_MAX = 3.0
GROWS_MAX = 1.5
"""Times with the long log against those with the short one, beyond `NOISE_S`."""
NOISE_S = 0.3
SNAPSHOTS = 3
"""Of so many the quickest counts."""
LIMIT = 5_000
"""Messages that the log is to keep when it is trimmed, so that it takes a snapshot to join."""
KEPT = LIMIT + (2 << 20) // 100
"""Messages that it keeps at most: an entry goes as a whole, and may hold two full batches."""
WAIT_S_MAX = 120.0
_CHUNK = 10_000


def run(scale: Scale) -> dict[str, Any]:
    """At 1,000,000 and 10,000,000 messages of 100 bytes: a follower is killed, the leader is killed, all are stopped;
    then all but `LIMIT` messages or a few more are trimmed and a follower's directory is deleted."""
    sizes = scale.pick((1_000_000, 10_000_000), (30_000, 300_000))
    with running() as cluster:
        before = 0
        times: list[dict[str, float]] = []
        for size in sizes:
            fill(cluster, before, size)
            before = size
            times.append(_restarts(cluster, size) | {"snapshot": min(_snapshot(cluster) for _ in range(SNAPSHOTS))})
        short, long = times
        for name, seconds in short.items():
            words = f"{name}: {long[name]:.2f} s with {sizes[1]:,} messages, {seconds:.2f} s with {sizes[0]:,}"
            require_time(long[name] <= GROWS_MAX * seconds + NOISE_S, words)
        return {f"{name} s": f"{short[name]:.2f} -> {long[name]:.2f}" for name in short} | {"messages": sizes[1]}


def fill(cluster: Cluster, begin: int, end: int) -> None:
    """Messages ``begin`` to ``end``, numbered, of 100 bytes; the log keeps all of them."""
    program("log", "set", "--no-max-messages", "--server", cluster.server_list)
    with lanyinglog.sync.connect(cluster.servers) as client, client.publisher() as publisher:
        for first in range(begin, end, _CHUNK):
            publisher.send_many("check.fill", [b"%-100d" % number for number in range(first, min(end, first + _CHUNK))])
    cluster.wait_equal(timeout_s=WAIT_S_MAX)


def _restarts(cluster: Cluster, count: int) -> dict[str, float]:
    follower = cluster.followers()[0]
    cluster.kill(follower)
    times = {"follower killed": _serving_again(cluster, follower, count)}
    leader = cluster.leader()
    cluster.kill(leader)
    times["leader killed"] = _serving_again(cluster, leader, count)
    cluster.stop()
    times["all stopped"] = _serving_again(cluster, follower, count)
    return times


def _serving_again(cluster: Cluster, row: Row, count: int) -> float:
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
    require_time(took_s <= SERVES_S_MAX, f"{row['node']} served {took_s:.1f} s after its start")
    return took_s


def _snapshot(cluster: Cluster) -> float:
    """Seconds from the start of a node with an empty disk until it has all that the trimmed log holds."""
    program("log", "set", "--max-messages", str(LIMIT), "--server", cluster.server_list)
    _wait(cluster, "the log is trimmed", _is_trimmed)
    wiped = cluster.followers()[0]
    cluster.kill(wiped)
    shutil.rmtree(cluster.directory / wiped["node"] / "data")
    began = time.monotonic()
    cluster.start()
    _wait(cluster, f"{wiped['node']} is back", _are_whole)
    return time.monotonic() - began


def _is_trimmed(rows: list[Row]) -> bool:
    return all(row["role"] != "unreachable" and row["last_seq"] - row["first_seq"] < KEPT for row in rows)


def _are_whole(rows: list[Row]) -> bool:
    roles = {row["role"] for row in rows}
    return (
        roles == {"leader", "follower"}
        and len({(row["first_seq"], row["last_seq"]) for row in rows}) == 1
        and all(row["catch_up"] is None for row in rows)
    )


def _wait(cluster: Cluster, what: str, holds: Any) -> None:
    """Asks through one client: a command for each look would make steps of half a second of what is measured."""
    deadline = time.monotonic() + WAIT_S_MAX
    with lanyinglog.sync.connect(cluster.servers) as client:
        while not holds(rows := client.status()):
            require(time.monotonic() < deadline, f"not within {WAIT_S_MAX:g} s: {what}: {rows}")
            time.sleep(0.02)
