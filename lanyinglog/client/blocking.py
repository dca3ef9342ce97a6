"""The blocking twin of the client: the same methods, for programs without an event loop. `lanyinglog.sync` is its door.

An event loop runs in a thread of its own and does all the work (`crossing`); here is what crosses between the threads,
and nothing else. A hop costs about 0.1 ms, so bulk does not hop: a publisher's messages go straight into its outbox,
which is made for that, and a subscription's come over in lists.

A call that is interrupted (Ctrl-C) cancels what it began in the loop. Closing cancels whatever is left and waits for
the thread, which by then has nothing to wait for. All objects may be shared between threads, but a subscription, which
belongs to one at a time.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio

from lanyinglog import service
from lanyinglog.client import acks, client, publisher, subscription
from lanyinglog.client.acks import Ack, Acks
from lanyinglog.client.client import TIMEOUT_S, BatchItem, ServerNames, check_timeout
from lanyinglog.client.crossing import Loop
from lanyinglog.client.outbox import BATCH_BYTES_MAX
from lanyinglog.client.publisher import BatchMessage
from lanyinglog.client.timing import Timing
from lanyinglog.config import CLIENT_PORT
from lanyinglog.errors import NotSent, OutcomeUnknown
from lanyinglog.record import MESSAGES_MAX, Message
from lanyinglog.service import TopicStat
from lanyinglog.wire.messages import DEFAULT_LOG

T = TypeVar("T")


def connect(
    servers: ServerNames = f"127.0.0.1:{CLIENT_PORT}",
    *,
    log: str = DEFAULT_LOG,
    timeout: float = TIMEOUT_S,
    timing: Timing | None = None,
    tls: ssl.SSLContext | None = None,
    backend: str = "asyncio",
) -> Client:
    """A client of the cluster that ``servers`` belong to: see `lanyinglog.connect`, of which this is the twin.

    Use it with ``with``, or call `Client.close`. ``backend`` is the event loop of its thread: asyncio or trio.
    """
    return Client(servers, log=log, timeout=timeout, timing=timing, tls=tls, backend=backend)


class Client:
    """Made by `connect`. The methods are those of `lanyinglog.client.client.Client`, where they are described."""

    def __init__(
        self,
        servers: ServerNames,
        *,
        log: str,
        timeout: float,
        timing: Timing | None,
        tls: ssl.SSLContext | None,
        backend: str,
    ) -> None:
        self._loop = Loop(backend)
        try:
            connecting = client.connect(servers, log=log, timeout=timeout, timing=timing, tls=tls)
            self._client = self._loop.enter(connecting)
        except BaseException:
            self._loop.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def unanswered(self) -> str | None:
        """Why no server has answered so far: empty before the first was tried, None once one has."""
        return self._client.unanswered

    def close(self) -> None:
        """End all that is open at once. What was not acknowledged fails; it may be stored all the same."""
        self._loop.close()

    # ------------------------------------------------------------------------------------------------- publishing
    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        key: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Ack:
        """Publish one message; returns when it is on disk on a majority (P1)."""
        publish = self._client.publish
        return self._loop.call(partial(publish, topic, payload, key=key, headers=headers, timeout=timeout))

    def publish_many(self, topic: str, payloads: Iterable[bytes], *, timeout: float | None = None) -> Acks:
        """Publish ``payloads``, in as many batches as they need; returns when all are stored."""
        payloads = list(payloads)
        return self._loop.call(partial(self._client.publish_many, topic, payloads, timeout=timeout))

    def publish_batch(self, messages: Iterable[BatchItem], *, timeout: float | None = None) -> Acks:
        """Publish ``messages`` of any topics as one batch: all become visible together or none does (P3)."""
        messages = list(messages)
        return self._loop.call(partial(self._client.publish_batch, messages, timeout=timeout))

    def batch(self, *, timeout: float | None = None) -> BatchBuilder:
        """``with client.batch() as b: b.add(...)``: published as one batch at the end of the block (P3)."""
        return BatchBuilder(self, timeout)

    def publisher(
        self,
        *,
        linger: float = 0.0,
        batch_bytes: int = BATCH_BYTES_MAX,
        batch_messages: int = MESSAGES_MAX,
        compression: str | None = None,
        buffer_bytes: int = 8 << 20,
        batches_in_flight: int = 16,
        timeout: float | None = None,
        on_ack: Callable[[service.Ack], None] | None = None,
    ) -> Publisher:
        """A pipeline for many messages: ``with client.publisher() as p: p.send(...)``. ``on_ack`` is called in the
        event loop's thread: it must be quick, and may not call this client. What it raises ends the publisher."""
        make = partial(
            self._client.publisher,
            linger=linger,
            batch_bytes=batch_bytes,
            batch_messages=batch_messages,
            compression=compression,
            buffer_bytes=buffer_bytes,
            batches_in_flight=batches_in_flight,
            timeout=timeout,
            on_ack=on_ack,
        )
        return Publisher(self._loop, self._loop.make(make))

    # ------------------------------------------------------------------------------------------------ subscribing
    def subscribe(
        self,
        filter: str | Sequence[str] = ">",
        *,
        start: str | int | datetime = "first",
        start_timestamp: int | None = None,
        until: str | int | None = None,
        timeout: float | None = None,
    ) -> Subscription:
        """Messages of all topics that match: ``with client.subscribe("a.>") as messages: for m in messages: ...``"""
        make = partial(
            self._client.subscribe, filter, start=start, start_timestamp=start_timestamp, until=until, timeout=timeout
        )
        return Subscription(self._loop, self._loop.make(make))

    # ------------------------------------------------------------------------------------------------ looking around
    def topics(self, filter: str = ">") -> list[TopicStat]:
        """The topics that match, by name."""
        return self._loop.call(self._client.topics, filter)

    def transfer_leadership(self, node: str | None = None) -> str:
        """Have the leader hand over; returns who leads then."""
        return self._loop.call(self._client.transfer_leadership, node)

    def log_info(self) -> dict[str, Any]:
        """What the log keeps and has, as its leader sees it."""
        return self._loop.call(self._client.log_info)

    def set_retention(self, **limits: int | None) -> dict[str, Any]:
        """Change what the log keeps: ``age_s``, ``bytes``, ``messages``; None for no limit, those not named stay."""
        return self._loop.call(partial(self._client.set_retention, **limits))

    def purge(self, filter: str) -> dict[str, Any]:
        """Have nobody read any more what topics that match ``filter`` have so far."""
        return self._loop.call(self._client.purge, filter)

    def add_member(self, node: str, peer: str) -> dict[str, Any]:
        """Have ``node`` at the peer address ``peer`` join; who belongs then."""
        return self._loop.call(self._client.add_member, node, peer)

    def remove_member(self, node: str) -> dict[str, Any]:
        """Have ``node`` leave for good; who belongs then."""
        return self._loop.call(self._client.remove_member, node)

    def status(self) -> list[dict[str, Any]]:
        """How each node is, by name."""
        return self._loop.call(self._client.status)


