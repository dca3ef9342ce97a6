"""Which configuration a node goes by: the newest in its log, committed or not.

A configuration is an entry like others. It counts from the moment it is in the log, and no longer counts when that
entry is cut off (Raft dissertation, 4.1). The leader changes one member at a time, and only when the change before it,
and an entry of its own term, are committed: then any two majorities that can decide at the same time have a node in
common (4.1, and the erratum on the no-op). `Replica.why_no_change` holds these rules.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from lanyinglog.machine.members import Members


class Membership:
    """The configurations of one node's log that may still count, oldest first.

    ``read(command)`` gives the members that an entry sets, or None if it sets none. ``base`` is what holds up to entry
    ``at``, which is committed.
    """

    def __init__(self, base: Members, *, at: int, read: Callable[[bytes], Members | None]) -> None:
        self._read = read
        self._known: list[tuple[int, Members]] = [(at, base)]
        self.version = 0
        """Rises whenever `current` or `settled` may have changed."""

    @property
    def current(self) -> Members:
        """The newest configuration in the log."""
        return self._known[-1][1]

    @property
    def settled(self) -> Members:
        """The newest configuration that is known to be committed."""
        return self._known[0][1]

    @property
    def index(self) -> int:
        """The entry that set it."""
        return self._known[-1][0]

    def added(self, index: int, command: bytes) -> None:
        """Entry ``index`` is in the log."""
        members = self._read(command)
        if members is not None:
            self._known.append((index, members))
            self.version += 1

    def cut(self, index: int) -> None:
        """Entry ``index`` and all behind it are gone; they were not committed."""
        assert index > self._known[0][0], f"entry {index} is cut off, and the committed members are of {self.index}"
        while self._known[-1][0] >= index:
            self._known.pop()
            self.version += 1

    def committed(self, index: int) -> None:
        """All up to ``index`` is committed: what was before the last of it is of no use any more."""
        while len(self._known) > 1 and self._known[1][0] <= index:
            del self._known[0]
            self.version += 1

    def reset(self, base: Members, *, at: int) -> None:
        """The log begins anew behind entry ``at``, where ``base`` holds."""
        self._known = [(at, base)]
        self.version += 1
