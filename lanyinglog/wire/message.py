"""What every message of the client protocol has in common: kind, name, scope, and the way to and from a frame."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar, Self

from lanyinglog.wire.fields import Fields


class Scope(Enum):
    """What a message is about, and so its request id: 0 for the connection, another for one request."""

    CONNECTION = "connection"
    REQUEST = "request"
    EITHER = "either"

    def allows(self, request: int) -> bool:
        return self is Scope.EITHER or (self is Scope.CONNECTION) == (request == 0)


class Message:
    """The root of all messages, each of which is a frozen dataclass."""

    __slots__ = ()
    KIND: ClassVar[int]
    NAME: ClassVar[str]
    SCOPE: ClassVar[Scope] = Scope.REQUEST
    HAS_BODY: ClassVar[bool] = False

    def header(self) -> dict[str, Any]:
        """The fields of the frame's header."""
        return {}

    def body(self) -> Sequence[bytes | memoryview]:
        """The frame's raw bytes, in parts."""
        return ()

    @classmethod
    def read(cls, fields: Fields, body: bytes) -> Self:
        """The message in a frame; `ProtocolError` says what is wrong with it."""
        return cls()
