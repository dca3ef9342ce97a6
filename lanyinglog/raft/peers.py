"""Links between nodes: TCP, one for each direction, dialled by who speaks on it.

A node dials every other and sends on that link alone; it hears on the links that others dialled. A link carries frames
(`wire.frames`) of `messages`, in order. When it breaks, what was queued is dropped and said to be lost (`link_changed`
is called for the new one): Raft sends again what matters. Before anything is heard the two prove who they are
(`handshake`).

A link from a node that has one already replaces it: what was under way on the old one is never heard after what
came on the new one.

Members come and go (`set_peers`). A node that this one does not count among them, or not any more, is heard all the
same, and dialled at the address it tells, as long as its link lasts: it may lead by an entry that this node's log still
lacks. A log that is being filled goes through all the members it ever had.

Bounds (P8): a handshake takes `HANDSHAKE_S_MAX`, a frame `messages.PEER_FRAME_BYTES_MAX`, and a peer's outbox
``outbox_bytes_max``; appends that find it full are dropped, and sent again when the peer has answered. Before more is
read from a link, ``wait_room`` returns: a disk that stalls pushes back through TCP.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog
import trio

from lanyinglog.config import Address, parse_address
from lanyinglog.errors import LanyingError, Unauthorized
from lanyinglog.raft.handshake import FRAME_BYTES_MAX, Handshake, PeerIdentity
from lanyinglog.raft.messages import PEER_FRAME_BYTES_MAX, Append, Chunk, PeerMessage, from_parts, to_parts
from lanyinglog.sockets import Part, Strangers, encrypted, left, receiver_of, sender_of, why_broken, writer_of
from lanyinglog.tls import Tls
from lanyinglog.wire.frames import FrameDecoder, encode_frame, encode_frame_head

HANDSHAKE_S_MAX = 5.0
CONNECT_S_MAX = 2.0
REDIAL_S = 0.1
"""Between two attempts to reach a peer: well below an election timeout."""
DEAD_LINK_MS = 5_000
"""Unacknowledged bytes for so long end a link (TCP_USER_TIMEOUT): a healed partition is not left to TCP's back-off."""
OUTBOX_MESSAGES_MAX = 4_096
STRANGERS_MAX = 16
"""Nodes that are no members by this node's log, and are heard: one change of members makes one, and to a node that gets
the log anew all others may be."""
UNKNOWN_CONNECTIONS_MAX = 64
"""Connections that have not proved who they are: see `sockets.Strangers`."""
REFUSAL_TOLD_S = 60.0
"""How long the same reason to refuse a link is not repeated."""
_UNKNOWN = "unknown"
_READ_BYTES = 256 << 10
_WRITE_BYTES = 1 << 20
_SMALL_MESSAGE_BYTES = 128
PARTS_MAX = 64
"""Parts handed to the system at once, about; it takes a thousand."""
LARGE_BYTES = 64 << 10
"""Of entries in an append: from here on a copy of them costs more than a part."""

log = structlog.get_logger()


