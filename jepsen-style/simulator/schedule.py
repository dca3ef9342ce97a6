"""Virtual time: one queue of events, run one by one in the order of their times and, at one time, of their making."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Schedule:
    """``now`` is virtual seconds since the run began."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action(*arguments)`` at ``when``, or now if that is past. There is no cancelling: actions look."""
        self._made += 1
        heapq.heappush(self._heap, (max(when, self.now), self._made, action, arguments))

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action(*arguments)`` in ``delay_s``."""
        self._made += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._made, action, arguments))

    def pop(self) -> tuple[float, int, Callable[..., None], tuple[Any, ...]]:
        """Take the next event out, unrun."""
        return heapq.heappop(self._heap)

    def run_next(self) -> bool:
        """Run the next event; False if there is none."""
        if not self._heap:
            return False
        self.now, _, action, arguments = self.pop()
        self.steps += 1
        action(*arguments)
        return True

    def run_until(self, until: float, done: Callable[[], bool] | None = None) -> None:
        """Run events up to ``until``, or until ``done`` says so (asked after each event)."""
        while self._heap and self._heap[0][0] <= until:
            self.run_next()
            if done is not None and done():
                return
        self.now = until
