"""The schedule: which fault when, to whom, for how long. A pure function of the seed and the settings."""

from __future__ import annotations

import random
from collections.abc import Sequence

from suite import faults
from suite.arena import Order

QUIET_S = 2.0
"""At the beginning nothing happens: what is measured later has something to be compared with."""
SECONDS = (0.3, 4.0)
"""How long a fault lasts."""
INTERVAL_S = (0.6, 2.6)
"""From the beginning of one fault to that of the next."""
CALM_EVERY, CALM_S = 12, 3.0
"""After so many faults there are none for a while, so that the cluster is seen to be well again."""


def draw(seed: int, *, seconds: float, names: Sequence[str], nodes: int) -> list[Order]:
    """The orders of a run of ``seconds`` with the faults ``names``."""
    source = random.Random(f"schedule {seed}")
    orders: list[Order] = []
    if not names:
        return orders
    weights = [faults.load(name).WEIGHT for name in names]
    at = QUIET_S
    while at < seconds - 1.0:
        name = source.choices(names, weights)[0]
        target, settings = faults.load(name).draw(source, nodes)
        lasts = min(source.uniform(*SECONDS), max(0.3, seconds - at))
        orders.append(Order(len(orders) + 1, at, lasts, name, target, settings, source.getrandbits(32)))
        at += source.uniform(*INTERVAL_S)
        if len(orders) % CALM_EVERY == 0:
            at += CALM_S
    return orders
