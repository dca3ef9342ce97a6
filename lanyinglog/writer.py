"""How a log's transactions reach the disk: small ones in the event loop, as long as the disk is quick, others in a
thread.

A thread costs more than what it does here: to begin a write in one and to hear of its end takes two system calls, two
passes of trio's loop, and twice the interpreter's lock from whoever has it: 7 % of a lone publish. Meanwhile the
loop has little to do: what comes while the disk is busy waits for the disk.

What may not happen is that a disk which takes its time (one that spins, one behind a network, one that stalls) stops
heartbeats and subscribers as well, again and again. So the disk must have been quick some times in a row, and one slow
write is the end of that. That one does hold the loop up: a leader whose disk stalls for longer than an election timeout
is replaced, which is what its producers need.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import trio

from lanyinglog.store.log_store import Writes

AT_ONCE_BYTES_MAX = 4 << 10
"""Of commands. Who brings more has company, whom the loop can serve while the disk is busy: with 500 producers, 64 KiB
here cost a seventh of their messages."""
AT_ONCE_ROWS_MAX = 512
"""Of a checkpoint: rows, records and postings together."""
QUICK_S = 0.010
"""A write that took longer was a slow one."""
QUICK_WRITES_MIN = 16
"""So many small writes in a row have to be quick before one is made in the event loop."""


class Writer(Protocol):
    """What the commit loop asks to write, one transaction at a time."""

    def write_at_once(self, writes: Writes) -> bool:
        """Write ``writes`` before it returns, if that is likely to take no time worth mentioning: whether it is on
        disk. If not, nothing was done. Raises why it could not be written."""

    def begin(self, writes: Writes, ended: Callable[[BaseException | None], None]) -> None:
        """Begin to write ``writes``; returns at once. When it is on disk, or has failed by the exception given,
        ``ended`` is called once in the event loop, in no task's name, after this returned: it must not raise."""


class DiskWriter:
    """A `Writer` by ``write``; ``clock`` is monotonic, in seconds."""

    def __init__(self, write: Callable[[Writes], None], *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._write = write
        self._clock = clock
        self._quick_in_a_row = 0

    def write_at_once(self, writes: Writes) -> bool:
        if self._quick_in_a_row < QUICK_WRITES_MIN or not is_small(writes):
            return False
        self._write_small(writes)
        return True

    def begin(self, writes: Writes, ended: Callable[[BaseException | None], None]) -> None:
        token = trio.lowlevel.current_trio_token()
        write = self._write_small if is_small(writes) else self._write

        def write_and_tell() -> None:
            error: BaseException | None = None
            try:
                write(writes)
            except BaseException as failure:
                error = failure
            with suppress(trio.RunFinishedError):  # nobody is left to tell
                token.run_sync_soon(ended, error)

        # Not `to_thread.run_sync`: its limiter, context and cancel scope are a tenth of a small write. And no name: it
        # would be given and taken back, by two system calls, each time.
        trio.lowlevel.start_thread_soon(write_and_tell, lambda result: result.unwrap())

    def _write_small(self, writes: Writes) -> None:
        """Only how long small ones take tells how long the next one will."""
        began = self._clock()
        self._write(writes)
        self._quick_in_a_row = self._quick_in_a_row + 1 if self._clock() - began <= QUICK_S else 0


def is_small(writes: Writes) -> bool:
    """Whether it is but a few entries, and maybe a small checkpoint: nothing of trims, repairs and snapshots."""
    if writes.trim is not None or writes.mends or writes.stage is not None or writes.install is not None:
        return False
    checkpoint = writes.checkpoint
    if checkpoint is not None:
        rows = len(checkpoint.rows) + len(checkpoint.records) + len(checkpoint.postings)
        if rows > AT_ONCE_ROWS_MAX:
            return False
    return sum([len(entry.command) for entry in writes.entries]) <= AT_ONCE_BYTES_MAX
