"""How much a run does: presets, and the numbers they stand for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """``seconds`` of faults in each of ``rounds``; every round has a fresh cluster, its own seed and its own checks."""

    words: str
    seconds: float
    rounds: int = 1


PRESETS = {
    "smoke": Preset("two minutes with everything: for every change", 60.0),
    "standard": Preset("fifteen minutes: before a release", 840.0),
    "overnight": Preset("eight hours, forty rounds", 690.0, rounds=40),
}
OPERATIONS_S = 2_400
"""Operations a second that all writers together aim at."""
DISK_BYTES = 2 << 30
"""The size of a node's file system, if memory allows."""
"""It holds about as much as a round of `standard` writes, twice over."""