class Outbox:
    """Frames for one peer, bounded in bytes and number. As long as nothing waits a message goes to the system at once;
    what that does not take is left to the link's task."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._queue: deque[tuple[PeerMessage, int]] = deque()
        self._bytes = 0
        self._rest: Sequence[Part] = ()  # of a frame that the system did not take whole
        self._send_now: Callable[..., int] | None = None
        self._writer_waits = False
        self._arrival = trio.Event()

    def open(self, send_now: Callable[..., int] | None) -> None:
        """A new link, on which ``send_now`` sends (`sockets.sender_of`): what waited for the last one is gone."""
        self.clear()
        self._send_now = send_now

    def put(self, message: PeerMessage) -> bool:
        """Send or queue it; False if it was dropped because the outbox is full."""
        size = _SMALL_MESSAGE_BYTES + (message.bytes if isinstance(message, Append | Chunk) else 0)
        if self._writer_waits and self._send_now is not None and not self._queue and not self._rest:
            parts = _encoded(message)
            self._rest = left(parts, self._send_now(*parts))
            if self._rest:
                self._arrival.set()
            return True
        full = self._bytes > 0 and self._bytes + size > self._bytes_max
        if full or len(self._queue) >= OUTBOX_MESSAGES_MAX:
            return False
        self._queue.append((message, size))
        self._bytes += size
        self._arrival.set()
        return True

    async def take(self, bytes_max: int) -> Sequence[Part]:
        """What to write next: at least one message, and more until ``bytes_max`` is reached."""
        while not self._queue and not self._rest:
            self._arrival = trio.Event()
            self._writer_waits = True
            try:
                await self._arrival.wait()
            finally:
                self._writer_waits = False
        if self._rest:
            rest, self._rest = self._rest, ()
            return rest
        parts: list[Part] = []
        size = 0
        while self._queue and size < bytes_max and len(parts) < PARTS_MAX:
            message, message_bytes = self._queue.popleft()
            parts += _encoded(message)
            size += message_bytes
        self._bytes -= size
        return parts

    def clear(self) -> None:
        """Forget all: the link is gone."""
        self._queue.clear()
        self._bytes = 0
        self._rest, self._send_now = (), None


def _encoded(message: PeerMessage) -> Sequence[bytes]:
    """A frame: in parts if there are few of them and they are large."""
    kind, header, body = to_parts(message)
    if len(body) > PARTS_MAX or not isinstance(message, Append) or message.bytes < LARGE_BYTES:
        return (encode_frame(kind, 0, header, body),)
    return (encode_frame_head(kind, 0, header, sum(map(len, body))), *body)


class PeerNetwork:
    """All links of one node. ``receive(sender, message)`` and ``link_changed(peer, up)`` are called from its tasks,
    ``heard()`` when all that came with one read has been handed over. `run` ends with `Removed` when a member proves
    that this node belongs no more."""

    def __init__(
        self,
        *,
        identity: PeerIdentity,
        peers: Mapping[str, Address],
        outbox_bytes_max: int,
        receive: Callable[[str, PeerMessage], None],
        link_changed: Callable[[str, bool], None],
        tls: Tls | None = None,
        heard: Callable[[], None] = lambda: None,
        wait_room: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        self._node, self._handshake = identity.node, Handshake(identity)
        self._tls = tls
        self._outbox_bytes_max = outbox_bytes_max
        self._peers: dict[str, Address] = {}
        self._speakers: dict[str, Address] = {}
        """Whose links to this node are open, members or not, and where they say they are dialled."""
        self._departed: frozenset[str] = frozenset()
        self._dialling: dict[str, tuple[Address, trio.CancelScope]] = {}
        self._nursery: trio.Nursery | None = None
        self._receive = receive
        self._link_changed = link_changed
        self._heard = heard
        self._wait_room = wait_room
        self._outboxes: dict[str, Outbox] = {}
        self._up: set[str] = set()
        self._inbound: dict[str, trio.CancelScope] = {}
        self._strangers = Strangers(most=UNKNOWN_CONNECTIONS_MAX, within_s=HANDSHAKE_S_MAX)
        self._told_until: dict[str, float] = {}
        self.versions: dict[str, int] = {}
        """What is spoken on the links to peers."""
        self.clients: dict[str, str] = {}
        """Client addresses as peers told them."""
        self.set_peers(peers, frozenset())

    def set_peers(self, peers: Mapping[str, Address], departed: frozenset[str]) -> None:
        """Who belongs to the cluster from now on, and who once did."""
        self._departed = departed
        self._peers = {name: address for name, address in peers.items() if name != self._node}
        for name in departed & self._inbound.keys():
            self._inbound[name].cancel()
        self._dial_all()

    def _dial_all(self) -> None:
        """One task for each node to be dialled, none for others."""
        wanted = {**self._speakers, **self._peers}
        for name in [name for name, (address, _) in self._dialling.items() if wanted.get(name) != address]:
            self._dialling.pop(name)[1].cancel()
        if self._nursery is not None:
            for name in sorted(wanted.keys() - self._dialling.keys()):
                self._outboxes.setdefault(name, Outbox(self._outbox_bytes_max))
                scope = trio.CancelScope()
                self._dialling[name] = (wanted[name], scope)
                self._nursery.start_soon(self._dial_forever, name, wanted[name], scope)

    def send(self, to: str, message: PeerMessage) -> None:
        """Send or queue ``message``; dropped when there is no link or no room. Never blocks."""
        if to in self._up:
            self._outboxes[to].put(message)

    def is_connected(self, peer: str) -> bool:
        """Whether the link to ``peer`` is up."""
        return peer in self._up

    async def run(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Dial and listen until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._dial_all()
            await trio.serve_listeners(self._accept, list(listeners), handler_nursery=nursery)

    # ------------------------------------------------------------------------------------------------ outbound
    async def _dial_forever(self, name: str, address: Address, scope: trio.CancelScope) -> None:
        with scope:
            await self._redial(name, address)

    async def _redial(self, name: str, address: Address) -> None:
        last_complaint = ""
        while True:
            try:
                await self._dial(name, address)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
                complaint = why_broken(error)
            except ValueError as error:  # what no resolver can be asked for, told by a node or written into the log
                complaint = f"{address} can't be dialled: {error}"
            except LanyingError as error:
                complaint = error.message
            else:
                complaint = "closed"
            finally:
                self._outboxes[name].clear()
                if name in self._up:
                    self._up.remove(name)
                    self._link_changed(name, False)
            if complaint != last_complaint:
                log.info("link_down", peer=name, why=complaint)
                last_complaint = complaint
            await trio.sleep(REDIAL_S)

    async def _dial(self, name: str, address: Address) -> None:
        with trio.fail_after(CONNECT_S_MAX):
            stream = await trio.open_tcp_stream(address.host, address.port)
        async with stream:
            _tune(stream)
            link: trio.abc.Stream = stream
            with trio.fail_after(HANDSHAKE_S_MAX):
                if self._tls is not None:
                    link = await encrypted(stream, self._tls.client, to=address.host)
                introduced = await self._handshake.introduce(link, name)
            self.versions[name], self.clients[name] = introduced.version, introduced.client
            self._outboxes[name].open(sender_of(link))
            self._up.add(name)
            log.info("link_up", peer=name)
            self._link_changed(name, True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, link, nursery.cancel_scope)
                try:
                    await self._write(link, self._outboxes[name])
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    nursery.cancel_scope.cancel()  # here, or the nursery would wrap it

    async def _watch(self, stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
        """Nothing is heard on this link; its end is."""
        try:
            await stream.receive_some(1)
        except trio.BrokenResourceError:
            pass  # the end all the same
        scope.cancel()

    async def _write(self, stream: trio.abc.Stream, outbox: Outbox) -> None:
        write = writer_of(stream)
        while True:
            await write(*await outbox.take(_WRITE_BYTES))

    # ------------------------------------------------------------------------------------------------- inbound
    async def _accept(self, stream: trio.SocketStream) -> None:
        """One link that another node dialled; whatever comes on it costs at most this link."""
        sender = _UNKNOWN
        try:
            async with stream:
                _tune(stream)
                link: trio.abc.Stream = stream
                if self._tls is not None:
                    with self._strangers.one_more():
                        link = await encrypted(stream, self._tls.server, to=None)
                decoder = FrameDecoder(frame_bytes_max=FRAME_BYTES_MAX)
                sender = await self._identify(link, decoder)
                decoder.frame_bytes_max = PEER_FRAME_BYTES_MAX
                await self._listen(link, decoder, sender)
        except LanyingError as error:
            if self._is_news(error.message):
                log.warning("link_refused", peer=sender, why=error.message)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            why = why_broken(error)
            if sender != _UNKNOWN:
                log.info("link_lost", peer=sender, why=why)
            elif self._is_news(why):
                log.warning("link_refused", peer=sender, why=why)

    def _is_news(self, why: str) -> bool:
        """Whether to say so: who is refused comes back ten times a second."""
        now = trio.current_time()
        if now < self._told_until.get(why, now):
            return False
        if len(self._told_until) >= UNKNOWN_CONNECTIONS_MAX:
            self._told_until.clear()
        self._told_until[why] = now + REFUSAL_TOLD_S
        return True

    async def _identify(self, stream: trio.abc.Stream, decoder: FrameDecoder) -> str:
        with self._strangers.one_more():
            other = await self._handshake.answer(stream, decoder, departed=self._departed, admit=self._check_welcome)
        self.clients[other.node] = other.client
        self._speakers[other.node] = parse_address("peer", other.peer)
        self._dial_all()
        return other.node

    def _check_welcome(self, name: str) -> None:
        if name in self._departed:
            raise Unauthorized(f"{name} was removed from the cluster")
        strangers = self._speakers.keys() - self._peers.keys() - {name}
        if name not in self._peers and len(strangers) >= STRANGERS_MAX:
            raise Unauthorized(f"{name} is no member, nor are {', '.join(sorted(strangers))}")

    async def _listen(self, stream: trio.abc.Stream, decoder: FrameDecoder, sender: str) -> None:
        with trio.CancelScope() as scope:
            older = self._inbound.get(sender)
            if older is not None:
                older.cancel()
            self._inbound[sender] = scope
            receive = receiver_of(stream)
            try:
                while True:
                    frame = decoder.next_frame()
                    if frame is not None:
                        try:
                            while frame is not None:
                                self._receive(sender, from_parts(frame.kind, frame.header, frame.body))
                                frame = decoder.next_frame()
                        finally:
                            self._heard()  # what came before a bad frame, too
                    await self._wait_room()
                    received = await receive(_READ_BYTES)
                    if not received:
                        return
                    decoder.feed(received)
            finally:
                if self._inbound.get(sender) is scope:
                    del self._inbound[sender]
                    self._speakers.pop(sender, None)
                    self._dial_all()


def _tune(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_LINK_MS)
