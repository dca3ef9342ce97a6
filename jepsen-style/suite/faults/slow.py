"""Links become slow: some hundred milliseconds and jitter, or some kilobytes a second, around one node or all."""

from __future__ import annotations

import random
from typing import Any

from suite.arena import ALL, ANY, LEADER, Arena, Order, words_for
from suite.links import Condition

NEEDS: tuple[str, ...] = ()
WEIGHT = 1.0
HARD = False


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    if source.random() < 0.3:
        return source.choice((LEADER, ANY)), {"bytes_s": source.choice((20_000.0, 200_000.0))}
    delay = source.choice((5.0, 30.0, 150.0))
    return source.choices((LEADER, ANY, ALL), (2, 2, 1))[0], {"delay_ms": delay, "jitter_ms": delay * source.random()}


def inflict(arena: Arena, order: Order) -> None:
    condition = Condition(**order.settings)
    what = f"{condition.bytes_s / 1000:g} kB/s" if condition.bytes_s else f"{condition.delay_ms:g} ms"
    with arena.take(order) as nodes, arena.told(order, f"links of {words_for(order, nodes)}: {what}", nodes):
        number = arena.layers.put(arena.around(nodes, clients=bool(order.seed % 2)), condition)
        arena.hold(order)
        arena.layers.lift(number)
