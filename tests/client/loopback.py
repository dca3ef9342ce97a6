"""A small cluster on loopback, in a thread: real sessions and sockets, logs in memory, and a proxy that can be cruel.

All nodes share one log, of which one node is the leader. Clients see the addresses of proxies, one before each node;
a proxy can cut its connections, stop forwarding, be closed, or cut each connection after so many bytes. The thread
has its own trio loop, so that clients under test may run under asyncio, trio, or none.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import trio
from memory_service import MemoryLogService, MemoryTicket

from lanyinglog.client.timing import Timing
from lanyinglog.config import Limits
from lanyinglog.errors import CorruptEntry, LanyingError, NotLeader
from lanyinglog.record import BatchView
from lanyinglog.service import Page
from lanyinglog.session import NodeIdentity, serve_clients
from lanyinglog.tls import Tls

QUICK = Timing(
    connect_s=0.5, head_start_s=0.02, silence_s=0.4, stall_s=1.0, backoff_first_s=0.002, backoff_max_s=0.02,
    refused_max_s=0.05,
)  # fmt: skip
"""Patience for tests: loopback answers in a millisecond."""
T = TypeVar("T")
LIMITS = Limits()


class Node(MemoryLogService):
    """One node's door to the log that all share; only the leader takes batches."""

    def __init__(self, cluster: Loopback, name: str, log: MemoryLogService) -> None:
        super().__init__(node=name)
        self._cluster = cluster
        self._log = log
        self.address = ""
        self.lag = 0  # messages that this node has not heard of yet
        self.stays_at: int | None = None  # the newest message that this node ever hears of
        self.damaged: int | None = None  # a seq that this node can't read

    @property
    def last_seq(self) -> int:
        if self.stays_at is not None:
            return self.stays_at
        return max(0, self._log.last_seq - self.lag)

    def submit(self, batch: BatchView, *, received: float) -> MemoryTicket:
        self._check_leads()
        ticket = self._log.submit(batch, received=received)
        self._cluster.submitted.release()
        return ticket

    def _check_leads(self) -> None:
        leader = self._cluster.leader
        if leader is not self:
            raise NotLeader("not me", hint=leader.address if leader else None)

    @property
    def has_room(self) -> bool:
        return self._log.has_room

    async def wait_room(self) -> None:
        await self._log.wait_room()

    async def read(self, *, after: int, filters: Sequence[str], messages_max: int, bytes_max: int) -> Any:
        if after >= self.last_seq:
            return Page((), after, 0, 0)
        if self.damaged == after + 1:
            raise CorruptEntry(f"the entry with seq {self.damaged} fails its CRC32C")
        if self.damaged is not None:
            messages_max = 1
        last_seq = self.last_seq
        messages_max = min(messages_max, last_seq - after)
        page = await self._log.read(after=after, filters=filters, messages_max=messages_max, bytes_max=bytes_max)
        if page.items:  # runs come whole
            last_seq = max(last_seq, page.items[-1].first_seq + page.items[-1].count - 1)
        return page._replace(through=min(page.through, last_seq))

    def read_now(self, *, after: int, filters: Sequence[str], messages_max: int, bytes_max: int) -> Any:
        if self.damaged is not None or self.lag or self.stays_at is not None:
            return None
        return self._log.read_now(after=after, filters=filters, messages_max=messages_max, bytes_max=bytes_max)

    async def wait_beyond(self, seq: int) -> None:
        while self.last_seq <= seq:
            await self._log.wait_beyond(max(seq + self.lag, self._log.last_seq))

    async def seq_at_time(self, timestamp: int) -> int:
        return min(await self._log.seq_at_time(timestamp), self.last_seq + 1)

    async def newest_seq(self) -> int:
        self._check_leads()
        return self.last_seq

    def topics(self, *, after: str, topics_max: int) -> Any:
        return self._log.topics(after=after, topics_max=topics_max)

    def status(self) -> dict[str, Any]:
        leader = self._cluster.leader
        others = [node for node in self._cluster.nodes if node is not self]
        return super().status() | {
            "client": self.address,
            "role": "leader" if leader is self else "candidate" if self.cut_off else "follower",
            "leader": leader.node if leader else None,
            "leader_client": leader.address if leader else None,
            "last_seq": self.last_seq,
            "peers": {node.node: {"client": node.address} for node in others},
        }


