"""Waiting for something to become true, without asking again and again."""

from __future__ import annotations

from collections.abc import Callable

import trio


class Changes:
    """Who changes a state calls `wake`; who waits for it, `until`."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def wake(self) -> None:
        """Something changed."""
        self._event.set()
        self._event = trio.Event()

    async def until(self, holds: Callable[[], bool], *, seconds_max: float = 60.0) -> None:
        """Returns when ``holds()``; `trio.TooSlowError` after ``seconds_max``."""
        with trio.fail_after(seconds_max):
            while not holds():
                await self._event.wait()
