"""CPU seconds that a million messages cost, on the servers and in the client."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.payloads import KIBIBYTE, SMALL, Payload
from benchmarks.processes import own_cpu_s
from benchmarks.question import Cell, Metrics, Question, Scale
from benchmarks.system import Cluster, Load


def _cell(payload: Payload) -> Cell:
    def measure(cluster: Cluster, scale: Scale) -> Metrics:
        pool = scale.pool(payload)
        cluster.publish(Load(pool, seconds=0.5))
        servers_s, client_s = cluster.cpu_s(), own_cpu_s()
        published = cluster.publish(Load(pool, seconds=scale.pick(4.0, 0.8)))
        millions = published.acknowledged / 1e6
        return {
            "servers' CPU s/million": (cluster.cpu_s() - servers_s) / millions,
            "client's CPU s/million": (own_cpu_s() - client_s) / millions,
        }

    return Cell(payload.name, measure)


def cells(_: Scale) -> Sequence[Cell]:
    """By payload."""
    return [_cell(SMALL), _cell(KIBIBYTE)]


QUESTION = Question(
    "cpu", "CPU seconds per million messages, three servers and one client", "servers' CPU s/million", cells
)
