"""Each sync of a node's disk takes up to some hundred milliseconds longer."""

from __future__ import annotations

import random
from typing import Any

from suite.arena import ALL, ANY, FOLLOWER, LEADER, Arena, Order, words_for

NEEDS: tuple[str, ...] = ("shim",)
WEIGHT = 1.0
HARD = False


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return source.choices((LEADER, FOLLOWER, ANY, ALL), (3, 2, 2, 1))[0], {"delay_ms": source.choice((10, 60, 300))}


def inflict(arena: Arena, order: Order) -> None:
    delay_ms = order.settings["delay_ms"]
    with (
        arena.take(order) as nodes,
        arena.told(order, f"syncs of {words_for(order, nodes)}: +{delay_ms} ms", nodes, out=nodes),
    ):
        disks = [arena.cluster.nodes[node].disk for node in nodes]
        for disk in disks:
            disk.set_sync(delay_ms=delay_ms)
        arena.hold(order)
        for disk in disks:
            disk.set_sync()
