"""The network between the nodes loses messages of theirs and repeats others."""

from __future__ import annotations

import random
from typing import Any

from suite.arena import ALL, ANY, LEADER, Arena, Order, words_for
from suite.links import Condition

NEEDS: tuple[str, ...] = ()
WEIGHT = 1.5
HARD = False


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    lose, double = source.choice(((0.02, 0.0), (0.2, 0.0), (0.0, 0.3), (0.1, 0.1)))
    return source.choice((LEADER, ANY, ALL)), {"lose": lose, "double": double}


def inflict(arena: Arena, order: Order) -> None:
    condition = Condition(**order.settings, jitter_ms=5.0)
    what = f"{condition.lose:.0%} lost, {condition.double:.0%} twice"
    with arena.take(order) as nodes, arena.told(order, f"messages around {words_for(order, nodes)}: {what}", nodes):
        number = arena.layers.put(arena.around(nodes, clients=False), condition)
        arena.hold(order)
        arena.layers.lift(number)
