"""A client reduced to its words: what tests of a session say to it, and what they hear."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio
import trio.testing
from memory_service import MemoryLogService

from lanyinglog import config
from lanyinglog.record import Message as LogMessage
from lanyinglog.record import OutgoingMessage, decode_run, encode_batch, encode_run, parse_batch
from lanyinglog.service import LogService
from lanyinglog.session import NodeIdentity, serve_session
from lanyinglog.session.hub import Hub
from lanyinglog.session.poller import Poller
from lanyinglog.wire.connection import Connection, Received, Role
from lanyinglog.wire.messages import (
    Credit,
    Error,
    Hello,
    Message,
    Origin,
    Ping,
    Pong,
    Publish,
    Push,
    Start,
    Subscribe,
    Subscribed,
    Welcome,
)

IDENTITY = NodeIdentity("n1", "test")
FIRST = Start(Origin.FIRST)
NEW = Start(Origin.NEW)
PLENTY = 1 << 30
PATIENCE_S = 5.0
M = TypeVar("M", bound=Message)
Pair = tuple[trio.abc.Stream, trio.abc.Stream]


def batch(
    number: int, topics: str | Sequence[str] = "t", *, producer: int = 1, size: int = 10, count: int = 1
) -> bytes:
    """Batch ``number`` of ``producer``: a run of ``count`` messages of ``size`` bytes for each of ``topics``."""
    names = [topics] if isinstance(topics, str) else topics
    runs = [
        encode_run(name, [OutgoingMessage(f"{number}.{place}".encode().ljust(size, b".")) for place in range(count)])
        for name in names
    ]
    return encode_batch(producer.to_bytes(16, "big"), number, runs)


def fill(service: MemoryLogService, batches: Sequence[bytes]) -> None:
    """Commits ``batches`` without a client."""
    for each in batches:
        service.submit(parse_batch(each), received=0.0)


def memory_pair() -> Pair:
    """What is sent waits in memory, without bound."""
    return trio.testing.memory_stream_pair()


def socket_pair() -> Pair:
    """What is sent goes through the system, at once as long as its buffers last."""
    left, right = trio.socket.socketpair()
    return trio.SocketStream(left), trio.SocketStream(right)


class Client:
    """One end of a stream whose other end is a session."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._wire = Connection(Role.CLIENT)
        self._received: deque[Received] = deque()

    async def hello(self) -> Welcome:
        await self.send(Hello(client="dialogue"), 0)
        return await self.expect(Welcome, 0)

    async def send(self, message: Message, request: int) -> None:
        await self.stream.send_all(self._wire.send(message, request))

    async def receive(self) -> Received:
        """The next message; `EOFError` at the end of the stream."""
        with trio.fail_after(PATIENCE_S):
            while not self._received:
                arrived = await self.stream.receive_some(65_536)
                if not arrived:
                    raise EOFError
                self._received += self._wire.receive(arrived)
        return self._received.popleft()

    async def expect(self, kind: type[M], request: int) -> M:
        """The next message, which is a ``kind`` for ``request``."""
        received = await self.receive()
        assert isinstance(received.message, kind), received
        assert received.request == request
        return received.message

    async def ask(self, message: Message, request: int, kind: type[M]) -> M:
        await self.send(message, request)
        return await self.expect(kind, request)

    async def expect_error(self, code: str, request: int) -> Error:
        error = await self.expect(Error, request)
        assert error.code == code, error
        return error

    async def expect_end(self) -> None:
        try:
            received = await self.receive()
        except EOFError:
            return
        raise AssertionError(f"expected the end, got {received}")

    async def is_served(self, request: int = 999) -> bool:
        """Whether the connection still answers, with nothing else in between."""
        return isinstance(await self.ask(Ping(), request, Pong), Pong)

    async def publish(self, encoded: bytes, request: int, kind: type[M]) -> M:
        return await self.ask(Publish(encoded), request, kind)

    async def subscribe(
        self,
        *filters: str,
        start: Start = FIRST,
        request: int = 7,
        messages: int = PLENTY,
        size: int = PLENTY,
    ) -> Reader:
        await self.send(Subscribe(filters or (">",), start, messages, size), request)
        subscribed = await self.expect(Subscribed, request)
        return Reader(self, request, subscribed)


