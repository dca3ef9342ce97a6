"""A subscription: drives a `Cursor` over one connection after another, in the task of whoever iterates.

There is no queue behind it: what is not asked for stays at the node, which sends no more than it has credit for (P8),
and a slow subscriber slows nobody else down, for each subscription has a connection of its own.

A connection is given up when it ends, when its node is silent although it was asked (`Timing.silence_s`), or when the
node says that it can't serve, as one does that hears no leader. The next one is to another node if there is one, and
begins exactly where the last one ended. Cancelling a wait loses nothing: what has arrived stays for the next call, and
looking for another node, which takes longer than some callers wait, goes on meanwhile in a task of the client's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from lanyinglog import record
from lanyinglog.client.cursor import Cursor
from lanyinglog.client.leader import Refusals, Servers
from lanyinglog.client.link import Link, LinkLost
from lanyinglog.client.timing import Backoff
from lanyinglog.config import Address
from lanyinglog.errors import BadBatch, BadRequest, ContinuityError, LanyingError, Trimmed, Unavailable
from lanyinglog.wire.connection import Received
from lanyinglog.wire.messages import Credit, Error, Message, Origin, Ping, Pong, Push, Subscribe, Subscribed

CREDIT_BYTES = 4 << 20
"""What the node may send before it hears from us; topped up when half of it is used: it need not wait for us."""
CREDIT_MESSAGES = 16 * record.MESSAGES_MAX
"""The same in messages: a count that is rarely reached, for bytes are the bound."""


class _Attempt:
    """To get a connection; ``error`` is why there is none."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.error: Exception | None = None