class Proxy:
    """Forwards to ``port``; see the module. Its methods are called in the loop's thread."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._scopes: set[trio.CancelScope] = set()
        self._flowing = trio.Event()
        self._flowing.set()
        self.refuses = False
        self.bytes_max: Callable[[], int] | None = None
        """How many bytes a connection lives, in both directions together."""
        self.connections = 0

    def cut(self) -> None:
        """Drop all connections, whatever they carry."""
        for scope in list(self._scopes):
            scope.cancel()

    def freeze(self) -> None:
        """Accept and hold everything, forward nothing: a node that is paused."""
        self._flowing = trio.Event()

    def thaw(self) -> None:
        self._flowing.set()

    async def serve(self, stream: trio.SocketStream) -> None:
        if self.refuses:
            await trio.aclose_forcefully(stream)
            return
        self.connections += 1
        left = [self.bytes_max() if self.bytes_max else None]
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                upstream = await trio.open_tcp_stream("127.0.0.1", self._target)
                async with stream, upstream, trio.open_nursery() as nursery:
                    nursery.start_soon(self._forward, stream, upstream, left, scope)
                    nursery.start_soon(self._forward, upstream, stream, left, scope)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                pass  # either side went away: so does the other
            except BaseExceptionGroup as group:
                if group.split((trio.BrokenResourceError, trio.ClosedResourceError, trio.Cancelled))[1]:
                    raise
            finally:
                self._scopes.discard(scope)
                await trio.aclose_forcefully(stream)

    async def _forward(
        self, source: trio.SocketStream, sink: trio.SocketStream, left: list[int | None], scope: trio.CancelScope
    ) -> None:
        while chunk := await source.receive_some(16_384):
            await self._flowing.wait()
            if left[0] is not None:
                chunk, left[0] = chunk[: left[0]], left[0] - len(chunk[: left[0]])
            await sink.send_all(chunk)
            if left[0] == 0:
                break
        scope.cancel()


class Loopback:
    """See the module. Made by `loopback`."""

    def __init__(self, tls: Tls | None) -> None:
        self.log = MemoryLogService()
        self._tls = tls
        self.nodes: list[Node] = []
        self.proxies: list[Proxy] = []
        self.leader: Node | None = None
        self._token: trio.lowlevel.TrioToken
        self._nursery: trio.Nursery
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self.submitted = threading.Semaphore(0)
        """Released for every batch that the leader took."""

    @property
    def servers(self) -> list[str]:
        """The addresses of all nodes, that is, of their proxies."""
        return [node.address for node in self.nodes]

    def do(self, function: Callable[..., T], *args: Any) -> T:
        """Call ``function`` in the loop's thread."""
        done: Future[T] = Future()

        def act() -> None:
            try:
                done.set_result(function(*args))
            except BaseException as error:
                done.set_exception(error)

        self._token.run_sync_soon(act)
        return done.result()

    async def wait_submitted(self) -> None:
        """Returns when the leader took one more batch; fails after 10 s. For asyncio and trio."""
        assert await anyio.to_thread.run_sync(partial(self.submitted.acquire, timeout=10)), "no batch came"

    def lead(self, place: int | None) -> None:
        """From now on that node leads, or none."""
        self.do(setattr, self, "leader", None if place is None else self.nodes[place])

    def cut_off(self, place: int) -> None:
        """From now on that node hears nothing from the others. Called in the loop's thread."""
        node = self.nodes[place]
        node.cut_off, node.stays_at = True, node.last_seq

    def heal(self, place: int) -> None:
        """The contrary of `cut_off`."""
        node = self.nodes[place]
        node.cut_off, node.stays_at = False, None

    def depose(self, place: int | None, error: LanyingError) -> None:
        """The leader loses its office, its held batches end with ``error``, and another leads."""

        def act() -> None:
            self.leader = None if place is None else self.nodes[place]
            self.log.fail_pending(error)

        self.do(act)

    def serve(self, handler: Callable[[trio.SocketStream], Awaitable[None]]) -> str:
        """One more server, which does whatever ``handler`` does; its address."""

        def start() -> str:
            door = socket.create_server(("127.0.0.1", 0))
            door.setblocking(False)
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(door))
            self._nursery.start_soon(trio.serve_listeners, _shielded(handler), [listener])
            return _address_of(listener)

        return self.do(start)

    # ------------------------------------------------------------------------------------------------------ thread
    def run(self, nodes: int) -> None:
        try:
            trio.run(self._main, nodes)
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self, count: int) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            for place in range(count):
                await self._add_node(f"n{place + 1}")
            self.leader = self.nodes[0]
            self._ready.set()
            await trio.sleep_forever()

    async def _add_node(self, name: str) -> None:
        node = Node(self, name, self.log)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        serve = partial(serve_clients, listeners, {"main": node}, identity=NodeIdentity(name, "twin"), limits=LIMITS)
        await self._nursery.start(partial(serve, tls=self._tls))
        proxy = Proxy(listeners[0].socket.getsockname()[1])
        front = await self._nursery.start(partial(trio.serve_tcp, proxy.serve, 0, host="127.0.0.1"))
        node.address = _address_of(front[0])
        self.nodes.append(node)
        self.proxies.append(proxy)

    def stop(self) -> None:
        self.do(self._nursery.cancel_scope.cancel)


def _address_of(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()
    return f"{host}:{port}"


def _shielded(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    async def serve(stream: trio.SocketStream) -> None:
        try:
            await handler(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has had enough
        finally:
            await trio.aclose_forcefully(stream)

    return serve


@contextmanager
def loopback(nodes: int = 1, *, tls: Tls | None = None) -> Iterator[Loopback]:
    """A running cluster of ``nodes``; the first leads."""
    cluster = Loopback(tls)
    thread = threading.Thread(target=cluster.run, args=(nodes,), name="loopback")
    thread.start()
    cluster._ready.wait()
    try:
        if cluster._failure is None:
            yield cluster
    finally:
        if cluster._failure is None:
            cluster.stop()
        thread.join()
    if cluster._failure is not None:
        raise cluster._failure


@asynccontextmanager
async def cutting(cluster: Loopback, seed: int, low: int, high: int) -> AsyncIterator[None]:
    """Inside, each connection lives for ``low`` to ``high`` bytes."""
    dice = random.Random(seed)

    def set_all(bytes_max: Callable[[], int] | None) -> None:
        for proxy in cluster.proxies:
            proxy.bytes_max = bytes_max

    cluster.do(set_all, lambda: dice.randint(low, high))
    try:
        yield
    finally:
        cluster.do(set_all, None)
