"""What is done to the cluster. One file a fault; a new one joins by its name in `NAMES`.

A fault module has a docstring (its first line is shown in lists and reports), ``NEEDS`` (what the machine must have,
of `CAPABILITIES`), ``WEIGHT`` (how often it comes, 1 is usual), ``HARD`` (whether it takes nodes or
links away: the schedule lets few of these overlap), ``draw(source, nodes)``, which draws target and
settings for one occurrence, and ``inflict(arena, order)``, which does it, waits, and undoes it.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

from suite.arena import Arena, Order

NAMES = (
    "kill",
    "pause",
    "partition",
    "packets",
    "slow",
    "lossy",
    "garble",
    "reset",
    "clock",
    "disk-full",
    "slow-disk",
    "broken-disk",
    "power",
    "rot",
    "wipe",
    "transfer",
    "rolling",
    "members",
)

ISOLATION, SIZED_DISK, SHIM, TC = "isolation", "sized-disk", "shim", "tc"
CAPABILITIES = {
    ISOLATION: "a network namespace for each node",
    SIZED_DISK: "a file system of a fixed size for each node",
    SHIM: "a C compiler, for the shim between node and disk",
    TC: "the program tc, of iproute2",
}


class Fault(Protocol):
    """What a fault module offers; see the package."""

    __doc__: str
    NEEDS: tuple[str, ...]
    WEIGHT: float
    HARD: bool
    draw: Callable[[random.Random, int], tuple[str, dict[str, Any]]]
    inflict: Callable[[Arena, Order], None]


def load(name: str) -> Fault:
    """The fault ``name``."""
    return cast(Fault, importlib.import_module(f"suite.faults.{name.replace('-', '_')}"))


def purpose(name: str) -> str:
    """What it does, in a line."""
    return (load(name).__doc__ or "").splitlines()[0]


def missing(name: str, capabilities: Iterable[str]) -> list[str]:
    """What the machine lacks for the fault."""
    have = set(capabilities)
    return [need for need in load(name).NEEDS if need not in have]
