"""A new node joins and, once it votes, a member leaves, maybe the leader: an operator's change in the middle of it all.

What was begun is finished, also when the run is over: the suite has to know who belongs. No copy is damaged or lost
meanwhile: while members change, another majority counts than the one whose copies were good.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

import lanyinglog
from lanyinglog.client.client import Client
from lanyinglog.errors import LanyingError
from suite.arena import FOLLOWER, LEADER, Arena, Order, Skipped, words_for
from suite.cluster import Node

NEEDS: tuple[str, ...] = ()
WEIGHT = 0.5
HARD = True
PATIENCE_S = 5.0
CHANGE_S_MAX = 90.0
"""So long all of it may take, with whatever else goes on; it usually takes a few."""
AGAIN_S = 0.1

Change = Callable[[Client], Awaitable[dict[str, Any]]]


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return LEADER if source.random() < 0.4 else FOLLOWER, {}


def inflict(arena: Arena, order: Order) -> None:
    with arena.take(order) as (leaving,):
        arena.begin_damage()
        try:
            joining = arena.cluster.admit()
            if joining is None:
                arena.skipped += 1
                raise Skipped("no name is left for a new node")
            words = f"{joining.name} joins, and {words_for(order, [leaving])} leaves"
            with arena.told(order, words, [leaving], out=[joining.name]):
                _replace(arena, arena.cluster.nodes[leaving], joining)
        finally:
            arena.damage.release()


def _replace(arena: Arena, leaving: Node, joining: Node) -> None:
    deadline = time.monotonic() + CHANGE_S_MAX
    host, port = joining.place.peer
    address = f"{host}:{port}"
    added = _until(
        arena,
        lambda client: client.add_member(joining.name, address),
        lambda members: bool(members.get(joining.name, {}).get("votes")),
        deadline,
    )
    if not added:
        arena.remark("no-recovery", f"{joining.name} did not become a voter within {CHANGE_S_MAX:g} s")
        return
    joining.joins = False
    leaving.may_end = True  # it is told that it was removed, and ends
    removed = _until(
        arena, lambda client: client.remove_member(leaving.name), lambda members: leaving.name not in members, deadline
    )
    if not removed:
        arena.remark("no-recovery", f"{leaving.name} could not be removed within {CHANGE_S_MAX:g} s")
        return
    arena.cluster.dismiss(leaving.name)


def _until(arena: Arena, change: Change, is_done: Callable[[dict[str, Any]], bool], deadline: float) -> bool:
    """Ask for ``change``, which may be asked for twice, until its answer, which says what is committed, ``is_done``."""
    while time.monotonic() < deadline:
        members = trio.run(_ask, arena, change)
        if members is not None and is_done(members):
            return True
        time.sleep(AGAIN_S)
    return False


async def _ask(arena: Arena, change: Change) -> dict[str, Any] | None:
    """The members after ``change``; None if it was refused just now, or is not known to have happened."""
    servers = [f"{node.place.client[0]}:{node.place.client[1]}" for node in arena.cluster.nodes.values()]
    try:
        async with lanyinglog.connect(servers, timeout=PATIENCE_S) as client:
            return dict((await change(client))["members"])
    except LanyingError:
        return None
