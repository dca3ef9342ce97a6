"""What a node tells Prometheus, and whether it is ready to be asked (docs/monitoring.md).

Everything is read from the node's state when it is scraped: no counter is touched on a message's way. Names and units
are Prometheus' conventions: seconds, bytes, ``_total`` for what only grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lanyinglog.gateway.figures import Figures
from lanyinglog.gateway.http import Answer, Route
from lanyinglog.health import WriteTimes

ROLES = ("leader", "candidate", "follower", "learner", "stranger")


def routes(read: Callable[[], Figures]) -> dict[str, Route]:
    """Path -> answer, from what ``read`` gives at that moment."""
    registry = CollectorRegistry()
    registry.register(_NodeCollector(read))
    ProcessCollector(registry=registry)
    return {
        "/metrics": lambda: Answer(200, generate_latest(registry), CONTENT_TYPE_LATEST),
        "/ready": lambda: _ready(read().status),
    }


def _ready(status: Mapping[str, Any]) -> Answer:
    """Whether this node can serve: it knows a leader, belongs to the log, and has caught up."""
    why = status["catch_up"]
    if status["leader"] is None:
        why = "it knows no leader"
    elif status["role"] == "stranger":
        why = "it is no member"
    return Answer(200, b"ready\n") if why is None else Answer(503, f"not ready: {why}\n".encode())


class _NodeCollector(Collector):
    def __init__(self, read: Callable[[], Figures]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        """Nothing: what there is, is known when it is read."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All of it, as it is now."""
        figures = self._read()
        status = figures.status
        yield from _identity(status)
        yield from _log(status, figures)
        yield from _peers(status)
        yield from _load(figures)
        yield from _disk(status, figures.writes)


def _identity(status: Mapping[str, Any]) -> Iterator[Metric]:
    health = status["health"]
    names = {"node": status["node"], "log": status["log"]} | {key: str(health[key]) for key in ("version", "engine")}
    yield InfoMetricFamily("lanyinglog_node", "Which node this is, and what it runs.", names)
    role = GaugeMetricFamily("lanyinglog_role", "1 for the role that the node has, 0 for the others.", labels=["role"])
    for one in ROLES:
        role.add_metric([one], float(status["role"] == one))
    yield role
    members = GaugeMetricFamily("lanyinglog_members", "Members of the log, as this node knows it.", labels=["kind"])
    kinds = list(status["members"].values())
    for kind in ("voter", "learner"):
        members.add_metric([kind], kinds.count(kind))
    yield members
    yield _gauge("has_leader", "1 if the node knows who leads.", status["leader"] is not None)
    yield _gauge("catching_up", "1 if the node is not up to date.", status["catch_up"] is not None)


def _log(status: Mapping[str, Any], figures: Figures) -> Iterator[Metric]:
    yield _gauge("term", "Raft's term: it grows with every election.", status["term"])
    yield _gauge("commit_index", "The last entry known to be committed.", status["commit"])
    yield _gauge("applied_index", "The last entry applied.", status["applied"])
    yield _gauge("durable_index", "The last entry on this node's disk.", status["durable"])
    yield _counter("messages", "Messages that ever came to the log: the newest seq.", status["last_seq"])
    yield _counter("appended_bytes", "Bytes of entries that ever came to the log.", figures.appended_bytes)
    yield _gauge("first_seq", "The oldest message that is kept.", status["first_seq"])
    yield _gauge("kept_bytes", "Bytes of the entries that are kept.", figures.kept_bytes)
    yield _gauge("damaged_entries", "Damaged entries that wait to be mended, 16 at most.", len(status["damaged"]))


def _peers(status: Mapping[str, Any]) -> Iterator[Metric]:
    connected = GaugeMetricFamily("lanyinglog_peer_connected", "1 if the link to the peer is up.", labels=["peer"])
    lag = GaugeMetricFamily(
        "lanyinglog_peer_lag_entries",
        "Entries that the peer has not on its disk, as its leader knows.",
        labels=["peer"],
    )
    for name, peer in sorted(status["peers"].items()):
        connected.add_metric([name], float(peer["connected"]))
        if peer["lag"] is not None:
            lag.add_metric([name], peer["lag"])
    yield connected
    yield lag


def _load(figures: Figures) -> Iterator[Metric]:
    yield _gauge("client_connections", "Clients that are connected.", figures.connections)
    yield _gauge("waiting_batches", "Batches that wait for an entry.", figures.waiting_batches)
    yield _gauge("waiting_bytes", "Bytes of those.", figures.waiting_bytes)


def _disk(status: Mapping[str, Any], writes: WriteTimes) -> Iterator[Metric]:
    health = status["health"]
    yield _gauge("storage_full", "1 if publishes are declined, for the disk is full.", status["storage_full"])
    yield _gauge("file_bytes", "The data file's size.", status["file_bytes"])
    yield _gauge("disk_bytes", "The size of the file system it is on.", health["disk_bytes"])
    yield _gauge("disk_free_bytes", "What is free there.", health["disk_free_bytes"])
    buckets = [("+Inf" if bound is None else str(bound), count) for bound, count in writes.cumulative()]
    yield HistogramMetricFamily(
        "lanyinglog_write_seconds", "Transactions, each with its sync.", buckets=buckets, sum_value=writes.seconds
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"lanyinglog_{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"lanyinglog_{name}", text, value=float(value))
