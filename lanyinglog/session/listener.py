"""Accepting clients: at most so many at a time, and the next one is told so."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
import trio

from lanyinglog.config import Limits
from lanyinglog.errors import Busy
from lanyinglog.service import LogService
from lanyinglog.session.connection import LINGER_S_MAX, NodeIdentity, linger, serve_session
from lanyinglog.session.hub import Hub
from lanyinglog.session.poller import Poller
from lanyinglog.sockets import Strangers, encrypted, why_broken
from lanyinglog.tls import Tls
from lanyinglog.wire.messages import Error, to_frame

REFUSALS_MAX = 64
"""Connections that are being told `Busy`; beyond these they are closed without a word."""
UNPROVEN_MAX = 256
"""Connections whose TLS handshake is under way: see `sockets.Strangers`. They take no client's place."""
REFUSAL_TOLD_S = 60.0
"""It is told so often at most that somebody was turned away."""
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}
"""Seconds (the last: milliseconds) after which a client whose machine is gone is known to be: 60 + 4 x 15 = 120."""


log = structlog.get_logger()


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
        self._strangers = Strangers(most=UNPROVEN_MAX, within_s=limits.handshake_s_max)
        self._told_at = -math.inf

    async def serve(self, stream: trio.SocketStream) -> None:
        _keep_alive(stream)
        spoken = await self._secured(stream)
        if spoken is None:
            return
        if self._served.connections >= self._limits.connections_max:
            await self._refuse(spoken)
            return
        self._served.connections += 1
        try:
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
        """What to speak on; None if the other end has no certificate to show, or no TLS: it is no client, and takes
        nobody's place."""
        if self._tls is None:
            return stream
        try:
            with self._strangers.one_more():
                return await encrypted(stream, self._tls.server, to=None)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            self._tell(why_broken(error))
        await trio.aclose_forcefully(stream)
        return None

    def _tell(self, why: str) -> None:
        """Why somebody was turned away, now and then: anybody can make it happen, as often as he likes."""
        now = trio.current_time()
        if now - self._told_at >= REFUSAL_TOLD_S:
            self._told_at = now
            log.warning("client_refused", why=why)

    async def _refuse(self, stream: trio.abc.Stream) -> None:
        self._refused += 1
        try:
            if self._refused <= REFUSALS_MAX:
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
