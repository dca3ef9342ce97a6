"""How long a producer waits when the leader is killed: the longest time between two acknowledgements, kill by kill."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.question import Cell, Metrics, Question, Scale
from benchmarks.samples import quantile
from benchmarks.system import Cluster


def _measure(cluster: Cluster, scale: Scale) -> Metrics:
    gaps = sorted(cluster.kill_leader() for _ in range(scale.pick(10, 2)))
    return {"p50 ms": quantile(gaps, 0.5) * 1e3, "p99 ms": quantile(gaps, 0.99) * 1e3, "max ms": gaps[-1] * 1e3}


def cells(scale: Scale) -> Sequence[Cell]:
    """10 kills in each of 5 runs make 50."""
    return [Cell(f"{scale.pick(10, 2)} kills a run", _measure)]


QUESTION = Question("failover", "the gap in acknowledgements when the leader is killed", "p50 ms", cells)
