"""The two times that Raft goes by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. ``election_timeout_s`` is the longest silence before a node asks for an election."""

    heartbeat_s: float = 0.1
    election_timeout_s: float = 1.0
