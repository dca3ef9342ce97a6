"""Leadership moves on request in under 200 ms, and when a node stops, with no error at a client."""

from __future__ import annotations

import json
from typing import Any

import psutil
import trio

from acceptance.cluster import Cluster, lanyinglog, require, require_time, running
from acceptance.command import Scale
from acceptance.load import Load
from acceptance.traffic import Probe, background

MOVE_MS_MAX = 200.0


def run(scale: Scale) -> dict[str, Any]:
    """Moves under load with ``cluster transfer``, then leaders are stopped with SIGTERM and started again."""
    with running() as cluster:
        return trio.run(_run, cluster, scale.pick(20, 5))


async def _run(cluster: Cluster, moves: int) -> dict[str, Any]:
    load, probe = Load(cluster.servers, lines_s=10_000), Probe(cluster.servers)
    took_ms: list[float] = []
    pauses_ms: list[float] = []
    async with background(load.run, probe.run):
        await probe.wait_more(2)
        for _ in range(moves):
            before = await trio.to_thread.run_sync(cluster.leader)
            began = trio.current_time()
            moved = await trio.to_thread.run_sync(_transfer, cluster)
            took_ms.append(moved["ms"])
            await probe.wait_more(2)
            pauses_ms.append(probe.gap_s(began, trio.current_time()) * 1000)
            after = await trio.to_thread.run_sync(cluster.leader)
            require(after["node"] == moved["leader"] != before["node"], f"{after['node']} leads after {moved}")
        for _ in range(3):
            leader = await trio.to_thread.run_sync(cluster.leader)
            began = trio.current_time()
            await trio.to_thread.run_sync(_terminate, leader["pid"])
            await probe.wait_more(2)
            pauses_ms.append(probe.gap_s(began, trio.current_time()) * 1000)
            await trio.to_thread.run_sync(cluster.start)
    require_time(max(took_ms) <= MOVE_MS_MAX, f"a move took {max(took_ms):.0f} ms")
    return {
        "moves": moves,
        "move ms, median and most": (sorted(took_ms)[len(took_ms) // 2], max(took_ms)),
        "clean stops of a leader": 3,
        "longest pause in acknowledgements ms": round(max(pauses_ms)),
    }


def _transfer(cluster: Cluster) -> dict[str, Any]:
    printed = lanyinglog("cluster", "transfer", "--dir", str(cluster.directory), "--format", "json").stdout
    moved: dict[str, Any] = json.loads(printed)
    return moved


def _terminate(pid: int) -> None:
    process = psutil.Process(pid)
    process.terminate()
    process.wait(10)
