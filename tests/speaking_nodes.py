"""Nodes that say of themselves what a test wants: enough of the protocol for a hello and a status, on real sockets."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from lanyinglog.wire.connection import Connection, Role
from lanyinglog.wire.messages import Hello, Limits, StatusReply, Welcome

HEALTH: dict[str, Any] = {
    "version": "0", "clock_ns": 0, "disk_bytes": 100 << 30, "disk_free_bytes": 50 << 30, "files_max": -1,
    "files_needed": 64, "writes": 0,
}  # fmt: skip


class _Speaker(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        connection = Connection(Role.NODE)
        while chunk := self.request.recv(65_536):
            for received in connection.receive(chunk):
                if isinstance(received.message, Hello):
                    welcome = Welcome(1, server.status["node"], "c", None, Limits())
                    self.request.sendall(connection.send(welcome, received.request))
                elif server.may_answer():
                    self.request.sendall(connection.send(StatusReply(server.status), received.request))
                else:
                    return


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, status: dict[str, Any], answers: int | None) -> None:
        super().__init__(("127.0.0.1", 0), _Speaker)
        self.status = status
        self._left = answers

    def may_answer(self) -> bool:
        if self._left is None:
            return True
        self._left -= 1
        return self._left >= 0


@contextmanager
def speaking_nodes(*names: str, answers: Mapping[str, int] | None = None) -> Iterator[str]:
    """A sound cluster of ``names``, of which the first leads, and each names a client address where nobody is; the
    ``--server`` of all. ``answers``: how many questions a node answers before it falls silent."""
    with ExitStack() as stack:
        servers = []
        for node in names:
            server = stack.enter_context(_Server(_status(node, names), (answers or {}).get(node)))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            servers.append(f"127.0.0.1:{server.server_address[1]}")
        yield ",".join(servers)


def _status(node: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "node": node, "client": "127.0.0.1:1", "role": "leader" if node == names[0] else "follower", "term": 1,
        "commit": 1, "applied": 1, "last_seq": 0, "members": dict.fromkeys(names, "voter"), "health": HEALTH,
        "peers": {other: {"connected": True, "client": "127.0.0.1:1"} for other in names if other != node},
    }  # fmt: skip
