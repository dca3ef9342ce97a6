"""The leader is asked to hand over to another node: an operator's command, not a fault, in the middle of all others."""

from __future__ import annotations

import random
from typing import Any

import trio

import lanyinglog
from lanyinglog.errors import LanyingError
from suite.arena import FOLLOWER, LEADER, Arena, Order

NEEDS: tuple[str, ...] = ()
WEIGHT = 1.0
HARD = False
PATIENCE_S = 3.0


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return LEADER if source.random() < 0.5 else FOLLOWER, {}


def inflict(arena: Arena, order: Order) -> None:
    servers = [f"{node.place.client[0]}:{node.place.client[1]}" for node in arena.cluster.nodes.values()]
    wanted = random.Random(order.seed).choice([None, *arena.cluster.names])
    with arena.told(order, f"leadership is to go to {wanted or 'another node'}", []) as happened:
        try:
            happened.words += f": {trio.run(_transfer, servers, wanted)} leads"
        except LanyingError as error:
            happened.words += f": {error.code}"


async def _transfer(servers: list[str], wanted: str | None) -> str:
    async with lanyinglog.connect(servers, timeout=PATIENCE_S) as client:
        return await client.transfer_leadership(wanted)
