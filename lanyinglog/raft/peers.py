"""Links between nodes: TCP, one for each direction, dialled by who speaks on it.

A node dials every other and sends on that link alone; it hears on the links that others dialled. A link carries frames
(`wire.frames`) of `messages`, in order. When it breaks, what was queued is dropped and said to be lost (`link_changed`
is called for the new one): Raft sends again what matters.

Who is it? The two prove to each other that they know the cluster's secret before anything else is heard (audit 27)::

    dialler   -> hello   {versions, cluster, node, to, client, peer, nonce}
    listener  -> welcome {version, cluster, node, client, nonce, proof}    proof: HMAC-SHA256 over nonces and names
    dialler   -> proof   {proof}

or, to a node that was removed from the cluster, ``listener -> removed {nonce, proof}`` and the end.

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

import hmac
import secrets
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from lanyinglog.config import Address, parse_address
from lanyinglog.errors import LanyingError, ProtocolError, Unauthorized, UnsupportedVersion
from lanyinglog.raft.messages import PEER_FRAME_BYTES_MAX, Append, Chunk, PeerMessage, from_parts, to_parts
from lanyinglog.sockets import Part, left, receiver_of, sender_of, writer_of
from lanyinglog.wire.frames import Frame, FrameDecoder, encode_frame, encode_frame_head

PEER_VERSIONS = (2, 2)
"""The lowest and the highest version that this node speaks to peers. A link speaks the highest that both ends know, so
nodes of two versions can be members together while they are replaced one by one. What a new version adds may be used
towards a node whose link has it; a new kind of entry only when all members have it, for it reaches them all."""
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
"""Connections that have not proved who they are; one more is closed at once."""
REFUSAL_TOLD_S = 60.0
"""How long the same reason to refuse a link is not repeated."""
_READ_BYTES = 256 << 10
_WRITE_BYTES = 1 << 20
_HANDSHAKE_BYTES_MAX = 4_096
_HELLO, _WELCOME, _PROOF, _REMOVED = 128, 129, 140, 159
_SMALL_MESSAGE_BYTES = 128
PARTS_MAX = 64
"""Parts handed to the system at once, about; it takes a thousand."""
LARGE_BYTES = 64 << 10
"""Of entries in an append: from here on a copy of them costs more than a part."""

log = structlog.get_logger()


class Removed(Exception):
    """This node was removed from the cluster; the message says by whose word."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who this node says it is. ``client`` is its client address, told to peers for their hints; ``peer`` where it is
    dialled."""

    node: str
    cluster: str
    client: str
    peer: str
    secret: bytes | None
    versions: tuple[int, int] = PEER_VERSIONS


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
        heard: Callable[[], None] = lambda: None,
        wait_room: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        self._identity = identity
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
        self._unknown = 0
        self._told_until: dict[str, float] = {}
        self.versions: dict[str, int] = {}
        """What is spoken on the links to peers."""
        self.clients: dict[str, str] = {}
        """Client addresses as peers told them."""
        self.set_peers(peers, frozenset())

    def set_peers(self, peers: Mapping[str, Address], departed: frozenset[str]) -> None:
        """Who belongs to the cluster from now on, and who once did."""
        self._departed = departed
        self._peers = {name: address for name, address in peers.items() if name != self._identity.node}
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
                complaint = type(error).__name__
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
            with trio.fail_after(HANDSHAKE_S_MAX):
                await self._introduce(stream, name)
            self._outboxes[name].open(sender_of(stream))
            self._up.add(name)
            log.info("link_up", peer=name)
            self._link_changed(name, True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, stream, nursery.cancel_scope)
                try:
                    await self._write(stream, self._outboxes[name])
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    nursery.cancel_scope.cancel()  # here, or the nursery would wrap it

    async def _introduce(self, stream: trio.SocketStream, name: str) -> None:
        me = self._identity
        nonce = secrets.token_bytes(16)
        hello = {
            "versions": list(me.versions),
            "cluster": me.cluster,
            "node": me.node,
            "to": name,
            "client": me.client,
            "peer": me.peer,
            "nonce": nonce,
        }
        await stream.send_all(encode_frame(_HELLO, 0, hello))
        decoder = FrameDecoder(frame_bytes_max=_HANDSHAKE_BYTES_MAX)
        welcome = await _one_frame(stream, decoder, _WELCOME, _REMOVED)
        if welcome.kind == _REMOVED:
            self._check(welcome, self._proof(b"removed", me.node, name, nonce, _bytes(welcome, "nonce")), name)
            raise Removed(f"{name} says that {me.node} was removed from the cluster")
        other_nonce = _bytes(welcome, "nonce")
        if _text(welcome, "cluster") != me.cluster or _text(welcome, "node") != name:
            raise Unauthorized(
                f"{name}'s address is answered by {_text(welcome, 'node')} of {_text(welcome, 'cluster')}"
            )
        self._check(welcome, self._proof(b"listener", me.node, name, nonce, other_nonce), name)
        self.versions[name] = _common_version(me.versions, [welcome.header.get("version")] * 2, name)
        self.clients[name] = _text(welcome, "client")
        proof = self._proof(b"dialler", me.node, name, nonce, other_nonce)
        await stream.send_all(encode_frame(_PROOF, 0, {"proof": proof}))

    async def _watch(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        """Nothing is heard on this link; its end is."""
        try:
            await stream.receive_some(1)
        except trio.BrokenResourceError:
            pass  # the end all the same
        scope.cancel()

    async def _write(self, stream: trio.SocketStream, outbox: Outbox) -> None:
        write = writer_of(stream)
        while True:
            await write(*await outbox.take(_WRITE_BYTES))

    # ------------------------------------------------------------------------------------------------- inbound
    async def _accept(self, stream: trio.SocketStream) -> None:
        """One link that another node dialled; whatever comes on it costs at most this link."""
        if self._unknown >= UNKNOWN_CONNECTIONS_MAX:
            await trio.aclose_forcefully(stream)
            return
        sender = "unknown"
        try:
            async with stream:
                _tune(stream)
                decoder = FrameDecoder(frame_bytes_max=_HANDSHAKE_BYTES_MAX)
                sender = await self._identify(stream, decoder)
                decoder.frame_bytes_max = PEER_FRAME_BYTES_MAX
                await self._listen(stream, decoder, sender)
        except LanyingError as error:
            if self._is_news(error.message):
                log.warning("link_refused", peer=sender, why=error.message)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            log.info("link_lost", peer=sender, why=type(error).__name__)

    def _is_news(self, why: str) -> bool:
        """Whether to say so: who is refused comes back ten times a second."""
        now = trio.current_time()
        if now < self._told_until.get(why, now):
            return False
        if len(self._told_until) >= UNKNOWN_CONNECTIONS_MAX:
            self._told_until.clear()
        self._told_until[why] = now + REFUSAL_TOLD_S
        return True

    async def _identify(self, stream: trio.SocketStream, decoder: FrameDecoder) -> str:
        self._unknown += 1
        try:
            with trio.fail_after(HANDSHAKE_S_MAX):
                return await self._answer_hello(stream, decoder)
        finally:
            self._unknown -= 1

    async def _answer_hello(self, stream: trio.SocketStream, decoder: FrameDecoder) -> str:
        me = self._identity
        hello = await _one_frame(stream, decoder, _HELLO)
        name, nonce = _text(hello, "node"), _bytes(hello, "nonce")
        version = _common_version(me.versions, hello.header.get("versions"), name)
        if _text(hello, "cluster") != me.cluster or _text(hello, "to") != me.node or name == me.node:
            raise Unauthorized(f"{name} of {_text(hello, 'cluster')} looks for {_text(hello, 'to')}; this is {me.node}")
        own_nonce = secrets.token_bytes(16)
        if name in self._departed:
            proof = self._proof(b"removed", name, me.node, nonce, own_nonce)
            await stream.send_all(encode_frame(_REMOVED, 0, {"nonce": own_nonce, "proof": proof}))
        self._check_welcome(name)
        welcome = {
            "version": version,
            "cluster": me.cluster,
            "node": me.node,
            "client": me.client,
            "nonce": own_nonce,
            "proof": self._proof(b"listener", name, me.node, nonce, own_nonce),
        }
        await stream.send_all(encode_frame(_WELCOME, 0, welcome))
        answer = await _one_frame(stream, decoder, _PROOF)
        self._check(answer, self._proof(b"dialler", name, me.node, nonce, own_nonce), name)
        self.clients[name] = _text(hello, "client")
        self._speakers[name] = parse_address("peer", _text(hello, "peer"))
        self._dial_all()
        return name

    def _check_welcome(self, name: str) -> None:
        if name in self._departed:
            raise Unauthorized(f"{name} was removed from the cluster")
        strangers = self._speakers.keys() - self._peers.keys() - {name}
        if name not in self._peers and len(strangers) >= STRANGERS_MAX:
            raise Unauthorized(f"{name} is no member, nor are {', '.join(sorted(strangers))}")

    async def _listen(self, stream: trio.SocketStream, decoder: FrameDecoder, sender: str) -> None:
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

    # -------------------------------------------------------------------------------------------------- proofs
    def _proof(self, role: bytes, dialler: str, listener: str, nonce: bytes, other_nonce: bytes) -> bytes:
        if self._identity.secret is None:
            return b""
        words = (role, self._identity.cluster.encode(), dialler.encode(), listener.encode(), nonce, other_nonce)
        return hmac.digest(self._identity.secret, b"".join(len(w).to_bytes(2, "little") + w for w in words), "sha256")

    def _check(self, frame: Frame, expected: bytes, name: str) -> None:
        if not hmac.compare_digest(_bytes(frame, "proof"), expected):
            raise Unauthorized(f"{name} does not know the secret of cluster {self._identity.cluster}")


def _tune(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_LINK_MS)


async def _one_frame(stream: trio.SocketStream, decoder: FrameDecoder, *kinds: int) -> Frame:
    """The next frame, which must be of one of ``kinds``."""
    while True:
        frame = decoder.next_frame()
        if frame is not None:
            if frame.kind not in kinds:
                raise ProtocolError(f"a frame of kind {frame.kind} came where {kinds[0]} was due")
            return frame
        received = await stream.receive_some(_HANDSHAKE_BYTES_MAX)
        if not received:
            raise ProtocolError("the link ended in the middle of the handshake")
        decoder.feed(received)


def _common_version(own: tuple[int, int], other: Any, name: str) -> int:
    """The highest version in both ranges. `UnsupportedVersion` if there is none."""
    if not isinstance(other, list) or len(other) != 2 or not all(type(one) is int for one in other):
        raise UnsupportedVersion(f"{name} does not say which peer versions it speaks")
    version: int = min(own[1], other[1])
    if version < max(own[0], other[0]):
        raise UnsupportedVersion(
            f"{name} speaks peer versions {other[0]} to {other[1]}, this node {own[0]} to {own[1]};"
            " replace nodes by versions that overlap"
        )
    return version


def _text(frame: Frame, key: str) -> str:
    value: Any = frame.header.get(key)
    if not isinstance(value, str) or len(value) > 300:
        raise ProtocolError(f"the handshake's {key} is missing or no short text")
    return value


def _bytes(frame: Frame, key: str) -> bytes:
    value: Any = frame.header.get(key)
    if not isinstance(value, bytes) or len(value) > 64:
        raise ProtocolError(f"the handshake's {key} is missing or no short byte string")
    return value
