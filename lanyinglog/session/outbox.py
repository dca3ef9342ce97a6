"""What waits to be written to one client, and the order in which it leaves.

Replies (acknowledgements, errors, answers) leave before pushes, joined into one write; so an acknowledgement waits for
at most one push that is already on its way, however much history other subscriptions of the connection are owed.
Between pushes there is one slot; whoever wants it waits in line.

As long as nothing waits, the writer is not woken for a frame: it goes to the system at once, by ``send_now``, and only
what the system does not take (a client that reads slowly) is left to the writer.

Bounds (P8): replies are never refused, so whoever causes them asks `wait_room` first; the slot holds one push.
"""

from __future__ import annotations

from collections.abc import Callable

import trio


class Outbox:
    """One writer calls `take`; everyone else puts. ``replies_bytes_max`` is where `wait_room` begins to wait.

    ``send_now(data)`` hands as much of ``data`` to the system as fits without waiting and returns how much, 0 if
    that can't be done; None if there is no such way."""

    def __init__(self, *, replies_bytes_max: int, send_now: Callable[[bytes], int] | None = None) -> None:
        self._send_now = send_now
        self._writer_waits = False
        self._rest: bytes | None = None  # of a frame that has begun to leave
        self._replies_bytes_max = replies_bytes_max
        self._replies: list[bytes] = []
        self._replies_bytes = 0
        self._push: bytes | None = None
        self._finished = False
        self._work = trio.lowlevel.ParkingLot()  # the writer, when there is nothing to write
        self._room = trio.lowlevel.ParkingLot()
        self._taken = trio.lowlevel.ParkingLot()  # the owner of the push in the slot

    def put_reply(self, frame: bytes) -> None:
        """Send a reply, or queue it behind the replies before it. Never blocks."""
        self.queue_reply(frame)
        self.send_replies()

    def queue_reply(self, frame: bytes) -> None:
        """`put_reply` for who calls `send_replies` soon."""
        self._replies.append(frame)
        self._replies_bytes += len(frame)

    def send_replies(self) -> None:
        """Send the replies that are queued, or leave them to the writer."""
        if not (self._writer_waits and self._replies and self._push is None and self._rest is None):
            self._work.unpark()
        elif self._sent(self._replies[0] if len(self._replies) == 1 else b"".join(self._replies)):
            self._forget_replies()
        else:
            self._work.unpark()

    @property
    def has_room(self) -> bool:
        """Whether fewer than ``replies_bytes_max`` bytes of replies wait."""
        return self._replies_bytes < self._replies_bytes_max

    async def wait_room(self) -> None:
        """Returns when there is room."""
        while not self.has_room:
            await self._room.park()

    async def put_push(self, frame: bytes) -> None:
        """Returns when ``frame`` was sent or the writer has taken it; if cancelled before, it will not be sent.

        One caller at a time: the turn of `subscription` sees to it.
        """
        assert self._push is None
        if self.try_push(frame):
            await trio.lowlevel.checkpoint()
            return
        self._push = frame
        self._work.unpark()
        try:
            while self._push is frame:
                await self._taken.park()
        finally:
            if self._push is frame:
                self._push = None

    def try_push(self, frame: bytes) -> bool:
        """Send ``frame`` if nothing else waits to be sent; whether it left, or has begun to."""
        return self._nothing_waits() and self._sent(frame)

    def _nothing_waits(self) -> bool:
        return self._writer_waits and not self._replies and self._push is None and self._rest is None

    def _sent(self, frame: bytes) -> bool:
        """Whether all of ``frame`` was sent now, or some: then the writer sends the rest before all else."""
        if self._send_now is None or self._finished:
            return False
        sent = self._send_now(frame)
        if 0 < sent < len(frame):
            self._rest = frame[sent:]
            self._work.unpark()
        return sent > 0

    def finish(self) -> None:
        """Nothing more will be put: `take` ends when the replies are out."""
        self._finished = True
        self._work.unpark()

    async def take(self) -> bytes | None:
        """What to write next; waits for it. None after `finish`."""
        while not self._replies and self._push is None and self._rest is None:
            if self._finished:
                return None
            self._writer_waits = True
            try:
                await self._work.park()
            finally:
                self._writer_waits = False
        if self._rest is not None:
            rest, self._rest = self._rest, None
            return rest
        if self._replies:
            chunk = self._replies[0] if len(self._replies) == 1 else b"".join(self._replies)
            self._forget_replies()
            return chunk
        push, self._push = self._push, None
        self._taken.unpark()
        return push

    def _forget_replies(self) -> None:
        self._replies.clear()
        if not self.has_room:  # else nobody waits for it
            self._room.unpark_all()
        self._replies_bytes = 0
