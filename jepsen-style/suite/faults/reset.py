"""All connections of a node, or of all nodes, end with a reset; nothing keeps them from coming back at once."""

from __future__ import annotations

import random
from typing import Any

from suite.arena import ALL, ANY, LEADER, Arena, Order, words_for

NEEDS: tuple[str, ...] = ()
WEIGHT = 1.0
HARD = False


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return source.choices((LEADER, ANY, ALL), (3, 2, 1))[0], {"times": source.choice((1, 1, 5))}


def inflict(arena: Arena, order: Order) -> None:
    times = order.settings["times"]
    words = f"connections of {{}} are reset{f' {times} times' if times > 1 else ''}"
    with arena.take(order) as nodes, arena.told(order, words.format(words_for(order, nodes)), nodes):
        for _ in range(times):
            arena.layers.reset(arena.around(nodes, clients=True))
            if times > 1 and arena.over.wait(0.2):
                return