class Pending:
    """A message on its way."""

    __slots__ = ("_loop", "_pending")

    def __init__(self, loop: Loop, pending: acks.Pending) -> None:
        self._loop = loop
        self._pending = pending

    @property
    def done(self) -> bool:
        """Whether its outcome is known."""
        return self._pending.done

    def wait(self, timeout: float | None = None) -> Ack:
        """Its acknowledgement, or the `LanyingError` that says how it ended. `TimeoutError` after ``timeout`` seconds:
        then it is still on its way."""
        if self._pending.done:
            return self._pending.result()[0]
        try:
            return self._loop.call(partial(_within, timeout, self._pending.wait))
        except NotSent as error:
            if self._pending.done:
                return self._pending.result()[0]
            raise OutcomeUnknown(error.message) from error  # the client is just being closed


class Publisher:
    """A pipeline for many messages; made by `Client.publisher`. See `lanyinglog.client.publisher.Publisher`.

    Leaving its ``with`` block waits until everything is acknowledged, and raises the first failure.
    """

    def __init__(self, loop: Loop, made: publisher.Publisher) -> None:
        self._loop = loop
        self._publisher = made

    def __enter__(self) -> Self:
        self._loop.call(self._publisher.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._loop.call(self._publisher.__aexit__, kind, error, trace)
        except NotSent as closed:
            if error is None:
                self._publisher.raise_closed(closed)

    def send(
        self, topic: str, payload: bytes, *, key: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Pending:
        """Queue one message; waits only while the queue is full."""
        self._wait_room()
        pending = acks.Pending(1)
        self._wake_if(self._publisher.add(topic, payload, key=key, headers=headers, pending=pending))
        return Pending(self._loop, pending)

    def send_many(self, topic: str, payloads: Sequence[bytes]) -> None:
        """Queue ``payloads`` as messages of one topic: the cheapest way in; `flush` tells how it went."""
        self._wait_room()
        self._wake_if(self._publisher.add_many(topic, payloads))

    def _wait_room(self) -> None:
        if self._publisher.is_full:
            self._loop.call(self._publisher.wait_room)

    def _wake_if(self, news: bool) -> None:
        if news and self._publisher.needs_wake:
            self._loop.start(self._publisher.wake)

    def flush(self) -> None:
        """Returns when everything sent so far is acknowledged; raises the failure that stopped the publisher."""
        try:
            self._loop.call(self._publisher.flush)
        except NotSent as closed:
            self._publisher.raise_closed(closed)

    def flush_within(self, timeout: float) -> None:
        """`flush`, for ``timeout`` seconds at most: then `TimeoutError`, and what is left is still on its way."""
        self._loop.call(partial(_within, timeout, self._publisher.flush))

    def raise_failure(self) -> None:
        """Raises the failure that stopped the publisher, if one did; for who waits for something else meanwhile."""
        self._publisher.raise_failure()

    @property
    def unknown(self) -> int:
        """Messages that were given up and may be stored all the same; final once the ``with`` block is left."""
        return self._publisher.unknown

    @property
    def acknowledged(self) -> int:
        """Messages acknowledged so far."""
        return self._publisher.acknowledged

    @property
    def first_seq(self) -> int | None:
        """The least seq acknowledged."""
        return self._publisher.first_seq

    @property
    def last_seq(self) -> int | None:
        """The greatest seq acknowledged."""
        return self._publisher.last_seq


class Subscription:
    """Messages in order, without gap or repetition; made by `Client.subscribe`. Use it with ``with``, iterate over it
    for messages, or over `batches` for lists of them."""

    def __init__(self, loop: Loop, made: subscription.Subscription) -> None:
        self._loop = loop
        self._subscription = made
        self._fetching = loop.make(anyio.Lock)
        self._fetched: list[Message] = []
        self._batch: list[Message] = []
        self._at = 0

    def __enter__(self) -> Self:
        self._loop.call(self._subscription.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it. What has arrived and was not handed out is dropped."""
        self._batch, self._fetched, self._at = [], [], 0
        self._loop.call(self._subscription.aclose)

    @property
    def next_seq(self) -> int:
        """Everything that matches below this seq has been handed out: start here to go on another time."""
        for messages in (self._batch[self._at :], self._fetched):
            if messages:
                return messages[0].seq
        return self._subscription.next_seq

    @property
    def until(self) -> int | None:
        """The last seq that is wanted; None for a subscription without end."""
        return self._subscription.until

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        at = self._at
        if at == len(self._batch):
            self._batch, self._at = self._next_fetched(None), 0
            if not self._batch:
                raise StopIteration
            at = 0
        self._at = at + 1
        return self._batch[at]

    def batches(self) -> Iterator[list[Message]]:
        """The same messages, in lists of up to some thousands: what there is, never empty."""
        while batch := self.next_batch():
            yield batch

    def next_batch(self, timeout: float | None = None) -> list[Message]:
        """The next list of messages; empty when there are no more, that is, behind ``until``. `TimeoutError` if none
        came within ``timeout`` seconds: nothing is lost by that."""
        if self._at < len(self._batch):
            rest, self._batch, self._at = self._batch[self._at :], [], 0
            return rest
        return self._next_fetched(timeout)

    def _next_fetched(self, timeout: float | None) -> list[Message]:
        if not self._fetched:
            self._loop.call(self._fetch, timeout)
        # What an interrupted call had fetched is still here, for the next one.
        batch, self._fetched = self._fetched, []
        return batch

    async def _fetch(self, timeout: float | None) -> None:
        await _within(timeout, self._fetch_once)

    async def _fetch_once(self) -> None:
        # A call that was interrupted may still be at it: wait for its end, and take what it has fetched.
        async with self._fetching:
            if not self._fetched:
                self._fetched = await self._subscription.next_batch()


class BatchBuilder:
    """Collects the messages of one batch; made by `Client.batch`."""

    def __init__(self, owner: Client, timeout: float | None) -> None:
        self._client = owner
        self._timeout = timeout
        self._messages: list[BatchMessage] = []
        self.acks: Acks | None = None
        """Once published, in the order of the calls of `add`."""

    def add(
        self, topic: str, payload: bytes, *, key: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """One more message."""
        self._messages.append(BatchMessage(topic, payload, key, headers))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.acks = self._client.publish_batch(self._messages, timeout=self._timeout)


async def _within(timeout: float | None, function: Callable[[], Awaitable[T]]) -> T:
    if timeout is None:
        return await function()
    with anyio.fail_after(check_timeout(timeout)):
        return await function()
