"""The schedule: which fault when, to whom, for how long. A pure function of the seed and the settings."""

from __future__ import annotations

import random
from collections.abc import Sequence

from suite import faults
from suite.arena import Order

QUIET_S = 2.0
"""At the beginning nothing happens: what is measured later has something to be compared with."""
SECONDS = (0.3, 3.0)
"""How long a fault lasts."""
INTERVAL_S = (0.4, 2.4)
"""From the beginning of one fault to that of the next."""
RECOVERY_S = 1.8
"""After a hard fault no other one comes for so long (an election, a node's start), or writes would hardly ever pass."""
OVERLAP = 0.1
"""But a share of them does come, whatever is going on."""
WIDE = ("majority", "all")
WIDE_SHARE = 0.4
"""A fault that takes a majority away lasts that share of the time: nothing can be acknowledged meanwhile."""


def draw(seed: int, *, seconds: float, names: Sequence[str], nodes: int) -> list[Order]:
    """The orders of a run of ``seconds`` with the faults ``names``."""
    source = random.Random(f"schedule {seed}")
    orders: list[Order] = []
    soft = [name for name in names if not faults.load(name).HARD]
    at, free_from = QUIET_S, 0.0
    while names and at < seconds - 1.0:
        may_be_hard = at >= free_from or source.random() < OVERLAP
        choice = list(names) if may_be_hard else soft
        overlaps = may_be_hard and at < free_from
        if choice:
            name = source.choices(choice, [faults.load(one).WEIGHT for one in choice])[0]
            fault = faults.load(name)
            target, settings = fault.draw(source, nodes)
            lasts = source.uniform(*SECONDS) * (WIDE_SHARE if target in WIDE and fault.HARD else 1.0)
            lasts = min(lasts, max(0.3, seconds - at))
            orders.append(Order(len(orders) + 1, at, lasts, name, target, settings, source.getrandbits(32), overlaps))
            if fault.HARD:
                free_from = max(free_from, at + lasts + RECOVERY_S)
        at += source.uniform(*INTERVAL_S)
    return orders
