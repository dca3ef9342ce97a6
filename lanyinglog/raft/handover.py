"""A leader's attempt to make another voter the leader (Raft dissertation, 3.10): who, until when, and if it is told.

Pure: who says the words to that voter, and what it means that it has everything, is the replica's.
"""

from __future__ import annotations


class Handover:
    """See the module; ``to`` is None while there is no attempt."""

    def __init__(self, *, lasts_s: float) -> None:
        self.to: str | None = None
        self._lasts_s = lasts_s
        self._deadline = 0.0
        self._told = False

    def begin(self, to: str, now: float) -> None:
        """In the place of an attempt with another, if there is one; it is given up after ``lasts_s``."""
        self.to, self._deadline, self._told = to, now + self._lasts_s, False

    def give_up(self) -> None:
        """It is not to be any more."""
        self.to = None

    def is_due(self, now: float, *, leads: bool, ready: bool, again: bool) -> bool:
        """Whether to tell `to` now, which is ``ready`` if it has all that this node has; ``again``: even if it was."""
        if not leads or now >= self._deadline:
            self.give_up()
        due = self.to is not None and ready and (again or not self._told)
        self._told = self._told or due
        return due
