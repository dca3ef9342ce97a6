"""The door: `connect` gives a `Client`, with which one publishes, subscribes and looks around.

A client owns one pipeline for `Client.publish` and its like, which all tasks share: what they publish at the same time
travels together. Each `Publisher` has a pipeline of its own, each `Subscription` a connection of its own. Connections
are made when they are needed; nothing here fails because a node is down, only because none is up for ``timeout``.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from lanyinglog import service
from lanyinglog.client import inquiry
from lanyinglog.client.acks import Ack, Acks, Pending
from lanyinglog.client.cursor import Cursor, check_filters, parse_start, parse_until
from lanyinglog.client.leader import SERVERS_MAX, Servers
from lanyinglog.client.outbox import BATCH_BYTES_MAX
from lanyinglog.client.publisher import BatchMessage, Publisher, PublisherSettings
from lanyinglog.client.subscription import Subscription
from lanyinglog.client.timing import Timing
from lanyinglog.config import CLIENT_PORT, Address, parse_addresses
from lanyinglog.errors import BadRequest, NotSent
from lanyinglog.record import MESSAGES_MAX
from lanyinglog.service import TopicStat
from lanyinglog.wire.messages import DEFAULT_LOG, MemberAdd, MemberRemove

TIMEOUT_S = 30.0
ServerNames = str | Address | Sequence[str | Address]


@asynccontextmanager
async def connect(
    servers: ServerNames = f"127.0.0.1:{CLIENT_PORT}",
    *,
    log: str = DEFAULT_LOG,
    timeout: float = TIMEOUT_S,
    timing: Timing | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Client]:
    """A client of the cluster that ``servers`` belong to: ``host:port`` (port 7420 if left out), several with commas
    or as a list. One that is up is enough: it tells of the others.

    ``timeout`` is how long, in seconds, operations try before they fail; `float("inf")` is allowed. Works under asyncio
    and trio. ``tls``, for a cluster that speaks TLS, trusts its authority and has a certificate to show
    (docs/security.md). `ConfigError` for a bad address.
    """
    known = Servers(parse_servers(servers), log=log, timing=timing or Timing(), tls=tls)
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        client = Client(known, tasks, timeout=check_timeout(timeout))
        try:
            async with client:
                yield client
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            failure = error  # kept out of the task group, which would wrap it into an exception group
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def parse_servers(servers: ServerNames) -> list[Address]:
    """``servers`` as addresses, 1 to 64. `ConfigError`, `BadRequest`."""
    addresses: list[Address] = []
    for one in [servers] if isinstance(servers, str | Address) else servers:
        named = parse_addresses("servers", one, default_port=CLIENT_PORT) if isinstance(one, str) else [Address(*one)]
        addresses += named
    if not 1 <= len(addresses) <= SERVERS_MAX:
        raise BadRequest(f"a client needs 1 to {SERVERS_MAX} servers, not {len(addresses)}")
    return addresses


def check_timeout(timeout: float) -> float:
    """``timeout`` if it is one, in seconds."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise BadRequest(f"timeout must be seconds above 0, not {timeout!r}")
    return timeout


