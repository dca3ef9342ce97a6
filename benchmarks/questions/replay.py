"""How fast one client reads what is stored, from the first message on."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.payloads import SMALL
from benchmarks.question import Cell, Metrics, Question, Scale
from benchmarks.system import Cluster, Load


def _measure(cluster: Cluster, scale: Scale) -> Metrics:
    count = scale.pick(300_000, 30_000)
    cluster.publish(Load(scale.pool(SMALL), count=count))
    seconds = cluster.replay(count)
    return {"messages/s": count / seconds, "MB/s": count * SMALL.random_bytes / seconds / 1e6}


def cells(scale: Scale) -> Sequence[Cell]:
    """Small messages: what costs is the message."""
    return [Cell(f"{scale.pick(300_000, 30_000):,} x {SMALL.name}", _measure)]


QUESTION = Question("replay", "messages a second to one subscriber that reads history", "messages/s", cells)
