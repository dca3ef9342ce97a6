"""How late messages are when 1 to 5,000 subscribers each get all of them, and what memory a node needs for that."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.question import Cell, Metrics, Question, Scale
from benchmarks.samples import latency_metrics
from benchmarks.schedule import Schedule
from benchmarks.system import Cluster

PAYLOAD_BYTES = 128


def _cell(subscribers: int, rate: int, *, one_node: bool = False) -> Cell:
    def measure(cluster: Cluster, scale: Scale) -> Metrics:
        schedule = Schedule.lasting(scale.pick(10.0, 2.0), rate=rate)
        delivered = cluster.fan_out(subscribers, schedule, PAYLOAD_BYTES, one_node=one_node)
        return {
            "delivered %": 100 * len(delivered.latencies) / delivered.expected,
            **(latency_metrics(delivered.latencies) if delivered.latencies else {}),
            "memory MB": cluster.memory_bytes() / 1e6,
        }

    where = "at one node" if one_node else "at three nodes"
    return Cell(f"{subscribers:,} x {rate}/s {where}", measure)


def cells(scale: Scale) -> Sequence[Cell]:
    """By subscribers."""
    few = [_cell(1, 100), _cell(100, 100)]
    return few if scale.quick else [*few, _cell(1_000, 100), _cell(5_000, 5, one_node=True)]


QUESTION = Question("fan-out", "delivery to many subscribers, 128 B, from when each message was due", "p99 ms", cells)
