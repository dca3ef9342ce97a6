"""Bytes to and from a socket by the shortest way.

Who has something to say while nothing else waits to be said need not wake the task that writes: the system usually
takes it at once (`sender_of`). What it does not take is that task's (`writer_of`). And who asks and answers by turns
has read all there is when it reads again: it waits first, instead of being refused and then waiting (`receiver_of`).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

Part = bytes | memoryview


def left(parts: Sequence[Part], taken: int) -> Sequence[Part]:
    """What is left of ``parts`` when so many bytes of them are gone."""
    for place, part in enumerate(parts):
        if taken < len(part):
            return [memoryview(part)[taken:], *parts[place + 1 :]]
        taken -= len(part)
    return ()


def why_broken(error: BaseException) -> str:
    """Why a connection could not be made, or broke, in the system's words: of several attempts, the first one's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        elif isinstance(cause, ssl.SSLError):
            return str(getattr(cause, "verify_message", "") or cause.reason or cause)
        elif isinstance(cause, OSError) and cause.strerror:
            # A name that is not known has a number of its own kind, below 0, and its words.
            return os.strerror(cause.errno) if cause.errno and cause.errno > 0 else cause.strerror
        else:
            cause = cause.__cause__
    return "it did not answer in time" if isinstance(error, trio.TooSlowError) else type(error).__name__


def sender_of(stream: trio.abc.Stream) -> Callable[..., int] | None:
    """``send_now(*parts)`` for ``stream``: how many bytes of ``parts`` the system took, 0 if that can't be done now.

    To be called only while nothing else is being written. A plain socket has one, and a stream may have one of its own;
    else None."""
    if not isinstance(stream, trio.SocketStream):
        return getattr(stream, "send_now", None)
    socket = stream.socket

    def send_now(*parts: Part) -> int:
        try:
            return os.write(socket.fileno(), parts[0]) if len(parts) == 1 else os.writev(socket.fileno(), parts)
        except OSError:
            return 0  # full, or broken, or closed: who writes finds out

    return send_now


class Strangers:
    """Connections of which it is not known yet who is at the other end: ``most`` at a time, each for ``within_s``.

    One more takes the place of the oldest: who means it is done within moments, so that a flood of those who never say
    a word keeps nobody out."""

    def __init__(self, *, most: int, within_s: float) -> None:
        self._most = most
        self._within_s = within_s
        self._scopes: dict[trio.CancelScope, None] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._scopes)

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Around what it takes to find out; `trio.TooSlowError` if that took too long, or had to make room."""
        if len(self._scopes) >= self._most:
            oldest = next(iter(self._scopes))
            del self._scopes[oldest]
            oldest.cancel()
        with trio.move_on_after(self._within_s) as scope:
            self._scopes[scope] = None
            try:
                yield
            finally:
                self._scopes.pop(scope, None)
        if scope.cancelled_caught:
            raise trio.TooSlowError


async def encrypted(stream: trio.SocketStream, context: ssl.SSLContext, *, to: str | None) -> trio.abc.Stream:
    """``stream`` with TLS around it, its handshake done: as who dialled host ``to``, or, with None, was dialled. What
    `trio.SSLStream` raises."""
    around = trio.SSLStream(stream, context, server_hostname=to, server_side=to is None, https_compatible=True)
    await around.do_handshake()
    return around


def descriptor_of(stream: trio.abc.Stream) -> int | None:
    """The file descriptor of ``stream`` if it is a plain socket, else None."""
    return stream.socket.fileno() if isinstance(stream, trio.SocketStream) else None


def receiver_of(stream: trio.abc.ReceiveStream) -> Callable[[int], Awaitable[bytes | bytearray]]:
    """``receive(bytes_max)`` for ``stream``: what its ``receive_some`` gives and raises. One caller at a time."""
    if not isinstance(stream, trio.SocketStream):
        return stream.receive_some
    socket = stream.socket

    async def receive(bytes_max: int) -> bytes:
        while True:
            descriptor = socket.fileno()
            if descriptor < 0:
                raise trio.ClosedResourceError("this socket was closed")
            await trio.lowlevel.wait_readable(descriptor)
            try:
                return os.read(descriptor, bytes_max)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"socket connection broken: {error}") from error

    return receive


def writer_of(stream: trio.abc.SendStream) -> Callable[..., Awaitable[None]]:
    """``write(*parts)`` for ``stream``: what its ``send_all`` does and raises. One caller at a time.

    For what the system takes piece by piece: ``send_all`` costs sixty calls a piece."""
    if not isinstance(stream, trio.SocketStream):
        return lambda *parts: stream.send_all(b"".join(parts))
    socket = stream.socket

    async def write(*parts: Part) -> None:
        rest: Sequence[Part] = parts
        while rest:
            descriptor = socket.fileno()
            if descriptor < 0:
                raise trio.ClosedResourceError("this socket was closed")
            await trio.lowlevel.wait_writable(descriptor)
            try:
                rest = left(rest, os.writev(descriptor, rest))
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"socket connection broken: {error}") from error

    return write
