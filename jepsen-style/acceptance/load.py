"""Steady load from one client: so many lines a second, in batches, whatever happens to the cluster."""

from __future__ import annotations

from collections.abc import Sequence

import trio

import lanyinglog
from acceptance.changes import Changes


class Load:
    """``lines_s`` lines of ``line_bytes`` random bytes a second to ``topic``, each preceded by its number."""

    def __init__(
        self,
        servers: Sequence[str],
        *,
        lines_s: int,
        topic: str = "check.load",
        line_bytes: int = 100,
        tick_s: float = 0.05,
    ) -> None:
        self._servers = servers
        self._count = max(1, round(lines_s * tick_s))
        self._topic = topic
        self._line_bytes = line_bytes
        self._tick_s = tick_s
        self.sent = 0
        self._changes = Changes()

    async def run(self) -> None:
        """Until cancelled. Sending waits when the client's bounds are reached; the schedule is not made up for."""
        async with lanyinglog.connect(list(self._servers)) as client, client.publisher() as publisher:
            filler = b"x" * self._line_bytes
            due = trio.current_time()
            while True:
                await publisher.send_many(
                    self._topic, [(b"%d " % number + filler)[: self._line_bytes] for number in self._numbers()]
                )
                self.sent += self._count
                self._changes.wake()
                due = max(due + self._tick_s, trio.current_time() - self._tick_s)
                await trio.sleep_until(due)

    async def wait_sent(self, count: int) -> None:
        """Returns when ``count`` lines were taken in all."""
        await self._changes.until(lambda: self.sent >= count)

    def _numbers(self) -> range:
        return range(self.sent, self.sent + self._count)
