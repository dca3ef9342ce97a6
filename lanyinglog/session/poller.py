"""Waits for the bytes of many connections in one task.

A task that waits for its own socket has trio put that on the system's list and take it off again, and is then run by
itself: for a small publish that costs more than the publish. Here sockets stay on a list of their own for as long as
their connections have nothing to do but to wait; that list is itself a file that trio can wait for.

No socket is served twice before all that have something to read were served once, for the system keeps them in line.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Self

import trio

SERVED_AT_ONCE = 64
"""Sockets served before other tasks may run."""


class Poller:
    """See the module. Only where the system has ``epoll``: ask `make`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[float], None]] = {}

    @classmethod
    def make(cls) -> Self | None:
        """One, or None where there can't be any: then each connection waits by itself."""
        return cls() if hasattr(select, "epoll") else None

    def add(self, descriptor: int, on_readable: Callable[[float], None]) -> None:
        """Call ``on_readable``, which raises nothing, with the time (trio's) whenever the socket ``descriptor`` has
        something to read, has ended or is broken, until `discard`: again and again if it does not read. Nothing once
        `run` has ended."""
        if not self._epoll.closed:
            self._epoll.register(descriptor, select.EPOLLIN)
            self._callbacks[descriptor] = on_readable

    def discard(self, descriptor: int) -> None:
        """Wait for it no more; to be called before it is closed. Harmless for one that is not waited for."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Serve until cancelled; then no socket is waited for any more."""
        callbacks = self._callbacks
        try:
            with self._epoll as epoll:
                while True:
                    await trio.lowlevel.wait_readable(epoll.fileno())
                    now = trio.current_time()
                    for descriptor, _ in epoll.poll(0, SERVED_AT_ONCE):
                        on_readable = callbacks.get(descriptor)
                        if on_readable is not None:  # else it was discarded by one that came before it
                            on_readable(now)
        finally:
            callbacks.clear()
