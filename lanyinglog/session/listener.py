"""Accepting clients: at most so many at a time, and the next one is told so."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from lanyinglog.config import Limits
from lanyinglog.errors import Busy
from lanyinglog.service import LogService
from lanyinglog.session.connection import LINGER_S_MAX, NodeIdentity, linger, serve_session
from lanyinglog.session.hub import Hub
from lanyinglog.session.poller import Poller
from lanyinglog.sockets import encrypted
from lanyinglog.tls import Tls
from lanyinglog.wire.messages import Error, to_frame

REFUSALS_MAX = 64
"""Connections that are being told `Busy`; beyond these they are closed without a word."""
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}
"""Seconds (the last: milliseconds) after which a client whose machine is gone is known to be: 60 + 4 x 15 = 120."""


@dataclass(slots=True)
class Served:
    """How many clients are connected."""

    connections: int = 0


async def serve_clients(
    listeners: Sequence[trio.SocketListener],
    services: Mapping[str, LogService],
    *,
    identity: NodeIdentity,
    limits: Limits,
    tls: Tls | None = None,
    served: Served | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``services`` to whoever connects to ``listeners``, until cancelled; then each client hears `ShuttingDown`.
    With ``tls`` it is spoken, and who shows no certificate is not heard. ``served`` tells meanwhile how many there are.

    Closes the listeners in the end. Started with ``nursery.start`` it returns when connections are accepted.
    """
    hubs = {name: Hub(service) for name, service in services.items()}
    poller = Poller.make()
    door = _Door(services, hubs, poller, identity, limits, tls, Served() if served is None else served)
    async with trio.open_nursery() as nursery:
        if poller is not None:
            nursery.start_soon(poller.run)
        for hub in hubs.values():
            nursery.start_soon(hub.run)
        await nursery.start(trio.serve_listeners, door.serve, list(listeners))
        task_status.started()


class _Door:
    """Counts who is inside."""

    def __init__(
        self,
        services: Mapping[str, LogService],
        hubs: Mapping[str, Hub],
        poller: Poller | None,
        identity: NodeIdentity,
        limits: Limits,
        tls: Tls | None,
        served: Served,
    ) -> None:
        self._services = services
        self._hubs = hubs
        self._poller = poller
        self._identity = identity
        self._limits = limits
        self._tls = tls
        self._served = served
        self._refused = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        if self._served.connections >= self._limits.connections_max:
            await self._refuse(stream)
            return
        self._served.connections += 1
        try:
            _keep_alive(stream)
            spoken = await self._secured(stream)
            if spoken is None:
                return
            await serve_session(
                spoken,
                self._services,
                hubs=self._hubs,
                identity=self._identity,
                limits=self._limits,
                poller=self._poller,
            )
        finally:
            self._served.connections -= 1

    async def _secured(self, stream: trio.SocketStream) -> trio.abc.Stream | None:
        """What to speak on; None if the other end has no certificate to show, or no TLS."""
        if self._tls is None:
            return stream
        with trio.move_on_after(self._limits.handshake_s_max):
            try:
                return await encrypted(stream, self._tls.server, to=None)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        await trio.aclose_forcefully(stream)
        return None

    async def _refuse(self, stream: trio.SocketStream) -> None:
        self._refused += 1
        try:
            if self._refused <= REFUSALS_MAX and self._tls is None:
                error = Busy(f"this node serves {self._limits.connections_max} clients already")
                with trio.move_on_after(LINGER_S_MAX):
                    await stream.send_all(to_frame(Error.of(error), 0))
                    await linger(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it left first
        finally:
            self._refused -= 1
            await trio.aclose_forcefully(stream)


def _keep_alive(stream: trio.SocketStream) -> None:
    """Let the system find out about clients that vanished; idle ones cost nothing else."""
    try:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    except OSError:
        return  # it is gone already; the first read will say so
