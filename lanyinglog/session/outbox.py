"""What waits to be written to one client, and the order in which it leaves.

Replies (acknowledgements, errors, answers) leave before pushes, joined into one write; so an acknowledgement waits for
at most one push that is already on its way, however much history other subscriptions of the connection are owed.
Between pushes there is one slot; whoever wants it waits in line.

Bounds (P8): replies are never refused, so whoever causes them asks `wait_room` first; the slot holds one push.
"""

from __future__ import annotations

import trio


class Outbox:
    """One writer calls `take`; everyone else puts. ``replies_bytes_max`` is where `wait_room` begins to wait."""

    def __init__(self, *, replies_bytes_max: int) -> None:
        self._replies_bytes_max = replies_bytes_max
        self._replies: list[bytes] = []
        self._replies_bytes = 0
        self._push: bytes | None = None
        self._finished = False
        self._work = trio.lowlevel.ParkingLot()  # the writer, when there is nothing to write
        self._room = trio.lowlevel.ParkingLot()
        self._taken = trio.lowlevel.ParkingLot()  # the owner of the push in the slot

    def put_reply(self, frame: bytes) -> None:
        """Queue a reply behind the replies before it. Never blocks."""
        self._replies.append(frame)
        self._replies_bytes += len(frame)
        self._work.unpark()

    async def wait_room(self) -> None:
        """Returns when fewer than ``replies_bytes_max`` bytes of replies wait."""
        while self._replies_bytes >= self._replies_bytes_max:
            await self._room.park()

    async def put_push(self, frame: bytes) -> None:
        """Returns when the writer has taken ``frame``; if cancelled before, it will not be sent.

        One caller at a time: the turn of `subscription` sees to it.
        """
        assert self._push is None
        self._push = frame
        self._work.unpark()
        try:
            while self._push is frame:
                await self._taken.park()
        finally:
            if self._push is frame:
                self._push = None

    def finish(self) -> None:
        """Nothing more will be put: `take` ends when the replies are out."""
        self._finished = True
        self._work.unpark()

    async def take(self) -> bytes | None:
        """What to write next; waits for it. None after `finish`."""
        while not self._replies and self._push is None:
            if self._finished:
                return None
            await self._work.park()
        if self._replies:
            chunk = self._replies[0] if len(self._replies) == 1 else b"".join(self._replies)
            self._replies.clear()
            self._replies_bytes = 0
            self._room.unpark_all()
            return chunk
        push, self._push = self._push, None
        self._taken.unpark()
        return push
