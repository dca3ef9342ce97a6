"""How many messages a second are acknowledged, by payload and by batch; one client, as many in flight as it likes."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.payloads import KIBIBYTE, LARGE, LINES, SMALL, Payload
from benchmarks.question import Cell, Metrics, Question, Scale
from benchmarks.system import Cluster, Load, Published

OURS = frozenset({"lanyinglog"})
WARM_UP = 0.25
"""Share of a measurement's time that is spent before it, uncounted: connections, caches, the first pages."""


def rates(published: Published) -> dict[str, float]:
    """A load's outcome as figures."""
    return {
        "messages/s": published.acknowledged / published.seconds,
        "MB/s": published.payload_bytes / published.seconds / 1e6,
    }


def _cell(payload: Payload, *, batch: int | None = None, compression: str | None = None) -> Cell:
    def measure(cluster: Cluster, scale: Scale) -> Metrics:
        seconds = scale.pick(4.0, 0.8)
        pool = scale.pool(payload)
        cluster.publish(Load(pool, seconds=WARM_UP * seconds, batch=batch, compression=compression))
        return rates(cluster.publish(Load(pool, seconds=seconds, batch=batch, compression=compression)))

    variants = [f"batches of {batch}"] * (batch is not None) + [str(compression)] * (compression is not None)
    return Cell(", ".join([payload.name, *variants]), measure, only=OURS if variants else None)


def cells(_: Scale) -> Sequence[Cell]:
    """Each payload as the client sends it by itself; for ours also in fixed batches, and compressed."""
    return [
        _cell(SMALL),
        _cell(KIBIBYTE),
        _cell(LARGE),
        _cell(LINES),
        _cell(LINES, compression="zstd"),
        _cell(LINES, compression="lz4"),
        _cell(SMALL, batch=1),
        _cell(SMALL, batch=100),
    ]


QUESTION = Question("throughput", "acknowledged messages a second, by payload and batch", "messages/s", cells)
