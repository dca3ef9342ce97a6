"""All nodes are stopped as an operator does (SIGTERM) and started again, one after the other: a rolling restart."""

from __future__ import annotations

import random
from typing import Any

from suite.arena import ALL, Arena, Order

NEEDS: tuple[str, ...] = ()
WEIGHT = 0.5
HARD = True


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return ALL, {"pause_s": source.choice((0.0, 1.0))}


def inflict(arena: Arena, order: Order) -> None:
    with arena.take(order) as nodes, arena.told(order, f"rolling restart: {', '.join(nodes)}", nodes, out=nodes):
        for node in nodes:
            arena.cluster.stop(node)
            arena.over.wait(order.settings["pause_s"])
            arena.revive([node])
            arena.over.wait(1.0)
