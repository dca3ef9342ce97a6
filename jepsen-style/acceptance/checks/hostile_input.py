"""Garbage, torn, oversized, alien and endless input costs its own connection, on client and on peer ports."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from typing import Any

import trio

from acceptance import hostility
from acceptance.cluster import Cluster, memory_bytes, require, running
from acceptance.command import Scale
from acceptance.traffic import Probe, Watcher, background

GROWTH_BYTES_MAX = 64 << 20
AT_ONCE = 32
SLOW_AT_ONCE = 50
CLIENT_S_MAX, PEER_S_MAX = 12.0, 7.0
"""How long a slow stranger may stay: the handshake's limit (10 s, 5 s) and room for a busy machine."""
FRAME_S_MAX = 33.0
"""The same for a frame of a client that said hello (30 s)."""


def run(scale: Scale) -> dict[str, Any]:
    """10,000 cases from a fresh seed against all six ports, and slow ones, while a client publishes and reads."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"  seed {seed}", flush=True)
    with running() as cluster:
        return {"seed": seed, **trio.run(_run, cluster, scale, seed)}


async def _run(cluster: Cluster, scale: Scale, seed: int) -> dict[str, Any]:
    rows = cluster.rows()
    leader = cluster.leader()
    before = {row["node"]: memory_bytes(row["pid"]) for row in rows}
    probe, watcher = Probe(cluster.servers), Watcher(cluster.servers, [])
    verdicts: Counter[str] = Counter()
    slowest: list[float] = []
    async with background(probe.run, watcher.run):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_all, cluster, scale.pick(10_000, 800), seed, verdicts)
            nursery.start_soon(_drip_all, cluster, scale.pick(SLOW_AT_ONCE, 5), scale, slowest)
        most = {row["node"]: memory_bytes(row["pid"]) for row in rows}
        last = probe.acked[-1][1]
        with trio.fail_after(10):
            await watcher.wait_seq(last)
            await probe.wait_more(5)
    after = cluster.leader()
    require(not verdicts["hung"], f"{verdicts['hung']} connections were neither answered nor closed")
    require(
        (after["node"], after["term"], after["pid"]) == (leader["node"], leader["term"], leader["pid"]),
        f"strangers changed the cluster: {leader} -> {after}",
    )
    require([row["pid"] for row in cluster.rows()] == [row["pid"] for row in rows], "a node ended")
    grown = max(most[node] - before[node] for node in most)
    require(grown <= GROWTH_BYTES_MAX, f"a node grew by {grown >> 20} MiB")
    cuts = statistics.quantiles(probe.waits_s, n=100)
    return {
        "cases": sum(verdicts.values()),
        **dict(verdicts.most_common()),
        "slow connections": len(slowest),
        "slowest closed after s": round(max(slowest), 1),
        "grown MiB": round(grown / (1 << 20), 1),
        "others' publishes": len(probe.acked),
        "others' p50 and p99 ms": (round(cuts[49] * 1000, 1), round(cuts[98] * 1000, 1)),
    }


async def _send_all(cluster: Cluster, count: int, seed: int, verdicts: Counter[str]) -> None:
    ports = [cluster.port + i + offset for i in range(cluster.nodes) for offset in (0, 100)]
    left = iter(list(enumerate(hostility.cases(count, seed=seed))))

    async def one_after_the_other() -> None:
        for number, case in left:
            verdicts[await hostility.send(case, ports[number // len(hostility.KINDS) % len(ports)])] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(one_after_the_other)


async def _drip_all(cluster: Cluster, count: int, scale: Scale, slowest: list[float]) -> None:
    """Strangers that never finish a hello, at both kinds of port; and, with time, clients that never finish a frame."""
    kinds = [(cluster.port, b"", CLIENT_S_MAX), (cluster.port + 100, b"\x40", PEER_S_MAX)]
    if not scale.quick:
        kinds.append((cluster.port, hostility.unfinished_frame(), FRAME_S_MAX))

    async def one(port: int, start: bytes, limit_s: float) -> None:
        took_s = await hostility.drip(port, start=start, seconds_max=limit_s)
        require(took_s < math.inf, f"a slow connection to port {port} was still open after {limit_s:g} s")
        slowest.append(took_s)

    async with trio.open_nursery() as nursery:
        for port, start, limit_s in kinds:
            for _ in range(count):
                nursery.start_soon(one, port, start, limit_s)
