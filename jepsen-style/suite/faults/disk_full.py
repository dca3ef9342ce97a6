"""A node's disk is full for a while (ENOSPC): it must decline writes, serve reads, and heal when there is room."""

from __future__ import annotations

import random
from typing import Any

from suite.arena import ALL, ANY, FOLLOWER, LEADER, Arena, Order, words_for

NEEDS: tuple[str, ...] = ("sized-disk",)
WEIGHT = 1.0
HARD = True


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return source.choices((LEADER, FOLLOWER, ANY, ALL), (3, 2, 2, 1))[0], {}


def inflict(arena: Arena, order: Order) -> None:
    with (
        arena.take(order) as nodes,
        arena.told(order, f"the disk of {words_for(order, nodes)} is full", nodes, out=nodes),
    ):
        disks = [arena.cluster.nodes[node].disk for node in nodes]
        try:
            for disk in disks:
                disk.fill()
            arena.hold(order)
        finally:
            for disk in disks:
                disk.make_room()
