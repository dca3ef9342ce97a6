"""What 500 connections with one small message in flight each get through: many small producers.

A closed loop by intention: each producer is a program that waits for its acknowledgement. The latencies are those of
such a program, and no statement about a fixed rate (`tail` is).
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.question import Cell, Metrics, Question, Scale
from benchmarks.samples import latency_metrics
from benchmarks.system import Cluster

PAYLOAD_BYTES = 128


def _cell(connections: int) -> Cell:
    def measure(cluster: Cluster, scale: Scale) -> Metrics:
        closed = cluster.producers(connections, scale.pick(8.0, 1.5), PAYLOAD_BYTES)
        return {"messages/s": len(closed.latencies) / closed.seconds, **latency_metrics(closed.latencies)}

    return Cell(f"{connections} connections", measure)


def cells(scale: Scale) -> Sequence[Cell]:
    """By connections."""
    return [_cell(500)] if not scale.quick else [_cell(100)]


QUESTION = Question("producers", "many producers, one 128 B message in flight each", "messages/s", cells)
