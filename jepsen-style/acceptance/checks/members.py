"""Nodes join, leave, are replaced and restarted, the leader too, under load: nothing is lost, nothing stands still."""

from __future__ import annotations

import json
import shutil
from typing import Any

import psutil
import trio

from acceptance.cluster import Cluster, Row, lanyinglog, require, require_time, running
from acceptance.command import Scale
from acceptance.load import Load
from acceptance.traffic import Probe, Watcher, background

LINES_S = 5_000
PAUSE_S_MAX = 2.0
"""Two election timeouts (P9)."""


def run(scale: Scale) -> dict[str, Any]:
    """Three nodes become five; the leader leaves; one loses its disk and is replaced; all are restarted in turn."""
    with running(room=8) as cluster:
        return trio.run(_run, cluster, scale.pick(10, 2))


class _Operator:
    """Does things one after the other, and takes the longest pause in acknowledgements meanwhile."""

    def __init__(self, cluster: Cluster, load: Load, probe: Probe, load_s: int) -> None:
        self._cluster, self._load, self._probe, self._load_s = cluster, load, probe, load_s
        self.figures: dict[str, Any] = {}

    async def does(self, what: str, act: Any, *arguments: Any) -> Any:
        """``act``, off the loop, between two stretches of load."""
        await self._load.wait_sent(self._load.sent + self._load_s * LINES_S)
        began = trio.current_time()
        result = await trio.to_thread.run_sync(act, *arguments)
        took = trio.current_time() - began
        await self._probe.wait_begun_and_acked(began)
        pause = self._probe.gap_s(began, trio.current_time())
        require_time(pause <= PAUSE_S_MAX, f"writes stood still for {pause:.2f} s: {what}")
        self.figures[f"{what}: s, pause s"] = (round(took, 2), round(pause, 2))
        return result


async def _run(cluster: Cluster, load_s: int) -> dict[str, Any]:
    load, probe = Load(cluster.servers, lines_s=LINES_S), Probe(cluster.servers)
    watcher = Watcher(cluster.servers, [])
    operator = _Operator(cluster, load, probe, load_s)
    async with background(load.run, probe.run, watcher.run):
        await probe.wait_more(2)
        await operator.does("a fourth node joins", _change, cluster, "add")
        await operator.does("a fifth node joins", _change, cluster, "add")
        leader = (await trio.to_thread.run_sync(cluster.leader))["node"]
        members = await operator.does("the leader leaves", _change, cluster, "remove", leader)
        require(leader not in members and len(members) == 4, f"{members} belong after {leader} was removed")
        victim = (await trio.to_thread.run_sync(cluster.followers))[0]
        await trio.to_thread.run_sync(_lose_disk, cluster, victim)
        await operator.does("another takes the place of one without a disk", _change, cluster, "add")
        members = await operator.does("that one leaves", _change, cluster, "remove", victim["node"])
        require(len(members) == 4 and victim["node"] not in members, f"{members} belong at the end")
        for name in sorted(members):
            await operator.does(f"{name} restarts", _restart, cluster, name)
        await probe.wait_more(5)
        await watcher.wait_seq(probe.acked[-1][1])
        missing = {b"%d" % number for number in range(1, len(probe.acked) + 1)} - watcher.probes
        require(not missing, f"acknowledged and never seen: {sorted(missing)[:5]}")
    await trio.to_thread.run_sync(lambda: cluster.wait_equal(timeout_s=20))
    return {**operator.figures, "lines": load.sent, "members at the end": " ".join(sorted(members))}


def _change(cluster: Cluster, verb: str, *names: str) -> list[str]:
    """``cluster add`` or ``remove``; who belongs then."""
    printed = lanyinglog("cluster", verb, *names, "--dir", str(cluster.directory), "--format", "json").stdout
    rows = [json.loads(line) for line in printed.splitlines()]
    require(all(row["role"] == "voter" for row in rows), f"not all vote: {rows}")
    cluster.nodes = len(rows)
    return [row["node"] for row in rows]


def _lose_disk(cluster: Cluster, victim: Row) -> None:
    cluster.kill(victim)
    shutil.rmtree(cluster.directory / victim["node"] / "data")


def _restart(cluster: Cluster, name: str) -> None:
    row = next(row for row in cluster.rows() if row["node"] == name)
    process = psutil.Process(row["pid"])
    process.terminate()
    process.wait(10)
    cluster.start()
    cluster.leader()
