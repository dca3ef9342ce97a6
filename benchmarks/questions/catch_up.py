"""How fast a follower that was down gets what it missed."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.payloads import KIBIBYTE
from benchmarks.question import Cell, Metrics, Question, Scale
from benchmarks.system import Cluster, Load


def _measure(cluster: Cluster, scale: Scale) -> Metrics:
    published, seconds = cluster.catch_up(Load(scale.pool(KIBIBYTE), count=scale.pick(200_000, 10_000)))
    return {
        "seconds": seconds,
        "messages/s": published.acknowledged / seconds,
        "MB/s": published.payload_bytes / seconds / 1e6,
    }


def cells(scale: Scale) -> Sequence[Cell]:
    """A follower that missed 200 MB."""
    return [Cell(f"{scale.pick(200_000, 10_000):,} x 1 KiB missed", _measure)]


QUESTION = Question("catch-up", "a follower that was down gets what it missed, from start to all", "MB/s", cells)
