"""Whether anything gets slower as the log grows: publish, tail, replay from the middle, restart, memory."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.payloads import SMALL
from benchmarks.question import Cell, Metrics, Question, Scale
from benchmarks.questions.throughput import rates
from benchmarks.samples import latency_metrics
from benchmarks.schedule import Schedule
from benchmarks.system import Cluster, Load

REPLAYED = 200_000


def _cell(size: int, grown: int) -> Cell:
    def measure(cluster: Cluster, scale: Scale) -> Metrics:
        pool = scale.pool(SMALL)
        cluster.publish(Load(pool, count=size - grown))
        published = cluster.publish(Load(pool, seconds=scale.pick(4.0, 0.5)))
        tail = latency_metrics(cluster.tail(Schedule.lasting(scale.pick(8.0, 1.0), rate=1_000), 128))
        replayed = min(REPLAYED, size // 2)
        return {
            "messages/s": rates(published)["messages/s"],
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
