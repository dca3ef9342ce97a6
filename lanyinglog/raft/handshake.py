"""Who is at the other end of a link? Two nodes prove to each other that they know the cluster's secret (audit 27).

Before anything else is heard::

    dialler   -> hello   {versions, cluster, node, to, client, peer, nonce}
    listener  -> welcome {version, cluster, node, client, nonce, proof}    proof: HMAC-SHA256 over nonces and names
    dialler   -> proof   {proof}

or, to a node that was removed from the cluster, ``listener -> removed {nonce, proof}`` and the end, or, to one that is
not meant to be here, ``listener -> refused {why}`` and the end.

All frames of a handshake have at most `FRAME_BYTES_MAX`; how long one may take is the caller's.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import trio

from lanyinglog.errors import LanyingError, ProtocolError, Unauthorized, UnsupportedVersion
from lanyinglog.wire.frames import Frame, FrameDecoder, encode_frame

PEER_VERSIONS = (2, 2)
"""The lowest and the highest version that this node speaks to peers. A link speaks the highest that both ends know, so
nodes of two versions can be members together while they are replaced one by one. What a new version adds may be used
towards a node whose link has it; a new kind of entry only when all members have it, for it reaches them all."""
FRAME_BYTES_MAX = 4_096
_HELLO, _WELCOME, _PROOF, _REFUSED, _REMOVED = 128, 129, 140, 158, 159


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


@dataclass(frozen=True, slots=True)
class Introduced:
    """Who is at the other end, by its proof, the version to speak with it, its client address, and where it is dialled
    (empty if this node dialled it)."""

    node: str
    version: int
    client: str
    peer: str = ""


class Handshake:
    """Both sides of it, for one node."""

    def __init__(self, identity: PeerIdentity) -> None:
        self._identity = identity

    async def introduce(self, stream: trio.abc.Stream, name: str) -> Introduced:
        """The dialler's side, towards what should be node ``name``. `Unauthorized`, `UnsupportedVersion`, `Removed`."""
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
        decoder = FrameDecoder(frame_bytes_max=FRAME_BYTES_MAX)
        welcome = await _one_frame(stream, decoder, _WELCOME, _REMOVED, _REFUSED)
        if welcome.kind == _REFUSED:
            raise Unauthorized(f"{name} refuses this node: {_text(welcome, 'why')}")
        other_nonce = _bytes(welcome, "nonce")
        if welcome.kind == _REMOVED:
            self._check(welcome, self._proof(b"removed", me.node, name, nonce, other_nonce), name)
            raise Removed(f"{name} says that {me.node} was removed from the cluster")
        if _text(welcome, "cluster") != me.cluster or _text(welcome, "node") != name:
            other, cluster = _text(welcome, "node"), _text(welcome, "cluster")
            raise Unauthorized(f"{name}'s address is answered by {other} of cluster {cluster}")
        self._check(welcome, self._proof(b"listener", me.node, name, nonce, other_nonce), name)
        version = _common_version(me.versions, [welcome.header.get("version")] * 2, name)
        proof = self._proof(b"dialler", me.node, name, nonce, other_nonce)
        await stream.send_all(encode_frame(_PROOF, 0, {"proof": proof}))
        return Introduced(name, version, _text(welcome, "client"))

    async def answer(
        self,
        stream: trio.abc.Stream,
        decoder: FrameDecoder,
        *,
        departed: Container[str],
        admit: Callable[[str], None],
    ) -> Introduced:
        """The listener's side: ``departed`` are told so, and ``admit`` raises for who is not to be heard."""
        me = self._identity
        hello = await _one_frame(stream, decoder, _HELLO)
        name, nonce = _text(hello, "node"), _bytes(hello, "nonce")
        try:
            version = self._accepted_version(hello, name)
        except LanyingError as error:
            await stream.send_all(encode_frame(_REFUSED, 0, {"why": error.message}))
            raise
        own_nonce = secrets.token_bytes(16)
        if name in departed:
            proof = self._proof(b"removed", name, me.node, nonce, own_nonce)
            await stream.send_all(encode_frame(_REMOVED, 0, {"nonce": own_nonce, "proof": proof}))
        admit(name)
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
        return Introduced(name, version, _text(hello, "client"), _text(hello, "peer"))

    def _accepted_version(self, hello: Frame, name: str) -> int:
        """The version to speak with ``name``, if it is meant to be here."""
        me, cluster, to = self._identity, _text(hello, "cluster"), _text(hello, "to")
        if cluster != me.cluster:
            raise Unauthorized(f"{name} belongs to cluster {cluster}, {me.node} to cluster {me.cluster}")
        if name == me.node:
            raise Unauthorized(f"two nodes are called {name}, or one dials itself: its address is given to another")
        if to != me.node:
            raise Unauthorized(f"{name} looks for {to} at the address of {me.node}")
        return _common_version(me.versions, hello.header.get("versions"), name)

    def _proof(self, role: bytes, dialler: str, listener: str, nonce: bytes, other_nonce: bytes) -> bytes:
        if self._identity.secret is None:
            return b""
        words = (role, self._identity.cluster.encode(), dialler.encode(), listener.encode(), nonce, other_nonce)
        return hmac.digest(self._identity.secret, b"".join(len(w).to_bytes(2, "little") + w for w in words), "sha256")

    def _check(self, frame: Frame, expected: bytes, name: str) -> None:
        if not hmac.compare_digest(_bytes(frame, "proof"), expected):
            cluster = self._identity.cluster
            raise Unauthorized(f"{name} and this node have different secrets, both for cluster {cluster}")


async def _one_frame(stream: trio.abc.Stream, decoder: FrameDecoder, *kinds: int) -> Frame:
    """The next frame, which must be of one of ``kinds``."""
    while True:
        frame = decoder.next_frame()
        if frame is not None:
            if frame.kind not in kinds:
                raise ProtocolError(f"a frame of kind {frame.kind} came where {kinds[0]} was due")
            return frame
        received = await stream.receive_some(FRAME_BYTES_MAX)
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
            f"{name} speaks peer versions {other[0]} to {other[1]}, the other end {own[0]} to {own[1]};"
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
