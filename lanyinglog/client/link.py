"""One open connection to one node: messages out, messages in. It knows nothing of leaders, producers or positions.

The only place of the client that opens a stream, so that encryption has one place. A connection is used by
one sender and one receiver at a time. Whatever ends it, at either side, is `LinkLost` here: what that means for a
request is for the layers above to say.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from lanyinglog.client.timing import Timing
from lanyinglog.config import Address
from lanyinglog.errors import ProtocolError, UnsupportedVersion
from lanyinglog.tls import WITHOUT_A_WORD
from lanyinglog.wire.connection import Connection, Received, Role
from lanyinglog.wire.frames import REQUEST_MAX
from lanyinglog.wire.messages import Error, Hello, Message, Ping, Status, StatusReply, Welcome

RECEIVE_BYTES = 1 << 18
"""Read at a time: a full push in few reads."""
SEND_BYTES = 1 << 16
"""Sent at a time: each piece that the node's side takes is a sign of life, however slow the network is."""
SEND_BYTES_MAX = 1 << 18
"""The same where pieces go quickly: each costs a turn of the event loop. The system's buffer swallows the first ones of
a slow network as well, so this is what such a network must take in `Timing.silence_s`."""
QUICK_S = 0.05
"""A piece that went in so long may be followed by one of twice the size."""
T = TypeVar("T")


class LinkLost(Exception):
    """The connection ended, or must be given up. Never leaves the client."""


class Link:
    """An open connection, welcome included. Made by `Link.open`, ended by `aclose`."""

    def __init__(self, address: Address, stream: ByteStream) -> None:
        self.address = address
        self.welcome: Welcome
        self.heard_at = anyio.current_time()
        """When the node last gave a sign of life (the event loop's seconds)."""
        self._stream = stream
        self._protocol = Connection(Role.CLIENT)
        self._last_request = 0
        self._piece_bytes = SEND_BYTES
        self._half_sent = False
        self._ended: str | None = None  # why nothing may be sent any more
        self._greeted = False

    @classmethod
    async def open(cls, address: Address, timing: Timing, tls: ssl.SSLContext | None = None) -> Link:
        """A new connection to ``address``, through ``tls`` if it is given. `LinkLost` if it can't be had, each step
        within ``timing.connect_s``; an `UnsupportedVersion` if this client is the wrong one for this node."""
        link = cls(address, await _open_stream(address, timing, tls))
        try:
            link.welcome = await _in_time(f"{address} did not answer", timing, link._greet)
        except BaseException:
            await link.aclose()
            raise
        return link

    async def _greet(self) -> Welcome:
        await self._send_parts(self._protocol.send_in_parts(Hello(client="lanyinglog-python"), 0))
        received: list[Received] = []
        while not received:
            received = await self.receive()
        first = received[0].message
        if not isinstance(first, Welcome):
            raise LinkLost(f"{self.address} did not say welcome")
        self._greeted = True
        return first

    def new_request(self) -> int:
        """A request id that no open request has: they count up, and start again after four billion."""
        self._last_request = self._last_request % REQUEST_MAX + 1
        return self._last_request

    async def send(self, message: Message, request: int) -> None:
        """Sends a whole message; cancelled in its middle it leaves a connection that can only be closed."""
        if self._ended is not None:
            raise LinkLost(self._ended)  # who receives knows already; who sends may have its turn before it is told
        await self._send_parts(self._protocol.send_in_parts(message, request))

    async def _send_parts(self, parts: Sequence[bytes | memoryview]) -> None:
        if self._half_sent:
            raise LinkLost(f"a frame to {self.address} was cut off")
        self._half_sent = True
        try:
            if sum(map(len, parts)) <= SEND_BYTES:
                await self._stream.send(b"".join(parts))
            else:
                await self._send_in_pieces(*parts)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise LinkLost(f"the connection to {self.address} broke: {error}") from error  # TLS reads as it sends
        self._half_sent = False

    async def _send_in_pieces(self, *parts: bytes | memoryview) -> None:
        """All but the last part, which is the large one, goes with the first piece of that; others are not copied."""
        rest = memoryview(parts[-1])
        piece: bytes | memoryview = b"".join((*parts[:-1], rest[:SEND_BYTES]))
        rest = rest[SEND_BYTES:]
        while piece:
            began = anyio.current_time()
            await self._stream.send(piece)  # type: ignore[arg-type]  # any buffer will do, on both backends
            self.heard_at = anyio.current_time()
            quick = self.heard_at - began <= QUICK_S
            self._piece_bytes = min(2 * self._piece_bytes, SEND_BYTES_MAX) if quick else SEND_BYTES
            piece, rest = rest[: self._piece_bytes], rest[self._piece_bytes :]

    async def receive(self) -> list[Received]:
        """Waits for bytes; the messages they complete, maybe none. Cancelling it loses nothing."""
        try:
            received = await self._stream.receive(RECEIVE_BYTES)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            at_once = "" if self._greeted else f" {WITHOUT_A_WORD}"
            raise LinkLost(f"{self.address} closed the connection{at_once}") from error
        self.heard_at = anyio.current_time()
        try:
            messages = list(self._protocol.receive(received))
        except ProtocolError as error:
            if isinstance(error, UnsupportedVersion) and not self._greeted:
                raise
            self._ended = f"{self.address} broke the protocol: {error.message}"
            raise LinkLost(self._ended) from error
        for request, message in messages:
            if request == 0 and isinstance(message, Error):
                self._raise_end(message)
        return messages

    def _raise_end(self, error: Error) -> None:
        """The node says why it closes the connection."""
        if error.code == UnsupportedVersion.code and not self._greeted:
            raise error.exception()
        self._ended = f"{self.address} closed the connection: {error.message}"
        raise LinkLost(self._ended)

    async def ask(self, message: Message, *, silence_s: float = math.inf) -> Message:
        """Sends a request and waits for its one reply; for a connection on which nothing else happens. That may take as
        long as it likes if only the node is not silent for ``silence_s``: it is asked by a ping at half of it.

        Raises the `LanyingError` that the node answers with."""
        request = self.new_request()
        await self.send(message, request)
        while True:
            for other, reply in await self._receive_within(silence_s):
                if other != request:
                    continue
                if isinstance(reply, Error):
                    raise reply.exception()
                return reply

    async def _receive_within(self, silence_s: float) -> list[Received]:
        for message in (None, Ping()):
            with anyio.move_on_after(silence_s / 2):
                if message is not None:
                    await self.send(message, self.new_request())
                return await self.receive()
        raise LinkLost(f"{self.address} was silent for {silence_s:g} s")

    async def aclose(self) -> None:
        """Closes it at once, without waiting for anything."""
        await anyio.aclose_forcefully(self._stream)


