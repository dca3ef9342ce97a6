"""A sync of a node's disk fails (EIO), and what it was to write is gone: the node must end and not go on."""

from __future__ import annotations

import random
import time
from typing import Any

from suite.arena import ANY, FOLLOWER, LEADER, Arena, Order, words_for

NEEDS: tuple[str, ...] = ("shim",)
WEIGHT = 0.7
HARD = True
END_S_MAX = 10.0
"""A node ends at the failed sync; it has that long for it."""


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return source.choice((LEADER, FOLLOWER, ANY)), {}


def inflict(arena: Arena, order: Order) -> None:
    with (
        arena.take(order) as (name,),
        arena.told(order, f"a sync of {words_for(order, [name])} fails", [name], out=[name]),
    ):
        node = arena.cluster.nodes[name]
        process = node.process
        node.may_end = True
        try:
            node.disk.set_sync(failures=1)
            arena.hold(order)
            failed = node.disk.failures_left == 0
            node.disk.set_sync()
            deadline = time.monotonic() + END_S_MAX
            while failed and process is not None and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            if failed and process is not None and process.poll() is None:
                arena.remark("ignored-io-error", f"{name} went on for {END_S_MAX:g} s after a sync had failed")
            arena.cluster.kill(name)
            node.disk.pull_plug(random.Random(order.seed), share=1.0)
            arena.revive([name])
        finally:
            node.may_end = False
