"""Nodes get SIGKILL and are started again after a while: one, or all of them at once."""

from __future__ import annotations

import random
from typing import Any

from suite.arena import ALL, ANY, FOLLOWER, LEADER, MAJORITY, Arena, Order, words_for

NEEDS: tuple[str, ...] = ()
WEIGHT = 2.0
HARD = True


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return source.choices((LEADER, FOLLOWER, ANY, MAJORITY, ALL), (6, 3, 2, 1, 1))[0], {}


def inflict(arena: Arena, order: Order) -> None:
    with arena.take(order) as nodes, arena.told(order, f"SIGKILL of {words_for(order, nodes)}", nodes, out=nodes):
        for node in nodes:
            arena.cluster.kill(node)
        arena.hold(order)
        arena.revive(nodes)
