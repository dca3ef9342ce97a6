"""A follower loses its whole disk, starts with an empty one, and has to come back under its old name.

It may neither vote nor count as a copy before it holds again what it may have acknowledged; for that it needs all the
others for a moment, so they may be hurt meanwhile, but no second copy is damaged (`Arena.damage`).
"""

from __future__ import annotations

import math
import random
import threading
import time
from contextlib import ExitStack
from typing import Any

from suite.arena import FOLLOWER, Arena, Order, words_for

NEEDS: tuple[str, ...] = ()
WEIGHT = 0.7
HARD = True
BACK_S_MAX = 20.0
"""So long it keeps other hard faults away; after that they may come, and damage of other copies once it is back."""
BEHIND_MAX = 50
"""Entries that a follower under load may be behind; the rest is then in its hands within moments."""


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return FOLLOWER, {}


def inflict(arena: Arena, order: Order) -> None:
    with ExitStack() as told, arena.take(order) as (name,):
        arena.begin_damage()
        words = f"{words_for(order, [name])} loses its disk"
        happened = told.enter_context(arena.told(order, words, [name], out=[name]))
        began = time.monotonic()
        arena.cluster.kill(name)
        arena.cluster.nodes[name].disk.wipe()
        arena.hold(order)
        arena.revive([name])
        if _wait_back(arena, name, began + order.seconds + BACK_S_MAX):
            happened.words += f" and is back after {time.monotonic() - began:.1f} s"
            arena.damage.release()
        else:
            happened.words += " and takes long to come back"
            threading.Thread(target=_await_late, args=(arena, name, told.pop_all()), daemon=True).start()


def _await_late(arena: Arena, name: str, told: ExitStack) -> None:
    """Until the node is back, or the run is over, it is out, and no other copy is damaged."""
    with told:
        if _wait_back(arena, name, math.inf):
            arena.damage.release()


def _wait_back(arena: Arena, name: str, deadline: float) -> bool:
    """Whether the node follows again and lacks nothing that was committed when it was last asked."""
    while time.monotonic() < deadline and not arena.over.wait(0.1):
        rows = arena.cluster.statuses()
        row = rows.get(name)
        leads = max((one["commit"] for one in rows.values() if one["role"] == "leader"), default=None)
        if row is None or leads is None or row["role"] != "follower" or row.get("catch_up") is not None:
            continue
        if row["applied"] + BEHIND_MAX >= leads:
            return True
    return False
