"""What one node says and no other: the product's client would go to another node when this one declines."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from lanyinglog.record import Message, decode_run
from lanyinglog.wire.connection import Connection, Role
from lanyinglog.wire.messages import Error, Hello, Origin, Push, Start, Subscribe
from lanyinglog.wire.messages import Message as WireMessage

_READ_BYTES = 1 << 18
_CREDIT = 1 << 40


def read(server: str, topic: str, *, through: int, timeout_s: float = 30.0) -> Iterator[Message]:
    """``topic`` from the first message up to seq ``through``, as the node at ``server`` serves it; raises the
    `LanyingError` that it answers with."""
    host, _, port = server.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=timeout_s) as stream:
        connection = Connection(Role.CLIENT)
        stream.sendall(connection.send(Hello(client="pinned"), 0))
        subscribed = False
        for message in _messages(stream, connection):
            if not subscribed:  # that was the welcome
                stream.sendall(connection.send(Subscribe((topic,), Start(Origin.FIRST), _CREDIT, _CREDIT), 1))
                subscribed = True
            elif isinstance(message, Error):
                raise message.exception()
            elif isinstance(message, Push):
                for item in message.items:
                    yield from decode_run(item.run, first_seq=item.first_seq, timestamp=item.timestamp)
                if message.through >= through:
                    return


def _messages(stream: socket.socket, connection: Connection) -> Iterator[WireMessage]:
    while chunk := stream.recv(_READ_BYTES):
        for received in connection.receive(chunk):
            yield received.message
