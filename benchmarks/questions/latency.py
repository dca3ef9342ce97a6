"""How long one publish takes when there is nothing else to do: the next is sent when the last is acknowledged."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.payloads import KIBIBYTE, SMALL, Payload
from benchmarks.question import Cell, Metrics, Question, Scale
from benchmarks.samples import latency_metrics
from benchmarks.system import Cluster, Load

WARM_UP = 50


def _cell(payload: Payload) -> Cell:
    def measure(cluster: Cluster, scale: Scale) -> Metrics:
        pool = scale.pool(payload)
        cluster.publish_each(Load(pool, count=WARM_UP))
        return latency_metrics(cluster.publish_each(Load(pool, count=scale.pick(2_000, 200))))

    return Cell(payload.name, measure)


def cells(_: Scale) -> Sequence[Cell]:
    """By payload."""
    return [_cell(SMALL), _cell(KIBIBYTE)]


QUESTION = Question("latency", "one publish at a time, from call to acknowledgement", "p50 ms", cells)