async def _open_stream(address: Address, timing: Timing, tls: ssl.SSLContext | None) -> ByteStream:
    """A TCP connection, with TLS if there is a context for it; anyio sets TCP_NODELAY on both backends."""
    connect = partial(anyio.connect_tcp, address.host, address.port)
    try:
        stream = await _in_time(f"{address} did not answer", timing, connect)
        return stream if tls is None else await _encrypt(address, stream, timing, tls)
    except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
        raise LinkLost(f"{address} ended the connection during the TLS handshake") from error
    except (OSError, ValueError) as error:  # the latter for what is no name of a host
        raise LinkLost(f"{address} can't be reached: {error}") from error


async def _encrypt(address: Address, stream: ByteStream, timing: Timing, tls: ssl.SSLContext) -> ByteStream:
    """TLS over ``stream``, which is closed if that fails."""
    # An end without TLS's good-bye is an end: what matters is framed and counted.
    wrap = partial(TLSStream.wrap, stream, hostname=address.host, ssl_context=tls, standard_compatible=False)
    try:
        return await _in_time(f"{address} did not answer the TLS handshake", timing, wrap)
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


async def _in_time(problem: str, timing: Timing, step: Callable[[], Awaitable[T]]) -> T:
    """One step of opening a connection: one round trip. `LinkLost` with ``problem`` if it takes too long."""
    with anyio.move_on_after(timing.connect_s):
        return await step()
    raise LinkLost(f"{problem} within {timing.connect_s:g} s")


async def ask_status(link: Link, log: str) -> dict[str, object]:
    """The node's view of ``log`` (`lanyinglog.service.LogService.status`)."""
    reply = await link.ask(Status(log))
    if not isinstance(reply, StatusReply):
        raise LinkLost(f"{link.address} answered a status request with {reply.NAME}")
    return dict(reply.status)
