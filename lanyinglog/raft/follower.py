"""What a leader knows of one follower: how much of the log it has, what is on its way to it, and what it can't be sent.

It lives for one term of leadership (`guard` makes a new one with each) and decides nothing: that is the guard's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from lanyinglog.raft.messages import Append
from lanyinglog.raft.pacing import Pace

WINDOW_BYTES_MAX = 8 << 20
WINDOW_APPENDS_MAX = 16


class Sent(NamedTuple):
    """An append on its way: its size and the first entry in it."""

    bytes: int
    first: int


@dataclass(slots=True)
class Follower:
    """What a leader knows of one follower in its term."""

    pace: Pace
    acked: int = 0
    """The last entry it reported on its disk."""
    in_flight: dict[int, Sent] = field(default_factory=dict)
    """Number of each unanswered append with entries -> what it was."""
    rewound_at: int = 0
    """Resets that answer an append numbered below this are stale."""
    paused: bool = False
    answered_at: float = 0.0
    """When it last answered an append, or when the oldest one in flight was sent."""
    answered_number: int = 0
    """The newest append that it answered, whatever the answer was."""
    behind: bool = False
    """It lacks what this log begins with: appends only ask whether that is still so."""
    valid_from: int = 0
    """Answers to appends numbered below this are from before it lost its disk."""

    @property
    def window_is_full(self) -> bool:
        """Whether as much is on its way as may be (audit 21)."""
        bytes_sent = sum(sent.bytes for sent in self.in_flight.values())
        return len(self.in_flight) >= WINDOW_APPENDS_MAX or bytes_sent >= WINDOW_BYTES_MAX

    def sent(self, append: Append, now: float) -> None:
        """``append`` is on its way."""
        if not self.in_flight:
            self.answered_at = now
        self.in_flight[append.number] = Sent(append.bytes, append.prev_index + 1)

    def has(self, match: int, number: int) -> None:
        """It has everything up to entry ``match``, and what was sent up to append ``number``."""
        self.acked = max(self.acked, match)
        for earlier in [earlier for earlier in self.in_flight if earlier <= number]:
            del self.in_flight[earlier]

    def take_back(self, number: int) -> None:
        """Nothing is on its way any more; appends from ``number`` on are new ones."""
        self.rewound_at = number
        self.in_flight.clear()
