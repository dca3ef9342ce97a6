"""Bits of messages in a minority's data file are flipped while it is down: it may refuse, but never serve them.

Later the bits are put right again, wherever they have got to.
"""

from __future__ import annotations

import mmap
import random
import re
from pathlib import Path
from typing import Any

from suite.arena import FOLLOWER, LEADER, Arena, Order, words_for

NEEDS: tuple[str, ...] = ()
WEIGHT = 1.0
HARD = True
_PAYLOAD = re.compile(rb"[0-9]{1,5}:[0-9]{1,9} [!-~]{20}")
_LOOK_BYTES = 4 << 20
TRIES = 60
"""Much of the file may be room that is kept, or blocks that are compressed: so often it is tried elsewhere."""
_CONTEXT_BYTES = 20
"""On each side: a flipped bit with so much around it is nowhere else."""


def draw(source: random.Random, nodes: int) -> tuple[str, dict[str, Any]]:
    return source.choices((FOLLOWER, LEADER), (3, 1))[0], {"flips": source.choice((1, 1, 20))}


def inflict(arena: Arena, order: Order) -> None:
    source = random.Random(order.seed)
    with arena.take(order) as (name,):
        arena.begin_damage()
        node = arena.cluster.nodes[name]
        words = f"flipped bits in the data file of {words_for(order, [name])}"
        with arena.told(order, words, [name], out=[name]) as happened:
            node.may_end = True
            try:
                arena.cluster.kill(name)
                flipped = flip(node.disk.file, source, count=order.settings["flips"])
                happened.words += f", {len(flipped)} of them"
                arena.revive([name])
                arena.hold(order)
                arena.cluster.kill(name)
                put_right(node.disk.file, flipped)
            finally:
                node.may_end = False
                arena.damage.release()
            arena.revive([name])


def flip(file: Path, source: random.Random, *, count: int) -> list[tuple[int, int, bytes]]:
    """Flip a bit in each of up to ``count`` payloads: ``(position, bit, what is around it now)``."""
    done: list[tuple[int, int, bytes]] = []
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as data:
        for _ in range(count + TRIES):
            if len(done) == count:
                break
            start = source.randrange(max(1, len(data)))
            found = _PAYLOAD.search(data, start, min(len(data), start + _LOOK_BYTES))
            if found is None:
                continue
            at, bit = source.randrange(found.start(), found.end()), 1 << source.randrange(8)
            if any(abs(at - other) <= 2 * _CONTEXT_BYTES for other, _, _ in done):
                continue
            data[at] ^= bit
            done.append((at, bit, data[at - _CONTEXT_BYTES : at + _CONTEXT_BYTES]))
    return done


def put_right(file: Path, flipped: list[tuple[int, int, bytes]]) -> None:
    """Flip them back, also where the node has meanwhile copied what was around them (it writes pages anew)."""
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as data:
        for _, bit, around in flipped:
            at = data.find(around)
            while at >= 0:
                data[at + _CONTEXT_BYTES] ^= bit
                at = data.find(around, at + 1)
