"""A file of a million lines goes in at 80,000 acknowledged lines/s or more; one publish alone takes 4 ms or less."""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import lanyinglog
from acceptance.cluster import Cluster, require, require_time, running
from acceptance.cluster import lanyinglog as program
from acceptance.command import Scale
from acceptance.lines import as_file, made_up

TOPIC = "check.throughput"
LINES_S_MIN = 80_000
P50_MS_MAX = 4.0
LENIENCE = 4
"""A quick run shares its machine with other tests: it looks for the order of magnitude."""


def run(scale: Scale) -> dict[str, Any]:
    """``publish --file``, then the blocking client one message at a time; three replicas that sync."""
    lines = made_up(scale.pick(1_000_000, 100_000), seed=4)
    lenience = LENIENCE if scale.quick else 1
    with running() as cluster:
        source = cluster.directory / "lines"
        source.write_bytes(as_file(lines))
        rates = [_publish_file(cluster, source, len(lines)) for _ in range(scale.pick(3, 1))]
        p50, p99 = _one_at_a_time(cluster, scale.pick(2_000, 300))
    rate = statistics.median(rates)
    require_time(rate >= LINES_S_MIN / lenience, f"{rate:,.0f} acknowledged lines/s, fewer than {LINES_S_MIN:,}")
    require_time(p50 <= P50_MS_MAX * lenience, f"one publish took {p50:.1f} ms (p50), more than {P50_MS_MAX:g}")
    return {
        "lines": len(lines),
        "bytes a line": round(sum(map(len, lines)) / len(lines)),
        "lines/s": [round(one) for one in rates],
        "p50 ms": round(p50, 2),
        "p99 ms": round(p99, 2),
    }


def _publish_file(cluster: Cluster, source: Any, count: int) -> float:
    """Acknowledged lines a second, the start of the program included."""
    began = time.monotonic()
    printed = program(
        "publish", TOPIC, "--file", str(source), "--server", cluster.server_list, "--format", "json"
    ).stdout
    took_s = time.monotonic() - began
    acknowledged = json.loads(printed.splitlines()[-1])["acknowledged"]
    require(acknowledged == count, f"{acknowledged} of {count} lines acknowledged")
    return count / took_s


def _one_at_a_time(cluster: Cluster, count: int) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    with lanyinglog.sync.connect(cluster.servers) as client:
        took: list[float] = []
        for number in range(count):
            began = time.perf_counter()
            client.publish(TOPIC, b"%-100d" % number)
            took.append((time.perf_counter() - began) * 1000)
    cuts = statistics.quantiles(took, n=100)
    return cuts[49], cuts[98]