class Client:
    """See the module; made by `connect`. Tasks may share it."""

    def __init__(self, servers: Servers, tasks: TaskGroup, *, timeout: float) -> None:
        self._servers = servers
        self._tasks = tasks
        self._timeout = timeout
        self._newest_acked = 0
        self._shared = Publisher(
            servers, tasks, PublisherSettings(stop_at_failure=False), timeout=timeout, on_ack=self._note_ack
        )

    async def __aenter__(self) -> Self:
        await self._shared.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._shared.aclose()  # no flush: whoever published waits for it himself, or has given up

    @property
    def unanswered(self) -> str | None:
        """Why no server has answered so far: empty before the first was tried, None once one has."""
        return self._servers.unanswered

    def _note_ack(self, ack: service.Ack) -> None:
        self._newest_acked = max(self._newest_acked, ack.first_seq + ack.count - 1)

    # ------------------------------------------------------------------------------------------------- publishing
    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        key: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Ack:
        """Publish one message; returns when it is on disk on a majority (P1).

        Raises `BadTopic`, `BadBatch`, `TypeError` for a message that can't be; when time is up `NotSent` if it can't
        have been stored, else `OutcomeUnknown` (P7). It is retried without being doubled until then (P4).
        """
        pending = Pending(1)
        add = partial(self._shared.add, topic, payload, key=key, headers=headers, pending=pending)
        return (await self._publish(add, pending, timeout))[0]

    async def publish_many(self, topic: str, payloads: Iterable[bytes], *, timeout: float | None = None) -> Acks:
        """Publish ``payloads``, in as many batches as they need; returns when all are stored. See `publish`.

        `OutcomeUnknown` also when a part is stored and another is not.
        """
        payloads = list(payloads)
        if not payloads:
            return Acks(())
        pending = Pending(len(payloads))
        return await self._publish(partial(self._shared.add_many, topic, payloads, pending), pending, timeout)

    async def publish_batch(self, messages: Iterable[BatchItem], *, timeout: float | None = None) -> Acks:
        """Publish ``messages``, each ``(topic, payload)`` and maybe key and headers, as one batch: all of them become
        visible together or none does (P3). `BadBatch` if they don't fit one batch. See `publish`."""
        batch = [BatchMessage(*message) for message in messages]
        if not batch:
            return Acks(())
        pending = Pending(len(batch))
        return await self._publish(partial(self._shared.add_whole, batch, pending), pending, timeout)

    def batch(self, *, timeout: float | None = None) -> BatchBuilder:
        """``async with client.batch() as b: b.add(...)``: what was added is published as one batch at the end (P3),
        unless the block is left with an exception. ``b.acks`` has the acknowledgements afterwards."""
        return BatchBuilder(self, timeout)

    async def _publish(self, add: Callable[[], bool], pending: Pending, timeout: float | None) -> Acks:
        timeout = self._timeout if timeout is None else check_timeout(timeout)
        queued = False
        with anyio.move_on_after(timeout):
            await self._shared.wait_room()
            queued = True
            self._shared.wake_if(add())
            try:
                return await pending.wait_all()
            except anyio.get_cancelled_exc_class():
                if not pending.done:
                    unsettled = self._shared.withdraw(pending)
                raise
        reason = f"no acknowledgement within {timeout:g} s: {self._servers.last_problem}"
        if not queued:
            raise NotSent(reason)
        if pending.done:
            return pending.result()
        raise type(unsettled)(reason)

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
        """A pipeline for many messages: ``async with client.publisher() as p: await p.send(...)``.

        ``linger``: seconds that a batch which is not full waits for more. ``batch_bytes`` and
        ``batch_messages``: where it is full.
        ``compression``: ``lz4``, ``zstd`` or None. ``buffer_bytes``: what may wait to be sent; beyond it
        `Publisher.send` waits.
        ``timeout``: how long there may be no acknowledgement before it fails. ``on_ack`` is told of every batch;
        what it raises ends the publisher.
        `BadRequest` for settings out of bounds.
        """
        settings = PublisherSettings(
            linger=linger,
            batch_bytes=batch_bytes,
            batch_messages=batch_messages,
            compression=compression,
            buffer_bytes=buffer_bytes,
            batches_in_flight=batches_in_flight,
        )
        patience = self._timeout if timeout is None else check_timeout(timeout)

        def note(ack: service.Ack) -> None:
            self._note_ack(ack)
            if on_ack is not None:
                on_ack(ack)

        return Publisher(self._servers, self._tasks, settings, timeout=patience, on_ack=note)

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
        """Messages of all topics that match ``filter`` (or one of several), from ``start`` on, as they come.

        ``start``: ``first`` is the oldest message there is, ``new`` the next one published, a number that seq, a
        `datetime` the first at or after it (``start_timestamp``: the same in ns). ``until``: end behind that seq;
        ``last``: behind the newest there is now. ``timeout``: how long no node may be of use before it fails.
        `BadTopic`, `BadRequest` for arguments that make no sense.
        """
        cursor = Cursor(check_filters(filter), parse_start(start, start_timestamp), until=parse_until(until))
        return Subscription(
            self._servers,
            self._tasks,
            cursor,
            timeout=self._timeout if timeout is None else check_timeout(timeout),
            newest=self._newest_seq,
            until_last=until == "last",
        )

    async def _newest_seq(self, timeout: float) -> int:
        return max(await inquiry.newest_seq(self._servers, timeout=timeout), self._newest_acked)

    # ------------------------------------------------------------------------------------------------ looking around
    async def topics(self, filter: str = ">") -> list[TopicStat]:
        """The topics that match, by name: messages, bytes, newest seq and timestamp of each, as some node sees them."""
        return await inquiry.list_topics(self._servers, filter, timeout=self._timeout)

    async def transfer_leadership(self, node: str | None = None) -> str:
        """Have the leader hand over to ``node`` (a node's name), or to whom it thinks best; returns who leads then.

        `BadRequest` for a node that there is not, `HandoverFailed` if it did not take over: all is as before then."""
        return await inquiry.transfer_leadership(self._servers, node, timeout=self._timeout)

    async def log_info(self) -> dict[str, Any]:
        """What the log keeps (``max_age_s``, ``max_bytes``, ``max_messages``; None is no limit) and has (``first_seq``,
        ``last_seq``, ``messages``, ``bytes`` ...), as its leader sees it."""
        return await inquiry.log_info(self._servers, None, timeout=self._timeout)

    async def set_retention(self, **limits: int | None) -> dict[str, Any]:
        """Change what the log keeps: ``age_s``, ``bytes``, ``messages``; None for no limit, those not named stay. What
        a limit excludes is given up at once. Returns what `log_info` does. `BadRequest` for one that makes no sense."""
        return await inquiry.log_info(self._servers, limits, timeout=self._timeout)

    async def purge(self, filter: str) -> dict[str, Any]:
        """Have nobody read any more, on any node, what topics that match ``filter`` have so far. Other topics, seqs and
        what is published later stay as they are; the space comes back as retention trims. Returns what `log_info`
        does. `BadTopic`."""
        return await inquiry.purge(self._servers, filter, timeout=self._timeout)

    async def add_member(self, node: str, peer: str) -> dict[str, Any]:
        """Have ``node``, which listens for peers at ``peer`` (``host:port``), join the cluster. Returns ``members`` and
        ``departed`` once it is committed that it belongs; it votes when it has caught up. `BadRequest`."""
        return await inquiry.change_members(
            self._servers, MemberAdd(node, peer, self._servers.log), timeout=self._timeout
        )

    async def remove_member(self, node: str) -> dict[str, Any]:
        """Have ``node`` leave the cluster for good; a leader hands over first. Returns ``members`` and ``departed``.
        `BadRequest` if too few of the others could decide then, with what can be done."""
        return await inquiry.change_members(self._servers, MemberRemove(node, self._servers.log), timeout=self._timeout)

    async def status(self) -> list[dict[str, Any]]:
        """How each node is (role, term, positions ...), by name; of one that does not answer only ``client`` and
        ``role``: ``unreachable``. `Unavailable` if none does."""
        return await inquiry.cluster_status(self._servers, timeout=self._timeout)


BatchItem = (
    tuple[str, bytes] | tuple[str, bytes, bytes | None] | tuple[str, bytes, bytes | None, Mapping[str, str] | None]
)


class BatchBuilder:
    """Collects the messages of one batch; made by `Client.batch`."""

    def __init__(self, client: Client, timeout: float | None) -> None:
        self._client = client
        self._timeout = timeout
        self._messages: list[BatchMessage] = []
        self.acks: Acks | None = None
        """Once published, in the order of the calls of `add`."""

    def add(
        self, topic: str, payload: bytes, *, key: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """One more message."""
        self._messages.append(BatchMessage(topic, payload, key, headers))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.acks = await self._client.publish_batch(self._messages, timeout=self._timeout)
