"""One bit in some of what goes over the network is flipped, between nodes and on the way to clients."""

from __future__ import annotations

import random
from typing import Any

from suite.arena import ANY, LEADER, Arena, Order, words_for
from suite.links import Condition

NEEDS: tuple[str, ...] = ()
WEIGHT = 1.0
HARD = False


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return source.choice((LEADER, ANY)), {"flip": source.choice((0.005, 0.05))}


def inflict(arena: Arena, order: Order) -> None:
    condition = Condition(**order.settings)
    words = f"{condition.flip:.1%} of what goes to and from {{}} has one bit flipped"
    with arena.take(order) as nodes, arena.told(order, words.format(words_for(order, nodes)), nodes):
        number = arena.layers.put(arena.around(nodes, clients=True), condition)
        arena.hold(order)
        arena.layers.lift(number)