class Subscription:
    """Messages in order, without gap or repetition, from whichever node is there. Made by `Client.subscribe`.

    Use it with ``async with``: inside, the place where it begins is settled. Iterate over it for messages, or over
    `batches` for lists of them, which costs a tenth. It belongs to one task at a time.
    """

    def __init__(
        self,
        servers: Servers,
        tasks: TaskGroup,
        cursor: Cursor,
        *,
        timeout: float,
        newest: Callable[[float], Awaitable[int]] | None = None,
        until_last: bool = False,
    ) -> None:
        self._servers = servers
        self._tasks = tasks
        self._timing = servers.timing
        self._cursor = cursor
        self._timeout = timeout
        self._newest = newest  # asks for the newest seq of the cluster, for so many seconds
        self._until_last = until_last
        self._guard = anyio.ResourceGuard("iterating over a subscription")
        self._backoff = Backoff(servers.timing, max_s=servers.timing.refused_max_s)
        self._link: Link | None = None
        self._attempt: _Attempt | None = None  # under way, or failed and not yet told
        self._request = 0
        self._refusals = Refusals()
        self._troubled_at: float | None = None  # since when no node has been of use
        self._tries = 0  # to connect, since then
        self._spent_bytes = self._spent_messages = 0  # of the credit
        self._damaged_at: int | None = None  # behind which seq a run was not readable
        self._batch: list[record.Message] = []
        self._at = 0  # how many of them were handed out
        self._closed = False

    # ------------------------------------------------------------------------------------------------- life
    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _begin(self) -> None:
        """Connect, and find out what "new" and "last" are. The node asked may be behind the leader: without a look
        at the latter, "last" could end before messages that this very user has published."""
        cursor = self._cursor
        asks = self._newest if self._until_last or cursor.start.origin is Origin.NEW else None
        newest = 0 if asks is None else await asks(self._timeout)
        if asks is not None and cursor.start.origin is Origin.NEW:
            cursor.begin_behind(newest)
        while cursor.through is None:
            await self._advance()
        if self._until_last:
            cursor.until = max(newest, cursor.last_seq)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End it. What has arrived and was not handed out is dropped."""
        self._closed = True
        self._batch, self._at = [], 0
        if self._attempt is not None:
            self._attempt.scope.cancel()
        await self._drop_link()

    @property
    def next_seq(self) -> int:
        """Everything that matches below this seq has been handed out: start here to go on another time."""
        if self._at < len(self._batch):
            return self._batch[self._at].seq
        assert self._cursor.through is not None, "known inside `async with`"
        return self._cursor.through + 1

    @property
    def until(self) -> int | None:
        """The last seq that is wanted; None for a subscription without end."""
        return self._cursor.until

    @property
    def server(self) -> Address | None:
        """The server it is connected to right now."""
        return None if self._link is None else self._link.address

    # ------------------------------------------------------------------------------------------------- messages
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> record.Message:
        at = self._at
        if at == len(self._batch):
            self._batch, self._at = await self._wait_batch(), 0
            if not self._batch:
                raise StopAsyncIteration
            at = 0
        self._at = at + 1
        return self._batch[at]

    async def batches(self) -> AsyncIterator[list[record.Message]]:
        """The same messages, in lists of up to some thousands: what there is, never empty, never waiting for more."""
        while batch := await self.next_batch():
            yield batch

    async def next_batch(self) -> list[record.Message]:
        """The next list of messages; empty when there are no more, that is, behind ``until``.

        Raises `Unavailable` when no node could be of use for the timeout; call again to try again. Raises
        `ContinuityError`, `BadTopic` and the like, `BadBatch` for a run that no node has in order, and `Trimmed` when
        the next message is older than the oldest one kept: a new subscription may go on at the seq in its ``hint``.
        """
        if self._at < len(self._batch):
            rest, self._batch, self._at = self._batch[self._at :], [], 0
            return rest
        return await self._wait_batch()

    async def _wait_batch(self) -> list[record.Message]:
        with self._guard:
            while not self._closed:
                try:
                    batch = self._cursor.take()
                except BadBatch as error:
                    await self._suspect(error)
                    continue
                if batch:
                    return batch
                if self._cursor.is_done:
                    await self._drop_link()
                    return []
                await self._advance()
            raise BadRequest("the subscription is closed")

    async def _suspect(self, error: BadBatch) -> None:
        """A run is not readable: look at the copy of another node. If that one is no better, the run was made so."""
        place, self._damaged_at = self._damaged_at, self._cursor.through
        await self._lose_link(error.message)
        if place == self._damaged_at:
            self._damaged_at = None
            raise error

    # ------------------------------------------------------------------------------------------------- connection
    async def _advance(self) -> None:
        """One step: more from the node, or another connection."""
        try:
            if self._link is None:
                await self._wait_connected()
            else:
                await self._return_credit(self._link)
                for received in await self._receive(self._link):
                    self._take_in(self._link, received)
        except LinkLost as error:
            await self._lose_link(str(error))
        except LanyingError:
            await self._drop_link()
            raise

    async def _wait_connected(self) -> None:
        """Returns when there is a connection, or raises why there is none."""
        if self._attempt is None:
            if self._tasks.cancel_scope.cancel_called:
                raise Unavailable("the client is closed")
            self._attempt = _Attempt()
            self._tasks.start_soon(self._try_to_connect, self._attempt)
        attempt = self._attempt
        await attempt.done.wait()
        if attempt.error is not None:
            self._attempt = None
            raise attempt.error

    async def _try_to_connect(self, attempt: _Attempt) -> None:
        try:
            with attempt.scope:
                await self._reconnect()
        except (LinkLost, LanyingError) as error:
            attempt.error = error
        except anyio.get_cancelled_exc_class():
            attempt.error = Unavailable("the client is closed")
            raise
        finally:
            if attempt.error is None:
                self._attempt = None
            attempt.done.set()
            if self._closed:
                await self._drop_link()

    async def _reconnect(self) -> None:
        if self._troubled_at is None:
            self._troubled_at, self._tries = anyio.current_time(), 0
        with anyio.CancelScope(deadline=self._troubled_at + self._timeout):
            if self._tries:
                await anyio.sleep(self._backoff.next_s())
            self._tries += 1
            link = await self._servers.open_any(self._refusals)
            try:
                await self._subscribe(link)
            except BaseException:
                self._refusals.note(link.address)
                await link.aclose()
                raise
            return
        self._troubled_at = None
        raise Unavailable(f"no node could serve it within {self._timeout:g} s: {self._servers.last_problem}")

    async def _subscribe(self, link: Link) -> None:
        cursor = self._cursor
        request = link.new_request()
        with anyio.move_on_after(self._timing.silence_s):
            await self._servers.learn_members(link)
            subscribe = Subscribe(cursor.filters, cursor.start, CREDIT_MESSAGES, CREDIT_BYTES, self._servers.log)
            await link.send(subscribe, request)
            await self._wait_subscribed(link, request)
            return
        raise LinkLost(f"{link.address} did not open the subscription within {self._timing.silence_s:g} s")

    async def _wait_subscribed(self, link: Link, request: int) -> None:
        while True:
            received = await link.receive()
            for place, (other, message) in enumerate(received):
                if other != request:
                    continue
                if isinstance(message, Error):
                    raise _as_told(link, message)
                if not isinstance(message, Subscribed):
                    raise LinkLost(f"{link.address} answered a subscribe with {message.NAME}")
                self._cursor.subscribed(message)
                self._link, self._request = link, request
                self._spent_bytes = self._spent_messages = 0
                for more in received[place + 1 :]:
                    self._take_in(link, more)
                return

    async def _return_credit(self, link: Link) -> None:
        """Leave to send again what was taken; called when nothing is left here."""
        if 2 * self._spent_bytes < CREDIT_BYTES and 2 * self._spent_messages < CREDIT_MESSAGES:
            return
        credit = Credit(self._spent_messages, self._spent_bytes)
        self._spent_bytes = self._spent_messages = 0
        await self._send(link, credit, self._request)

    async def _receive(self, link: Link) -> list[Received]:
        """The next messages of the node. A silent one is asked once, then given up."""
        asked = False
        while True:
            with anyio.move_on_after(self._timing.silence_s / 2):
                return await link.receive()
            if asked:
                raise LinkLost(f"{link.address} was silent for {self._timing.silence_s:g} s")
            asked = True
            await self._send(link, Ping(), link.new_request())

    async def _send(self, link: Link, message: Message, request: int) -> None:
        """Half a frame would cost the connection, so a caller who is cancelled waits for these few bytes."""
        with anyio.move_on_after(self._timing.silence_s, shield=True):
            await link.send(message, request)

    def _take_in(self, link: Link, received: Received) -> None:
        message = received.message
        if isinstance(message, Push) and received.request == self._request:
            self._spent_bytes += message.body_bytes
            self._spent_messages += message.messages
            self._cursor.pushed(message)
        elif isinstance(message, Error) and received.request == self._request:
            error = _as_told(link, message)
            if isinstance(error, Trimmed) and self._cursor.begin_again():
                raise LinkLost(error.message)
            raise error
        elif not isinstance(message, Pong):
            raise LinkLost(f"{link.address} sent {message.NAME} into a subscription")
        self._troubled_at = None
        self._refusals.clear()
        self._backoff.reset()

    async def _lose_link(self, reason: str) -> None:
        self._servers.last_problem = reason
        if self._link is not None:
            self._refusals.note(self._link.address)
        if self._troubled_at is None:
            self._troubled_at, self._tries = anyio.current_time(), 0
        await self._drop_link()

    async def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.aclose()


def _as_told(link: Link, answer: Error) -> Exception:
    """What to raise for a node's answer: the subscriber's fault, or a defect, goes to the subscriber; what this node
    can't do another may be able to."""
    error = answer.exception()
    if isinstance(error, BadRequest | ContinuityError | Trimmed):
        return error
    return LinkLost(f"{link.address}: {error.message}")
