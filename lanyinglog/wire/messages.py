"""The messages that clients and nodes exchange, and their frames (`docs/protocol.md` is the same for people).

Each message is a frozen dataclass with its frame's ``KIND`` and ``NAME``; ``header`` and ``body`` say how it is
written, ``read`` how it is read back: strictly, every field by type and range, else `ProtocolError`. What a value
*means* (is there such a log, is the filter well-formed) is not judged here: that fails one request, not a connection.

The request id is not part of a message: it is 0 for what concerns the whole connection (hello, welcome, some errors),
and otherwise chosen by the client and repeated in every reply, and in every push of the subscription it opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lanyinglog.errors import ProtocolError
from lanyinglog.wire.fields import Fields
from lanyinglog.wire.frames import REQUEST_MAX, Frame, encode_frame_head
from lanyinglog.wire.message import Message, Scope
from lanyinglog.wire.replies import (
    FRAME_BYTES_MAX,
    ITEM_HEAD_BYTES,
    Acked,
    Error,
    Limits,
    LogInfoReply,
    MembersReply,
    NewestReply,
    Pong,
    Push,
    StatusReply,
    Subscribed,
    TopicsReply,
    Transferred,
    Unsubscribed,
    Welcome,
    encode_acked,
    encode_push,
)
from lanyinglog.wire.requests import (
    CREDIT_MAX,
    DEFAULT_LOG,
    FILTERS_MAX,
    PROTOCOL_VERSION,
    Credit,
    Hello,
    LogInfo,
    LogSet,
    MemberAdd,
    MemberRemove,
    Newest,
    Origin,
    Ping,
    Publish,
    Start,
    Status,
    Subscribe,
    TopicPurge,
    Topics,
    Transfer,
    Unsubscribe,
)

__all__ = [
    "BY_KIND",
    "CLIENT_MESSAGES",
    "CREDIT_MAX",
    "DEFAULT_LOG",
    "FILTERS_MAX",
    "FRAME_BYTES_MAX",
    "HELLO_BYTES_MAX",
    "ITEM_HEAD_BYTES",
    "NODE_MESSAGES",
    "PROTOCOL_VERSION",
    "Acked",
    "Credit",
    "Error",
    "Hello",
    "Limits",
    "LogInfo",
    "LogInfoReply",
    "LogSet",
    "MemberAdd",
    "MemberRemove",
    "MembersReply",
    "Message",
    "Newest",
    "NewestReply",
    "Origin",
    "Ping",
    "Pong",
    "Publish",
    "Push",
    "Scope",
    "Start",
    "Status",
    "StatusReply",
    "Subscribe",
    "Subscribed",
    "TopicPurge",
    "Topics",
    "TopicsReply",
    "Transfer",
    "Transferred",
    "Unsubscribe",
    "Unsubscribed",
    "Welcome",
    "encode_acked",
    "encode_push",
    "from_frame",
    "to_frame",
    "to_parts",
]

HELLO_BYTES_MAX = 4_096
"""The largest first frame: until a hello has come, a stranger may make a node buffer no more than this."""

CLIENT_MESSAGES: tuple[type[Message], ...] = (
    Hello, Publish, Subscribe, Credit, Unsubscribe, Status, Topics, Ping, Transfer, LogInfo,
    LogSet, MemberAdd, MemberRemove, TopicPurge, Newest,
)  # fmt: skip
NODE_MESSAGES: tuple[type[Message], ...] = (
    Welcome, Acked, Subscribed, Push, Unsubscribed, StatusReply, TopicsReply, Pong, Error, Transferred,
    LogInfoReply, MembersReply, NewestReply,
)  # fmt: skip
BY_KIND: Mapping[int, type[Message]] = {message.KIND: message for message in CLIENT_MESSAGES + NODE_MESSAGES}


def to_frame(message: Message, request: int) -> bytes:
    """``message`` as a whole frame, ready to be sent."""
    return b"".join(to_parts(message, request))


def to_parts(message: Message, request: int) -> Sequence[bytes | memoryview]:
    """`to_frame` before it is put together: all but the body, and then the parts of that."""
    assert 0 <= request <= REQUEST_MAX
    assert message.SCOPE.allows(request), f"{message.NAME} as request {request}"
    body = message.body()
    return (encode_frame_head(message.KIND, request, message.header(), sum(map(len, body))), *body)


def from_frame(frame: Frame) -> Message:
    """The message in ``frame``; `ProtocolError` for an unknown kind, a wrong request id, field or body."""
    cls = BY_KIND.get(frame.kind)
    if cls is None:
        raise ProtocolError(f"frames of kind {frame.kind} do not exist in version {PROTOCOL_VERSION}")
    if not cls.SCOPE.allows(frame.request):
        raise ProtocolError(f"{cls.NAME}: request id {frame.request}; 0 is for the connection, others for requests")
    if frame.body and not cls.HAS_BODY:
        raise ProtocolError(f"{cls.NAME}: a body of {len(frame.body)} bytes; it has none")
    return cls.read(Fields(cls.NAME, frame.header), frame.body)
