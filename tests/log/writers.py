"""A writer for tests in which no time may pass while something is written."""

from __future__ import annotations

from collections.abc import Callable

from lanyinglog.store.log_store import LogStore, Writes


class WriterAtOnce:
    """Writes all in the event loop, so that virtual time does not run on meanwhile; entries wait while it `stalls`."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self.stalls = False
        self._waiting: list[tuple[Writes, Callable[[BaseException | None], None]]] = []

    def write_at_once(self, writes: Writes) -> bool:
        if self.stalls and writes.entries:
            return False
        self._store.write(writes)
        return True

    def begin(self, writes: Writes, ended: Callable[[BaseException | None], None]) -> None:
        assert self.stalls, "else all is written at once"
        self._waiting.append((writes, ended))

    def go_on(self) -> None:
        """Write what waits, and what comes."""
        self.stalls = False
        while self._waiting:
            writes, ended = self._waiting.pop()
            self._store.write(writes)
            ended(None)
