"""GET of a few fixed paths over HTTP/1.1, one request a connection: enough for a monitoring system and a load balancer.

h11 knows the protocol; this file moves bytes between it and a socket. A request's body is not read.

Bounds (P8): `CONNECTIONS_MAX` at once, one more is closed; a connection lasts `CONNECTION_S_MAX`, whatever it does; a
request's head has at most `HEAD_BYTES_MAX`. Bad input, or an answer that can't be given, costs its own connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import h11
import structlog
import trio

CONNECTIONS_MAX = 16
CONNECTION_S_MAX = 10.0
HEAD_BYTES_MAX = 16 << 10
_READ_BYTES = 4_096
_TEXT = "text/plain; charset=utf-8"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body, and the body's type."""

    status: int
    body: bytes
    content_type: str = _TEXT


Route = Callable[[], Answer]


async def serve_http(listeners: Sequence[trio.SocketListener], routes: Mapping[str, Route]) -> None:
    """Answer with ``routes``, path -> answer, until cancelled."""
    await trio.serve_listeners(_Door(routes).serve, list(listeners))


class _Door:
    """Counts who is inside."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._inside = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self._inside += 1
        try:
            async with stream:
                if self._inside <= CONNECTIONS_MAX:
                    with trio.move_on_after(CONNECTION_S_MAX):
                        await _serve_one(stream, self._routes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it left first
        finally:
            self._inside -= 1


async def _serve_one(stream: trio.SocketStream, routes: Mapping[str, Route]) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
    try:
        request = await _request(stream, connection)
    except h11.RemoteProtocolError as error:
        answer = Answer(error.error_status_hint, f"{error}\n".encode())
        await _send(stream, connection, answer, with_body=True)
        return
    if request is not None:
        await _send(stream, connection, _answer(request, routes), with_body=request.method != b"HEAD")


async def _request(stream: trio.SocketStream, connection: h11.Connection) -> h11.Request | None:
    """The request that comes; None if its sender left before it was whole."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await stream.receive_some(_READ_BYTES))
    return event if isinstance(event, h11.Request) else None


def _answer(request: h11.Request, routes: Mapping[str, Route]) -> Answer:
    if request.method not in (b"GET", b"HEAD"):
        return Answer(405, b"GET and HEAD only\n")
    route = routes.get(request.target.partition(b"?")[0].decode("ascii", "replace"))
    if route is None:
        return Answer(404, f"there is {', '.join(sorted(routes))}\n".encode())
    try:
        return route()
    except Exception as error:  # a defect here is no reason for a node to end: it is told, and costs this answer
        path = request.target.decode("ascii", "replace")
        log.error("answer_failed", path=path, why=repr(error), exc_info=error)
        return Answer(500, b"the node failed to answer; its log says why\n")


async def _send(stream: trio.SocketStream, connection: h11.Connection, answer: Answer, *, with_body: bool) -> None:
    headers = [
        ("content-type", answer.content_type),
        ("content-length", str(len(answer.body))),
        ("connection", "close"),
    ]
    if answer.status == 405:
        headers.append(("allow", "GET, HEAD"))
    response = h11.Response(
        status_code=answer.status, reason=HTTPStatus(answer.status).phrase.encode(), headers=headers
    )
    events = [response, h11.Data(data=answer.body), h11.EndOfMessage()]
    parts = [connection.send(event) for event in events if with_body or not isinstance(event, h11.Data)]
    await stream.send_all(b"".join(part for part in parts if part))
    await stream.send_eof()
    while await stream.receive_some(_READ_BYTES):
        pass  # closed with something unread the system would take back what it has not yet delivered
