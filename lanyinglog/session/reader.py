"""What one client sends: received, cut into messages, and handed over in order, as soon as each may be answered.

A client that waits costs nothing: its socket is on the `poller`'s list, and whatever comes is read and answered in the
poller's task. The connection's own task steps in where something has to be waited for, as room for a publish, and where
the rest of a frame is overdue; and it hears the hello. Without a poller, or on a stream that is no plain socket, it
does all of that by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import trio

from lanyinglog.errors import ProtocolError
from lanyinglog.session.poller import RECEIVE_BYTES, Poller
from lanyinglog.sockets import descriptor_of, receiver_of
from lanyinglog.wire.connection import Connection, Received
from lanyinglog.wire.messages import Message

FRAME_S_MAX = 30.0
"""From a frame's first byte to its last: 1 MiB over a 300 kbit/s line."""


class Answerer(Protocol):
    """Who the messages are for."""

    def may_answer(self, message: Message) -> bool:
        """Whether ``message`` can be answered without waiting for anything."""

    def answer(self, request: int, message: Message) -> None:
        """Answer what may be answered."""

    def answer_publish(self, request: int, batch: bytes, log: str, received: float) -> bool:
        """`may_answer` and `answer` for a publish that came at ``received`` (trio's time); False if it has to wait."""

    async def answer_in_time(self, request: int, message: Message) -> None:
        """Wait for what ``message`` needs, then answer it."""


class Reader:
    """See the module. ``hello_s_max`` is how long the first message may take."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        wire: Connection,
        answerer: Answerer,
        *,
        poller: Poller | None,
        hello_s_max: float,
    ) -> None:
        self._receive_some = receiver_of(stream)
        self._descriptor = descriptor_of(stream)
        self._poller = None if self._descriptor is None else poller
        self._wire = wire
        self._answerer = answerer
        self._read_by = trio.current_time() + hello_s_max
        self._attending = trio.CancelScope()  # while the poller attends to the socket
        self._incoming: Iterator[Received] = iter(())
        self._held: Received | None = None
        self._completed = 0  # messages of what was received last

    async def run(self) -> None:
        """Receive and have answered until the client closes. `ProtocolError`, and what trio raises when it is gone."""
        while True:
            if self._poller is not None and self._wire.version is not None:
                if not await self._attended(self._poller):
                    return
            else:
                received = await self._receive()
                if not received:
                    return
                self._take(received)
            while self._held is not None:
                await self._answerer.answer_in_time(*self._held)
                self._held = None
                self._go_on()
            self._set_read_by(trio.current_time())

    async def _receive(self) -> bytes | bytearray:
        """What comes next; `ProtocolError` if that is overdue."""
        if self._read_by == math.inf:  # a cancel scope costs a fifth of a small publish
            return await self._receive_some(RECEIVE_BYTES)
        with trio.move_on_at(self._read_by):
            return await self._receive_some(RECEIVE_BYTES)
        raise self._overdue()

    def _overdue(self) -> ProtocolError:
        what = "a hello" if self._wire.version is None else "the rest of a frame"
        return ProtocolError(f"the client took too long to send {what}")

    def _set_read_by(self, now: float) -> None:
        """An idle connection may be idle for ever; a begun frame must be completed; a stranger must say hello."""
        if self._wire.version is None:
            return
        if not self._wire.inside_frame:
            self._read_by = math.inf
        elif self._completed or self._read_by == math.inf:
            self._read_by = now + FRAME_S_MAX

    def _take(self, received: bytes | bytearray) -> None:
        """Have answered what ``received`` completes."""
        self._completed = 0
        self._incoming = self._wire.receive(received)
        self._go_on()

    def _go_on(self) -> None:
        """Have answered what has come, up to the first message that has to wait: that one is held."""
        answerer = self._answerer
        for received in self._incoming:
            self._completed += 1
            if not answerer.may_answer(received.message):
                self._held = received
                return
            answerer.answer(*received)

    async def _attended(self, poller: Poller) -> bool:
        """Leave receiving to the poller's task until something has to be waited for, which is this task's business, or
        the client closed: then it is False. Raises what came up there, and `ProtocolError` if a frame is overdue."""
        assert self._descriptor is not None
        visit = _Visit(poller, self._descriptor, trio.lowlevel.current_task(), self._take_in_passing)
        with trio.CancelScope(deadline=self._read_by) as self._attending:
            await visit.over()
        if self._attending.cancelled_caught:
            raise self._overdue()
        if isinstance(visit.trouble, OSError):
            raise trio.BrokenResourceError("the client is gone") from visit.trouble
        if visit.trouble is not None:
            raise visit.trouble
        return not visit.closed

    def _take_in_passing(self, received: bytes, now: float) -> bool:
        """Whether nothing of what ``received`` brought has to be waited for."""
        publish = self._wire.repeated_publish(received)
        if publish is not None and self._answerer.answer_publish(*publish, now):
            return True
        self._take(received)
        self._set_read_by(now)
        if self._attending.deadline != self._read_by:
            self._attending.deadline = self._read_by
        return self._held is None


class _Visit:
    """A socket on the poller's list, for as long as ``take`` takes all that is ``received``, and ``task``, which waits
    meanwhile."""

    def __init__(
        self, poller: Poller, descriptor: int, task: trio.lowlevel.Task, take: Callable[[bytes, float], bool]
    ) -> None:
        self._poller = poller
        self._descriptor = descriptor
        self._task = task
        self._take = take
        self.closed = False
        self.trouble: Exception | None = None

    async def over(self) -> None:
        """Returns when it is."""
        self._poller.add(self._descriptor, self._on_received)
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _on_received(self, received: bytes | OSError, now: float) -> None:
        goes_on = False
        if isinstance(received, OSError):
            self.trouble = received
        elif received:
            try:
                goes_on = self._take(received, now)
            except Exception as error:
                self.trouble = error  # the task's to raise
        else:
            self.closed = True
        if not goes_on:
            self._poller.discard(self._descriptor)
            trio.lowlevel.reschedule(self._task)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._poller.discard(self._descriptor)
        return trio.lowlevel.Abort.SUCCEEDED
