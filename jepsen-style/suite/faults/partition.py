"""Links between nodes are cut: one node, halves, a ring, a bridge, one direction, the leader alone or with one other.

What was said on a cut link waits in the network and arrives late, or is lost with the connection, as drawn.
"""

from __future__ import annotations

import random
from typing import Any

from suite.arena import ALL, LEADER, Arena, Order, Skipped
from suite.links import Condition

NEEDS: tuple[str, ...] = ()
WEIGHT = 3.0
HARD = True
KINDS = ("one", "leader", "leader-and-one", "one-way-out", "one-way-in", "ring", "bridge", "halves", "clients-too")


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    kind = source.choices(KINDS, (2, 3, 1, 2, 2, 1, 2, 1, 2))[0]
    target = LEADER if kind.startswith("leader") or source.random() < 0.5 else ALL
    return target, {"kind": kind, "lost": source.random() < 0.5}


def inflict(arena: Arena, order: Order) -> None:
    kind = order.settings["kind"]
    names = list(arena.cluster.names)
    random.Random(order.seed).shuffle(names)
    leader = arena.cluster.leader()
    if order.target == LEADER:
        if leader is None:
            raise Skipped("partition: there is no leader to cut off")
        names.sort(key=lambda name: name != leader)
    links, words = cut_links(arena, kind, names)
    side = [names[0]] if "leader" in kind or kind.startswith("one") or kind == "clients-too" else []
    with arena.told(order, words, side, leader=leader):
        number = arena.layers.put(links, Condition(cut=True))
        arena.hold(order)
        if order.settings["lost"]:
            arena.layers.reset(links)
        arena.layers.lift(number)


def cut_links(arena: Arena, kind: str, names: list[str]) -> tuple[list[str], str]:
    """The links that are cut, and what to call it. The first of ``names`` is the one that it is about."""
    first, rest = names[:1], names[1:]
    if kind in ("one", "leader", "clients-too"):
        clients = kind == "clients-too"
        return arena.around(first, clients=clients), f"{first[0]} is cut off{', from clients too' if clients else ''}"
    if kind == "leader-and-one":
        return _halves(arena, names[:2], names[2:])
    if kind == "one-way-out":
        return arena.between(first, rest), f"nobody hears {first[0]}"
    if kind == "one-way-in":
        return arena.between(rest, first), f"{first[0]} hears nobody"
    if kind == "halves":
        return _halves(arena, names[: len(names) // 2], names[len(names) // 2 :])
    if kind == "bridge":
        far = rest[: len(rest) // 2]
        near = [name for name in rest if name not in far]
        return _halves(arena, far, near, words=f"only {first[0]} connects both halves")
    neighbours = {(names[i], names[(i + 1) % len(names)]) for i in range(len(names))}
    links = [f"{a}>{b}" for a in names for b in names if a != b and (a, b) not in neighbours]
    return links, f"a ring: {' > '.join([*names, names[0]])}"


def _halves(arena: Arena, some: list[str], others: list[str], *, words: str = "") -> tuple[list[str], str]:
    links = arena.between(some, others) + arena.between(others, some)
    return links, words or f"{' '.join(some)} | {' '.join(others)}"
