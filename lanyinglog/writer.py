"""The thread that writes a log's transactions: each is begun from the event loop, and told there when it has ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import trio

from lanyinglog.store.log_store import Writes


class Writer(Protocol):
    """What the commit loop asks to write."""

    def begin(self, writes: Writes, ended: Callable[[BaseException | None], None]) -> None:
        """Begin to write ``writes``; returns at once. When it is on disk, or has failed by the exception given,
        ``ended`` is called once in the event loop, in no task's name: it must not raise. One at a time."""


class WriterThread:
    """A `Writer` that calls ``write`` in one of trio's threads."""

    def __init__(self, write: Callable[[Writes], None]) -> None:
        self._write = write

    def begin(self, writes: Writes, ended: Callable[[BaseException | None], None]) -> None:
        token = trio.lowlevel.current_trio_token()

        def write_and_tell() -> None:
            error: BaseException | None = None
            try:
                self._write(writes)
            except BaseException as failure:
                error = failure
            with suppress(trio.RunFinishedError):  # nobody is left to tell
                token.run_sync_soon(ended, error)

        # Not `to_thread.run_sync`: its limiter, context and cancel scope are a tenth of a small write. And no name: it
        # would be given and taken back, by two system calls, each time.
        trio.lowlevel.start_thread_soon(write_and_tell, lambda result: result.unwrap())
