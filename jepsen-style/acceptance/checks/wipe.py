"""A node loses its disk and comes back under load, twice with the leader killed behind it: no line is lost or doubled.

The first time the log is whole and the node is fed entries, the second time its front is gone and it draws a snapshot.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

import trio

from acceptance.cluster import Cluster, Row, require, require_time, running
from acceptance.cluster import lanyinglog as program
from acceptance.command import Scale
from acceptance.load import Load
from acceptance.traffic import Probe, Watcher, background

LINES_S = 5_000
PAUSE_S_MAX = 2.0
"""Two election timeouts (P9)."""
BACK_S_MAX = 60.0


def run(scale: Scale) -> dict[str, Any]:
    """A follower's directory is deleted and the node started; then the leader is killed: twice."""
    with running() as cluster:
        return trio.run(_run, cluster, scale.pick(10, 2))


async def _run(cluster: Cluster, load_s: int) -> dict[str, Any]:
    load, probe = Load(cluster.servers, lines_s=LINES_S), Probe(cluster.servers)
    watcher = Watcher(cluster.servers, [])
    figures: dict[str, Any] = {}
    async with background(load.run, probe.run, watcher.run):
        for way in ("fed", "by snapshot"):
            await load.wait_sent(load.sent + load_s * LINES_S)
            if way == "by snapshot":
                await trio.to_thread.run_sync(_trim, cluster)
            figures |= {f"{way}: {name}": figure for name, figure in (await _wipe(cluster, probe)).items()}
        await probe.wait_more(5)
        await watcher.wait_seq(probe.acked[-1][1])
        missing = {b"%d" % number for number in range(1, len(probe.acked) + 1)} - watcher.probes
        require(not missing, f"acknowledged and never seen: {sorted(missing)[:5]}")
    figures["lines"] = load.sent
    return figures


def _trim(cluster: Cluster) -> None:
    """The log begins late from here on; the watcher is not that far behind."""
    program("log", "set", "--max-messages", "20000", "--server", cluster.server_list)
    deadline = time.monotonic() + 30
    while cluster.leader()["first_seq"] == 1:
        require(time.monotonic() < deadline, "nothing is trimmed")
        time.sleep(0.1)


async def _wipe(cluster: Cluster, probe: Probe) -> dict[str, Any]:
    leader = await trio.to_thread.run_sync(cluster.leader)
    wiped = next(row for row in await trio.to_thread.run_sync(cluster.rows) if row["node"] != leader["node"])
    began = trio.current_time()
    await trio.to_thread.run_sync(cluster.kill, wiped)
    shutil.rmtree(cluster.directory / wiped["node"] / "data")
    seen = await trio.to_thread.run_sync(_come_back, cluster, wiped)
    back_s = trio.current_time() - began
    pause_s = probe.gap_s(began, trio.current_time())
    require_time(pause_s <= PAUSE_S_MAX, f"writes stood still for {pause_s:.2f} s while a node came back")
    killed_at = trio.current_time()
    await trio.to_thread.run_sync(cluster.kill, leader)
    await probe.wait_begun_and_acked(killed_at)  # the node that came back is one of the two that it takes
    over_s = probe.gap_s(killed_at, trio.current_time())
    require_time(over_s <= PAUSE_S_MAX, f"writes stood still for {over_s:.2f} s behind the leader's death")
    await trio.to_thread.run_sync(cluster.start)
    return {"back in s": round(back_s, 1), "shown": "; ".join(seen), "failover s": round(over_s, 2)}


def _come_back(cluster: Cluster, wiped: Row) -> list[str]:
    """Start it; what it said of itself until it was a member like the others."""
    cluster.start()
    seen: list[str] = []
    deadline = time.monotonic() + BACK_S_MAX
    while True:
        row = next(row for row in cluster.rows() if row["node"] == wiped["node"])
        if row["catch_up"] and row["catch_up"] not in seen:
            seen.append(row["catch_up"])
        if row["role"] == "follower" and row["catch_up"] is None and row["lag"] < 2 * LINES_S:
            return seen
        require(time.monotonic() < deadline, f"{wiped['node']} is not back within {BACK_S_MAX:g} s: {row}")
        time.sleep(0.02)
