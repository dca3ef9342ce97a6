"""The power goes: nodes die, and what they had written and not synced is lost, all of it or some. One node, or all."""

from __future__ import annotations

import random
from typing import Any

from suite.arena import ALL, ANY, FOLLOWER, LEADER, MAJORITY, Arena, Order, words_for

NEEDS: tuple[str, ...] = ("shim",)
WEIGHT = 2.0
HARD = True


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return source.choices((LEADER, FOLLOWER, ANY, MAJORITY, ALL), (3, 2, 1, 1, 4))[0], {}


def inflict(arena: Arena, order: Order) -> None:
    with (
        arena.take(order) as nodes,
        arena.told(order, f"power cut at {words_for(order, nodes)}", nodes) as happened,
    ):
        lost = arena.cluster.pull_plug(nodes, random.Random(order.seed))
        happened.words += f": {lost} unsynced blocks lost"
        arena.hold(order)
        for node in nodes:
            arena.cluster.start(node)
