"""The power goes: nodes die, and what they had written and not synced is lost, all of it or some. One node, or all."""

from __future__ import annotations

import random
from typing import Any

from suite.arena import ALL, ANY, FOLLOWER, LEADER, MAJORITY, Arena, Order, words_for

NEEDS: tuple[str, ...] = ("shim",)
WEIGHT = 2.0
HARD = True


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return source.choices((LEADER, FOLLOWER, ANY, MAJORITY, ALL), (3, 2, 1, 1, 4))[0], {
        "brownout_ms": source.choice((0, 30, 100))
    }


def inflict(arena: Arena, order: Order) -> None:
    with (
        arena.take(order) as nodes,
        arena.told(order, f"power cut at {words_for(order, nodes)}", nodes, out=nodes) as happened,
    ):
        # A failing supply makes disks slow first, so that there is something to lose.
        disks = [arena.cluster.nodes[node].disk for node in nodes]
        for disk in disks:
            disk.set_sync(delay_ms=order.settings["brownout_ms"])
        arena.over.wait(2 * order.settings["brownout_ms"] / 1000)
        lost = arena.cluster.pull_plug(nodes, random.Random(order.seed))
        happened.words += f": {lost} unsynced blocks lost"
        for disk in disks:
            disk.set_sync()
        arena.hold(order)
        arena.revive(nodes)
