"""A node's wall clock jumps, forwards or back, by milliseconds to days, or goes to and fro several times a second."""

from __future__ import annotations

import random
import time
from typing import Any

from suite.arena import ALL, ANY, LEADER, Arena, Order, words_for

NEEDS: tuple[str, ...] = ()
WEIGHT = 1.5
HARD = False
STROBE_S = 0.05


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    offset = source.choice((0.05, 1.0, 60.0, 3600.0, 20 * 86400.0)) * source.choice((-1, 1))
    return source.choices((LEADER, ANY, ALL), (3, 2, 1))[0], {"offset_s": offset, "strobe": source.random() < 0.3}


def inflict(arena: Arena, order: Order) -> None:
    offset, strobe = order.settings["offset_s"], order.settings["strobe"]
    words = f"the clock of {{}} {'strobes by' if strobe else 'steps'} {offset:+g} s"
    with arena.take(order) as nodes, arena.told(order, words.format(words_for(order, nodes)), nodes):
        disks = [arena.cluster.nodes[node].disk for node in nodes]
        ends = time.monotonic() + order.seconds
        ahead = True
        while True:
            for disk in disks:
                disk.set_clock(offset if ahead else 0.0)
            ahead = not (strobe and ahead)
            if arena.over.wait(STROBE_S if strobe else order.seconds) or time.monotonic() >= ends:
                break
        for disk in disks:
            disk.set_clock(0.0)