@dataclass
class Reader:
    """A subscription, whose continuity is checked at every push."""

    client: Client
    request: int
    subscribed: Subscribed
    through: int = -1

    def __post_init__(self) -> None:
        self.through = self.subscribed.next_seq - 1

    async def push(self) -> Push:
        push = await self.client.expect(Push, self.request)
        assert push.prev == self.through, f"a push behind {push.prev}, the last one ended at {self.through}"
        self.through = push.through
        return push

    def messages_in(self, push: Push) -> list[LogMessage]:
        """What the subscriber sees of ``push``: what came before its start in the first run is cut off."""
        decoded = [
            message
            for item in push.items
            for message in decode_run(item.run, first_seq=item.first_seq, timestamp=item.timestamp)
        ]
        return [message for message in decoded if message.seq > push.prev]

    async def messages(self, count: int) -> list[LogMessage]:
        """The next ``count`` messages, no more and no fewer."""
        found: list[LogMessage] = []
        while len(found) < count:
            found += self.messages_in(await self.push())
        assert len(found) == count
        return found

    async def until(self, seq: int) -> list[LogMessage]:
        """All messages up to ``seq``."""
        found: list[LogMessage] = []
        while self.through < seq:
            found += self.messages_in(await self.push())
        return found

    async def give(self, messages: int, size: int) -> None:
        await self.client.send(Credit(messages, size), self.request)


class House:
    """A nursery of sessions over memory streams."""

    def __init__(self, nursery: trio.Nursery, services: Mapping[str, LogService], limits: config.Limits) -> None:
        self.nursery = nursery
        self.services = services
        self.hubs = {name: Hub(service) for name, service in services.items()}
        self.limits = limits
        for hub in self.hubs.values():
            nursery.start_soon(hub.run)
        self.poller = Poller()  # serves the connections that are sockets
        nursery.start_soon(self.poller.run)
        self.ended = 0
        self._one_ended = trio.Event()
        self._streams: list[trio.abc.Stream] = []

    pair = staticmethod(memory_pair)
    """Makes the two ends of a connection."""

    async def _serve(self, stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
        with scope:
            await serve_session(
                stream, self.services, hubs=self.hubs, identity=IDENTITY, limits=self.limits, poller=self.poller
            )
        self.ended += 1
        self._one_ended.set()
        self._one_ended = trio.Event()

    def stranger(self, *, lockstep: bool = False, scope: trio.CancelScope | None = None) -> Client:
        """A connection that has said nothing yet. ``lockstep``: nothing is buffered between the two sides."""
        pair = trio.testing.lockstep_stream_pair() if lockstep else self.pair()
        self.nursery.start_soon(self._serve, pair[0], scope or trio.CancelScope())
        self._streams.append(pair[1])
        return Client(pair[1])

    async def hang_up(self) -> None:
        """All clients go away, so that no session has to wait for one."""
        for stream in self._streams:
            await trio.aclose_forcefully(stream)

    async def client(self, *, lockstep: bool = False, scope: trio.CancelScope | None = None) -> Client:
        """A connection that was welcomed."""
        client = self.stranger(lockstep=lockstep, scope=scope)
        await client.hello()
        return client

    async def wait_ended(self, count: int = 1) -> None:
        """Returns when ``count`` sessions have ended."""
        with trio.fail_after(PATIENCE_S):
            while self.ended < count:
                await self._one_ended.wait()


@asynccontextmanager
async def house(*services: MemoryLogService, limits: config.Limits | None = None) -> AsyncIterator[House]:
    """Sessions on ``services``; none of them may end by an exception."""
    logs = {service.name: service for service in services or (MemoryLogService(),)}
    async with trio.open_nursery() as nursery:
        at = House(nursery, logs, limits or config.Limits())
        try:
            yield at
        finally:
            with trio.CancelScope(shield=True):
                await at.hang_up()
        nursery.cancel_scope.cancel()
