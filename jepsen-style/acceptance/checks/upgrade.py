"""Nodes of two versions are one cluster while they are replaced one by one; who shares none with it is refused."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import psutil
import trio

from acceptance.cluster import Cluster, require, require_time, running
from acceptance.command import Scale
from acceptance.load import Load
from acceptance.traffic import Probe, Watcher, background

LINES_S = 2_000
PAUSE_S_MAX = 2.0
OLD, NEW, FAR = (2, 2), (2, 3), (3, 3)
"""Peer versions: what there is, a release that knows one more, and one that has dropped the first."""
_LAUNCH = """
import sys
from lanyinglog.raft import handshake
low, high = int(sys.argv.pop(1)), int(sys.argv.pop(1))
handshake.PEER_VERSIONS = (low, high)
from lanyinglog.cli import main
main()
"""


def run(scale: Scale) -> dict[str, Any]:
    """The nodes of a loaded cluster are started again, one after the other, as a newer version."""
    with running() as cluster:
        return trio.run(_run, cluster, scale.pick(5, 1))


async def _run(cluster: Cluster, load_s: int) -> dict[str, Any]:
    load, probe = Load(cluster.servers, lines_s=LINES_S), Probe(cluster.servers)
    watcher = Watcher(cluster.servers, [])
    pauses: list[float] = []
    first = (await trio.to_thread.run_sync(cluster.followers))[0]["node"]
    names = [first, *(row["node"] for row in await trio.to_thread.run_sync(cluster.rows) if row["node"] != first)]
    async with background(load.run, probe.run, watcher.run):
        await probe.wait_more(2)
        await trio.to_thread.run_sync(_replace, cluster, first, FAR)
        await trio.to_thread.run_sync(_wait_refused, cluster, first)
        for name, versions in [*((name, NEW) for name in names), *((name, FAR) for name in names)]:
            await load.wait_sent(load.sent + load_s * LINES_S)
            began = trio.current_time()
            await trio.to_thread.run_sync(_replace, cluster, name, versions)
            await trio.to_thread.run_sync(lambda: cluster.wait_equal(timeout_s=20))
            await probe.wait_begun_and_acked(began)
            pauses.append(probe.gap_s(began, trio.current_time()))
        await watcher.wait_seq(probe.acked[-1][1])
        missing = {b"%d" % number for number in range(1, len(probe.acked) + 1)} - watcher.probes
        require(not missing, f"acknowledged and never seen: {sorted(missing)[:5]}")
    require_time(max(pauses) <= PAUSE_S_MAX, f"writes stood still for {max(pauses):.2f} s")
    return {"replaced": len(pauses), "longest pause s": round(max(pauses), 2), "lines": load.sent}


def _replace(cluster: Cluster, name: str, versions: tuple[int, int]) -> None:
    """Stop ``name`` cleanly and start it as another version."""
    row = next(row for row in cluster.rows() if row["node"] == name)
    process = psutil.Process(row["pid"])
    process.terminate()
    process.wait(15)
    arguments = [*map(str, versions), "node", "--config", str(cluster.directory / name / "node.toml")]
    with cluster.log_file(name).open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + 15
    while next(row for row in cluster.rows() if row["node"] == name)["role"] == "unreachable":
        require(time.monotonic() < deadline, f"{name} does not answer as versions {versions}")
        time.sleep(0.1)


def _wait_refused(cluster: Cluster, name: str) -> None:
    """The others say of ``name`` that they share no version with it, and go on without it."""
    words = f"{name} speaks peer versions {FAR[0]} to {FAR[1]}, the other end {OLD[0]} to {OLD[1]}"
    others = [row["node"] for row in cluster.rows() if row["node"] != name]
    deadline = time.monotonic() + 15
    while not all(words in cluster.log_file(other).read_text() for other in others):
        require(time.monotonic() < deadline, f"not all nodes say that {name} is of a version they do not speak")
        time.sleep(0.1)
