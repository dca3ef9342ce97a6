"""One client connection as a state machine: bytes in, messages out, for both roles, without a socket.

`Connection.receive` takes what a socket gave and yields messages; `Connection.send` takes a message and gives what
the socket is to send. Both walk the one table below, so neither side can send, or be made to accept, a message in the
wrong order. The node's sessions, the client and the fuzzers use this same class.

What it does not know: which requests are open, credits, seqs. Those belong to who asked and who answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

from lanyinglog.errors import ProtocolError, UnsupportedVersion
from lanyinglog.wire.frames import Frame, FrameDecoder
from lanyinglog.wire.messages import (
    CLIENT_MESSAGES,
    FRAME_BYTES_MAX,
    HELLO_BYTES_MAX,
    NODE_MESSAGES,
    PROTOCOL_VERSION,
    Error,
    Hello,
    Message,
    Publish,
    Welcome,
    from_frame,
    to_parts,
)


class Role(Enum):
    """A side of the connection."""

    CLIENT = "client"
    NODE = "node"

    @property
    def other(self) -> Role:
        return Role.NODE if self is Role.CLIENT else Role.CLIENT


class State(Enum):
    """Where a connection is; both sides go through the same states."""

    NEW = "waiting for hello"
    GREETED = "waiting for welcome"
    OPEN = "open"
    BROKEN = "broken by the other side"
    CLOSED = "closed"


_REQUESTS = [cls for cls in CLIENT_MESSAGES if cls is not Hello]
_REPLIES = [cls for cls in NODE_MESSAGES if cls is not Welcome]

TRANSITIONS: dict[tuple[State, Role, type[Message]], State] = {
    (State.NEW, Role.CLIENT, Hello): State.GREETED,
    (State.GREETED, Role.NODE, Welcome): State.OPEN,
    **{(State.OPEN, Role.CLIENT, cls): State.OPEN for cls in _REQUESTS},
    **{(State.OPEN, Role.NODE, cls): State.OPEN for cls in _REPLIES},
}
"""(state, who speaks, message) -> state. Whatever is not here is forbidden, but for one thing: in every state before
CLOSED the node may send an error with request id 0, which leads there."""


_USUAL: dict[Role, frozenset[type[Message]]] = {
    speaker: frozenset(
        cls
        for (state, sender, cls), after in TRANSITIONS.items()
        if sender is speaker and state is after is State.OPEN and cls is not Error
    )
    for speaker in Role
}
"""What each side may say on an open connection, and leaves it open: nearly all there is, so it is looked up first."""


class Received(NamedTuple):
    """A message and the request it belongs to."""

    request: int
    message: Message


class Connection:
    """One side (``role``) of a connection.

    ``frame_bytes_max`` bounds what is accepted, and so what is buffered. ``version`` is None until negotiated.
    """

    def __init__(
        self,
        role: Role,
        *,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        version_min: int = PROTOCOL_VERSION,
        version_max: int = PROTOCOL_VERSION,
    ) -> None:
        self.role = role
        self.state = State.NEW
        self.version: int | None = None
        self._usual = _USUAL[role.other]
        self._last_publish: tuple[dict[str, Any] | None, str] = (None, "")  # its header and its log
        self._versions = (version_min, version_max)
        self._frame_bytes_max = frame_bytes_max
        # A node lets a stranger buffer no more than a hello; a client has chosen whom it talks to.
        first_bytes_max = HELLO_BYTES_MAX if role is Role.NODE else frame_bytes_max
        self._decoder = FrameDecoder(frame_bytes_max=min(first_bytes_max, frame_bytes_max))

    @property
    def inside_frame(self) -> bool:
        """Whether a frame has begun to arrive and is not complete."""
        return self._decoder.buffered_bytes > 0

    def send(self, message: Message, request: int) -> bytes:
        """The bytes of ``message``. Sending out of order is the caller's defect: `AssertionError`."""
        return b"".join(self.send_in_parts(message, request))

    def send_in_parts(self, message: Message, request: int) -> Sequence[bytes | memoryview]:
        """`send` before it is put together, as `to_parts` gives it."""
        state = self._next_state(self.role, message, request)
        if state is None:
            raise AssertionError(f"the {self.role.value} may not send {message.NAME} while {self.state.value}")
        self.state = state
        return to_parts(message, request)

    def repeated_publish(self, data: bytes) -> tuple[int, bytes, str] | None:
        """Request, batch and log of the publish that ``data`` is, if it comes next, is whole, and differs from the
        publish before it in request and batch alone; there is no more to be done about it then. For such a one, which
        is all that a small producer says, `receive` costs as much as what comes after it. None for whatever else it is:
        then nothing has happened, and it is to be received."""
        if self.state is not State.OPEN:
            return None
        header, log = self._last_publish
        found = self._decoder.repeated(data, Publish.KIND, header)
        return (*found, log) if found is not None and found[0] else None

    def receive(self, data: bytes | bytearray | memoryview) -> Iterator[Received]:
        """The messages that ``data`` completes, in order; take them all before the next call.

        Raises `ProtocolError`, behind the messages before the fault; from then on nothing is received any more, and
        a node has one thing left to send: the `Error` about it, with request id 0.
        """
        if self.state in (State.BROKEN, State.CLOSED):
            raise ProtocolError(f"{len(data)} bytes from the {self.role.other.value} on a connection that has ended")
        self._decoder.feed(data)
        return self._messages()

    def _messages(self) -> Iterator[Received]:
        try:
            while (frame := self._decoder.next_frame()) is not None:
                message = self._publish_like_the_last(frame) or from_frame(frame)
                if self.state is not State.OPEN or type(message) not in self._usual:
                    self._accept(message, frame.request)
                yield Received(frame.request, message)
        except ProtocolError as error:
            is_first = self.state is State.NEW and not isinstance(error, UnsupportedVersion)
            self.state = State.BROKEN
            if is_first:
                raise ProtocolError(f"the first frame is no hello of this protocol: {error.message}") from error
            raise

    def _publish_like_the_last(self, frame: Frame) -> Publish | None:
        """A producer's publishes differ in request and body alone: the decoder gives the same header for all of them,
        and it is looked at once. None for any other frame."""
        if frame.kind != Publish.KIND or not frame.request:
            return None
        last_header, log = self._last_publish
        if frame.header is not last_header:
            publish = from_frame(frame)
            assert isinstance(publish, Publish)
            self._last_publish = frame.header, publish.log
            return publish
        return Publish(frame.body, log)

    def _accept(self, message: Message, request: int) -> None:
        sender = self.role.other
        state = self._next_state(sender, message, request)
        if state is None:
            raise ProtocolError(f"the {sender.value} sent {message.NAME} while {self.state.value}")
        if isinstance(message, Hello):
            self._negotiate(message)
            self._decoder.frame_bytes_max = self._frame_bytes_max
        elif isinstance(message, Welcome):
            low, high = self._versions
            if not low <= message.version <= high:
                raise UnsupportedVersion(f"the node chose version {message.version}, offered were {low} to {high}")
            self.version = message.version
        self.state = state

    def _negotiate(self, hello: Hello) -> None:
        """The highest version that both sides speak."""
        low, high = self._versions
        version = min(high, hello.version_max)
        if version < max(low, hello.version_min):
            raise UnsupportedVersion(
                f"the client speaks versions {hello.version_min} to {hello.version_max}, this node {low} to {high}"
            )
        self.version = version

    def _next_state(self, sender: Role, message: Message, request: int) -> State | None:
        if isinstance(message, Error) and request == 0:
            return State.CLOSED if sender is Role.NODE and self.state is not State.CLOSED else None
        return TRANSITIONS.get((self.state, sender, type(message)))
