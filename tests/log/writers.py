"""A writer for tests in which no time may pass while something is written."""

from __future__ import annotations

from collections.abc import Callable

from lanyinglog.store.log_store import LogStore, Writes


class WriterAtOnce:
    """Writes all in the event loop, so that virtual time does not run on meanwhile."""

    def __init__(self, store: LogStore) -> None:
        self._store = store

    def write_at_once(self, writes: Writes) -> bool:
        self._store.write(writes)
        return True

    def begin(self, writes: Writes, ended: Callable[[BaseException | None], None]) -> None:
        raise AssertionError("all is written at once")
