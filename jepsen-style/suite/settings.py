"""What a run is to do, as it was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """One round. ``faults`` and ``workloads`` are names; ``report`` the directory that gets everything."""

    seed: int
    seconds: float
    nodes: int
    faults: tuple[str, ...]
    workloads: tuple[str, ...]
    report: Path
    operations_s: float
    defect: str | None = None
    scenario: str | None = None
    replay: str = ""
    """The command line that does the same again."""
