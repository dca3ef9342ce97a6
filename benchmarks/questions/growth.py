"""Whether anything gets slower as the log grows: publish, tail, replay from the middle, restart, memory.

A disk may get slower by itself when much was written to it in the last minutes, and most is written for the largest
log. So its limit is measured beside each publish, by three bare files in the place where the nodes have theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.payloads import SMALL
from benchmarks.question import Cell, Metrics, Question, Scale
from benchmarks.questions.throughput import rates
from benchmarks.samples import latency_metrics
from benchmarks.schedule import Schedule
from benchmarks.system import Cluster, Load
from benchmarks.systems.raw import RawFiles

REPLAYED = 200_000


def _cell(size: int, grown: int) -> Cell:
    def measure(cluster: Cluster, scale: Scale) -> Metrics:
        pool = scale.pool(SMALL)
        cluster.publish(Load(pool, count=size - grown))
        seconds = scale.pick(4.0, 0.5)
        limit = rates(RawFiles(cluster.place).publish(Load(pool, seconds=seconds)))["messages/s"]
        publish = rates(cluster.publish(Load(pool, seconds=seconds)))["messages/s"]
        tail = latency_metrics(cluster.tail(Schedule.lasting(scale.pick(8.0, 1.0), rate=1_000), 128))
        replayed = min(REPLAYED, size // 2)
        return {
            "messages/s": publish,
            "% of the disk's limit": 100 * publish / limit,
            "tail p50 ms": tail["p50 ms"],
            "tail p99 ms": tail["p99 ms"],
            "replay from the middle messages/s": replayed / cluster.replay(replayed, behind=size // 2),
            "restart s": cluster.restart(),
            "memory MB": cluster.memory_bytes() / 1e6,
        }

    return Cell(f"{size:,} messages", measure)


def cells(scale: Scale) -> Sequence[Cell]:
    """Each goes on where the one before ended, in one cluster."""
    sizes = scale.pick((1_000_000, 10_000_000, 50_000_000), (20_000, 100_000))
    return [_cell(size, before) for size, before in zip(sizes, (0, *sizes), strict=False)]


QUESTION = Question("growth", "cost as the log grows: publish, tail, replay, restart, memory", "messages/s", cells)
