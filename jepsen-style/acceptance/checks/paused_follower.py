"""A follower is stopped under load: the leader stays small; once resumed, it catches up and deposes nobody."""

from __future__ import annotations

from typing import Any

import trio

from acceptance.cluster import Cluster, memory_bytes, require, running
from acceptance.command import Scale
from acceptance.load import Load
from acceptance.traffic import background

GROWTH_BYTES_MAX = 64 << 20
LINES_S = 40_000


def run(scale: Scale) -> dict[str, Any]:
    """SIGSTOP of a follower for 30 s at 40,000 lines a second, then SIGCONT; the load goes on meanwhile."""
    with running() as cluster:
        return trio.run(_run, cluster, scale.pick(30, 5))


async def _run(cluster: Cluster, pause_s: int) -> dict[str, Any]:
    load = Load(cluster.servers, lines_s=LINES_S)
    async with background(load.run):
        await load.wait_sent(2 * LINES_S)
        leader = await trio.to_thread.run_sync(cluster.leader)
        follower = next(row for row in await trio.to_thread.run_sync(cluster.rows) if row["node"] != leader["node"])
        before = memory_bytes(leader["pid"])
        sent_before = load.sent
        cluster.pause(follower["pid"])
        most = before
        ends = trio.current_time() + pause_s
        while trio.current_time() < ends:
            await trio.sleep(0.25)
            most = max(most, memory_bytes(leader["pid"]))
        missed = load.sent - sent_before
        require(missed > pause_s * LINES_S / 4, f"only {missed} lines were taken while one follower was stopped")
        cluster.resume(follower["pid"])
        resumed_at = trio.current_time()
        target = (await trio.to_thread.run_sync(cluster.leader))["last_seq"]
        behind = follower
        while behind["last_seq"] is None or behind["last_seq"] < target:
            require(trio.current_time() < resumed_at + 120, f"the follower did not catch up: {behind}")
            rows = await trio.to_thread.run_sync(cluster.rows)
            behind = next(row for row in rows if row["node"] == follower["node"])
            most = max(most, memory_bytes(leader["pid"]))
        caught_up_s = trio.current_time() - resumed_at
        after = await trio.to_thread.run_sync(cluster.leader)
    grown = most - before
    require(grown <= GROWTH_BYTES_MAX, f"the leader grew by {grown >> 20} MiB")
    require(
        (after["node"], after["term"]) == (leader["node"], leader["term"]),
        f"leader {leader['node']} of term {leader['term']} was deposed: now {after['node']}, term {after['term']}",
    )
    return {
        "paused s": pause_s,
        "lines meanwhile": missed,
        "leader MiB": f"{before >> 20} -> {most >> 20}",
        "caught up in s": round(caught_up_s, 1),
        "term": after["term"],
    }
