"""The kernel drops every packet to a node, from it, or both, and tells nobody: not even TCP knows."""

from __future__ import annotations

import random
from typing import Any

from suite.arena import ANY, FOLLOWER, LEADER, Arena, Order, words_for

NEEDS: tuple[str, ...] = ("isolation", "tc")
WEIGHT = 1.5
HARD = True


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return source.choice((LEADER, FOLLOWER, ANY)), {"way": source.choice(("to", "from", "to and from"))}


def inflict(arena: Arena, order: Order) -> None:
    way, cables = order.settings["way"], arena.cluster.cables
    assert cables is not None
    with (
        arena.take(order) as (node,),
        arena.told(order, f"packets {way} {words_for(order, [node])} are dropped", [node], out=[node]),
    ):
        cables.drop_packets(node, inbound=way.startswith("to"), outbound=way.endswith("from"))
        try:
            arena.hold(order)
        finally:
            cables.carry_packets(node)
