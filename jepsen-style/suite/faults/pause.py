"""Nodes are stopped in the middle of whatever they do (SIGSTOP), and go on later as if nothing had been (SIGCONT)."""

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
    with arena.take(order) as nodes, arena.told(order, f"SIGSTOP of {words_for(order, nodes)}", nodes, out=nodes):
        for node in nodes:
            arena.cluster.pause(node)
        arena.hold(order)
        for node in nodes:
            arena.cluster.resume(node)
