"""Handing bytes to a socket without waiting for it.

Who has something to say while nothing else waits to be said need not wake the task that writes: the system usually
takes it at once. What it does not take is that task's.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import trio


def sender_of(stream: trio.abc.Stream) -> Callable[[bytes | memoryview], int] | None:
    """``send_now(data)`` for ``stream``: how much of ``data`` the system took, 0 if that can't be done now.

    To be called only while nothing else is being written. A plain socket has one, and a stream may have one of its own;
    else None."""
    if not isinstance(stream, trio.SocketStream):
        return getattr(stream, "send_now", None)
    socket = stream.socket

    def send_now(data: bytes | memoryview) -> int:
        try:
            return os.write(socket.fileno(), data)
        except OSError:
            return 0  # full, or broken, or closed: who writes finds out

    return send_now
