"""How long a message takes from the moment it was due to a subscriber's hands, at a fixed rate (see `schedule`)."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.question import Cell, Metrics, Question, Scale
from benchmarks.samples import latency_metrics
from benchmarks.schedule import Schedule
from benchmarks.system import Cluster

PAYLOAD_BYTES = 128


def _cell(rate: int) -> Cell:
    def measure(cluster: Cluster, scale: Scale) -> Metrics:
        cluster.tail(Schedule.lasting(0.5, rate=rate), PAYLOAD_BYTES)
        return latency_metrics(cluster.tail(Schedule.lasting(scale.pick(10.0, 1.5), rate=rate), PAYLOAD_BYTES))

    return Cell(f"{rate:,}/s", measure)


def cells(_: Scale) -> Sequence[Cell]:
    """By rate."""
    return [_cell(1_000), _cell(10_000)]


QUESTION = Question("tail", "end to end at a fixed rate, 128 B, from when each message was due", "p99 ms", cells)
