"""How fast a follower that is far behind is fed, so that the others and the producers do not feel it.

A leader that sends old entries as fast as one follower takes them spends its loop, its disk and its network on that;
each publish then waits behind a megabyte or two. So what goes to a follower that lacks more than a window's appends has
a budget: ``bytes_s`` a second, and twice what the log grows by, so that whoever is behind always gains on the log.

Pure: ``now`` is seconds on the caller's monotonic clock.
"""

from __future__ import annotations

BURST_BYTES = 1 << 20
"""What may go at once after a pause."""
GAIN = 2


class Pace:
    """The budget of one follower; it may be overdrawn by one append."""

    __slots__ = ("_at", "_budget", "_bytes_s")

    def __init__(self, bytes_s: float) -> None:
        self._bytes_s = bytes_s
        self._budget = float(BURST_BYTES)
        self._at = 0.0

    def grew(self, size: int) -> None:
        """``size`` bytes were appended to the log."""
        self._budget = max(self._budget, min(self._budget + GAIN * size, GAIN * size + BURST_BYTES))

    def spend(self, size: int, now: float) -> None:
        """So many bytes were sent."""
        self._refill(now)
        self._budget -= size

    def ready_at(self, now: float) -> float:
        """When more may be sent: ``now``, or later."""
        self._refill(now)
        return now if self._budget > 0 else now - self._budget / self._bytes_s

    def _refill(self, now: float) -> None:
        earned = (now - self._at) * self._bytes_s
        self._at = now
        self._budget = max(self._budget, min(self._budget + earned, BURST_BYTES))
