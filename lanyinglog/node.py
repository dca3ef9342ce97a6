"""One node: the composition root, where store, log, peers and sessions are made, joined, started and stopped.

Start: data directory opened and checked, listeners bound (so that a taken port is an error at once), then one line
``{"event": "ready", ...}`` on standard error once clients are served. Stop (SIGTERM or Ctrl-C): leadership is handed
over, no new requests, one last checkpoint, exit 0. What makes going on unsafe ends the process with exit code 1 and
says why: a failed sync (the truth is then on the peers), a damaged entry the log needs, a leader that contradicts what
is committed. A node that was removed from the cluster says so and ends with exit code 0.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import random
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import structlog
import trio

from lanyinglog.batcher import BatcherLimits
from lanyinglog.commit_loop import CommitLoop
from lanyinglog.config import Address, Limits, NodeConfig, parse_address
from lanyinglog.errors import ConfigError, CorruptEntry, LanyingError
from lanyinglog.gateway.figures import Figures
from lanyinglog.health import Health
from lanyinglog.hosted_log import HostedLog
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.raft import handshake
from lanyinglog.raft.engine import check_audited
from lanyinglog.raft.guard import Diverged
from lanyinglog.raft.handshake import PeerIdentity, Removed
from lanyinglog.raft.peers import PeerNetwork
from lanyinglog.raft.timing import Timing
from lanyinglog.session import NodeIdentity, Served, serve_clients
from lanyinglog.store.environment import LmdbStore
from lanyinglog.tls import Tls

LOG_NAME = "main"
FULL_LOOK_S = 0.5
"""How often a node looks whether it leads with a full disk: a quarter of the time that writes may stand still."""
FULL_PAUSE_S = 10.0
GC_THRESHOLD = 10_000
"""Objects that have come to live before the garbage collector looks for cycles among them (Python's own is 700). What a
node makes for each publish lives until that is acknowledged, and goes without the collector, which would walk over it
again and again: with 500 producers that was a tenth of the leader's work."""
log = structlog.get_logger()


def run(config: NodeConfig) -> int:
    """Run the node until it is told to stop; the process's exit code."""
    configure_logging(config.log_format)
    try:
        check_audited()
        trio.run(_serve, config, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        return _exit_code(_first_cause(group))
    except (LanyingError, OSError, Diverged, Removed) as error:
        return _exit_code(error)
    return 0


def configure_logging(form: str = "auto") -> None:
    """Structured lines on standard error, each an event with a name that stays (docs/logs.md): ``json`` one object a
    line, ``text`` for people, in colours on a terminal, ``auto`` text on a terminal and JSON elsewhere."""
    terminal = sys.stderr.isatty()
    text = form == "text" or (form == "auto" and terminal)
    renderer = structlog.dev.ConsoleRenderer(colors=terminal) if text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


class _Forward(logging.Handler):
    """What libraries, and the sessions' last resort, say through `logging`, as events like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, "said", logger=record.name, message=record.getMessage(), exc_info=record.exc_info)


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _exit_code(error: BaseException) -> int:
    kind = type(error).__name__
    if not isinstance(error, Exception):
        raise error  # Ctrl-C before anybody listened for it
    if isinstance(error, Removed):
        log.info("node_removed", why=str(error))
        return 0
    if isinstance(error, OSError):
        log.error("node_stops", why=str(error), kind=kind, advice=_FAILED_WRITE)
    elif isinstance(error, CorruptEntry | Diverged | LanyingError):
        log.error("node_stops", why=str(error), kind=kind, advice=getattr(error, "advice", "see docs/logs.md"))
    else:
        log.critical("node_stops", why=str(error), kind=kind, advice="report it, with this line", exc_info=error)
    return 1


_FAILED_WRITE = (
    "check the disk (dmesg), then start the node again: what it could not make durable it has told nobody, and the"
    " other nodes have it"
)


class _Listeners(NamedTuple):
    """By whom they are called; ``metrics`` None where nobody is to."""

    clients: list[trio.SocketListener]
    peers: list[trio.SocketListener]
    metrics: list[trio.SocketListener] | None


async def _serve(config: NodeConfig) -> None:
    if config.metrics_listen is not None and not all(map(importlib.util.find_spec, ("h11", "prometheus_client"))):
        raise ConfigError("metrics_listen needs what only the extra installs: pip install 'lanyinglog[metrics]'")
    tls = None if config.tls is None else Tls(config.tls, trouble=_tell_tls_trouble)
    listeners = _Listeners(
        await _listen("client_listen", config.client_listen),
        await _listen("peer_listen", config.peer_listen),
        None if config.metrics_listen is None else await _listen("metrics_listen", config.metrics_listen),
    )
    store = LmdbStore.open(
        config.data / LOG_NAME,
        log=LOG_NAME,
        node=config.node,
        cluster=config.cluster,
        map_bytes=config.limits.store_bytes_max,
    )
    try:
        await _run_log(config, store, listeners, tls)
    finally:
        store.close()


async def _run_log(config: NodeConfig, store: LmdbStore, listeners: _Listeners, tls: Tls | None) -> None:
    limits = config.limits
    client_address = _bound(config.advertised, listeners.clients)
    _finish_installation(store)
    renew = partial(_make_core, config, store)
    health = Health(config.data, connections_max=limits.connections_max)
    loop = CommitLoop(
        core=renew(),
        store=store,
        send=lambda to, message: network.send(to, message),
        renew=renew,
        wrote=health.wrote,
        members_changed=lambda members, departed: network.set_peers(_peer_addresses(config, members), departed),
    )
    network = _make_network(config, loop, client_address, tls)
    hosted = HostedLog(
        LOG_NAME,
        loop=loop,
        store=store,
        client_of=network.clients.get,
        connected=network.is_connected,
        own_addresses=(client_address, str(config.peers[config.node])),
        health=health.report,
    )
    _settle_memory()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run)
        nursery.start_soon(network.run, listeners.peers)
        nursery.start_soon(step_aside_when_full, loop, hosted)
        nursery.start_soon(hosted.scrub, limits.scrub_bytes_s_max)
        identity, served = NodeIdentity(config.node, config.cluster), Served()
        if listeners.metrics is not None:
            nursery.start_soon(_serve_metrics, listeners.metrics, partial(_figures, loop, hosted, served, health))
        serve = partial(serve_clients, listeners.clients, {LOG_NAME: hosted}, identity=identity, limits=limits)
        await nursery.start(partial(serve, tls=tls, served=served))
        log.info("ready", node=config.node, client=client_address, peer=str(config.peers[config.node]))
        await _wait_for_signal()
        log.info("stopping", node=config.node)
        await _hand_over(hosted)
        nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True), trio.move_on_after(5):
        await loop.finish()


def _tell_tls_trouble(why: str) -> None:
    log.warning("tls_not_renewed", why=why)


def _figures(loop: CommitLoop, hosted: HostedLog, served: Served, health: Health) -> Figures:
    """The node as it is now, for who watches it."""
    core = loop.core
    batches, waiting_bytes = core.batcher.waiting
    return Figures(
        hosted.status(),
        connections=served.connections,
        waiting_batches=batches,
        waiting_bytes=waiting_bytes,
        appended_bytes=core.machine.end_bytes,
        kept_bytes=core.trimmer.bytes_kept,
        writes=health.write_times,
    )


async def _serve_metrics(listeners: Sequence[trio.SocketListener], read: Callable[[], Figures]) -> None:
    from lanyinglog.gateway import http, metrics

    log.info("metrics_served", at=str(Address(*listeners[0].socket.getsockname()[:2])))
    await http.serve_http(listeners, metrics.routes(read))


def _make_network(config: NodeConfig, loop: CommitLoop, client_address: str, tls: Tls | None) -> PeerNetwork:
    own_peer = str(config.peers[config.node])
    network = PeerNetwork(
        identity=PeerIdentity(
            config.node, config.cluster, client_address, own_peer, config.secret, versions=handshake.PEER_VERSIONS
        ),
        peers=_peer_addresses(config, loop.core.members),
        outbox_bytes_max=config.limits.peer_outbox_bytes_max,
        receive=loop.receive,
        link_changed=loop.peer_link_changed,
        heard=loop.heard,
        wait_room=loop.wait_unwritten,
        tls=tls,
    )
    network.set_peers(_peer_addresses(config, loop.core.members), loop.core.departed)
    network.clients.update({name: str(address) for name, address in config.clients.items()})
    return network


def _make_core(config: NodeConfig, store: LmdbStore) -> LogCore:
    """The log as it is in the store."""
    return LogCore(
        node=config.node,
        members=_initial_members(config),
        store=store,
        timing=Timing(config.heartbeat_s, config.election_timeout_s),
        uniform=random.Random().uniform,  # the system seeds it: no two nodes alike
        now=trio.current_time(),
        limits=_batcher_limits(config.limits),
        cache_bytes_max=config.limits.hot_cache_bytes_max,
        catch_up_bytes_s=config.limits.catch_up_bytes_s_max,
        newcomer=not store.joined(),
    )


def _initial_members(config: NodeConfig) -> Members:
    """Who belongs to the log until an entry says otherwise: all in the settings, but not who is still to be added."""
    peers = {name: str(address) for name, address in config.peers.items()}
    if config.join:
        del peers[config.node]
    return Members.of(peers)


def _peer_addresses(config: NodeConfig, members: Members) -> dict[str, Address]:
    """Where the members are: as the settings say, which their owner can change, else as the log does."""
    known = {name: parse_address(f"members.{name}", member.peer) for name, member in members.table.items()}
    return {name: config.peers.get(name, address) for name, address in known.items()}


def _finish_installation(store: LmdbStore) -> None:
    """A snapshot was replacing the log when the process ended: the rest of it needs no other node."""
    if store.installing():
        log.info("snapshot_installed")
    while store.install_step():
        pass


def _settle_memory() -> None:
    """What lives as long as the process need not be walked by the garbage collector again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def _batcher_limits(limits: Limits) -> BatcherLimits:
    """Connections stop reading at the limits; at twice as much a batch is refused."""
    return BatcherLimits(
        waiting_bytes_max=2 * limits.queue_bytes_max,
        waiting_batches_max=2 * limits.queue_batches_max,
        room_bytes_max=limits.queue_bytes_max,
        room_batches_max=limits.queue_batches_max,
        entry_bytes_max=limits.entry_bytes_max,
        entries_in_flight_max=limits.entries_inflight_max,
    )


async def _hand_over(hosted: HostedLog) -> None:
    """If this node leads, let another lead before it goes: no election timeout passes without a leader (P9)."""
    while (successor := hosted.best_successor()) is not None:
        try:
            await hosted.transfer(successor)
            log.info("handed_over", to=successor, why="the node stops")
        except LanyingError as error:
            log.warning("handover_failed", to=successor, why=error.message)
            return


async def step_aside_when_full(loop: CommitLoop, hosted: HostedLog) -> None:
    """Lets another lead while this node's disk is full: theirs may have room, and only a leader refuses publishes (P9).
    Nobody knows whether they have, hence the pause: were all full, leadership would go round without end."""
    while True:
        await trio.sleep(FULL_LOOK_S)
        successor = hosted.best_successor() if loop.core.storage_full else None
        if successor is None:
            continue
        try:
            await hosted.transfer(successor)
            log.info("handed_over", to=successor, why="the disk is full")
        except LanyingError as error:
            log.warning("handover_failed", to=successor, why=error.message)
        await trio.sleep(FULL_PAUSE_S)


async def _wait_for_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            return


async def _listen(key: str, address: Address) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(address.port, host=address.host)
    except OSError as error:
        raise ConfigError(f"{key}: can't listen on {address}: {error}") from error


def _bound(address: Address, listeners: Sequence[trio.SocketListener]) -> str:
    """The address with the port the system chose, if it was to choose."""
    return str(Address(address.host, address.port or listeners[0].socket.getsockname()[1]))
