"""What a monitoring system asks over HTTP is answered; what else comes costs its own connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from lanyinglog.gateway.http import CONNECTION_S_MAX, CONNECTIONS_MAX, HEAD_BYTES_MAX, Answer, Route, serve_http

pytestmark = pytest.mark.trio


def _fails() -> Answer:
    raise KeyError("role")


ROUTES: Mapping[str, Route] = {"/metrics": lambda: Answer(200, b"a 1\n"), "/broken": _fails}


@asynccontextmanager
async def served() -> AsyncIterator[tuple[str, int]]:
    """The address of a server of `ROUTES`."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_http, [listener], ROUTES)
        yield listener.socket.getsockname()[:2]
        nursery.cancel_scope.cancel()


async def _all(stream: trio.abc.Stream) -> bytes:
    received = b""
    while part := await stream.receive_some(4096):
        received += part
    return received


async def _asked(address: tuple[str, int], request: bytes) -> tuple[bytes, bytes]:
    """(the first line, the body) of the answer."""
    with trio.fail_after(10):
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(request)
            head, _, body = (await _all(stream)).partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0], body


def _get(path: bytes, method: bytes = b"GET") -> bytes:
    return method + b" " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "line", "body"),
    [
        pytest.param(_get(b"/metrics"), b"HTTP/1.1 200 OK", b"a 1\n", id="get"),
        pytest.param(_get(b"/metrics?x=1"), b"HTTP/1.1 200 OK", b"a 1\n", id="query"),
        pytest.param(_get(b"/metrics", b"HEAD"), b"HTTP/1.1 200 OK", b"", id="head"),
        pytest.param(_get(b"/"), b"HTTP/1.1 404 Not Found", b"there is /broken, /metrics\n", id="elsewhere"),
        pytest.param(_get(b"/metrics", b"DELETE"), b"HTTP/1.1 405 Method Not Allowed", b"GET and HEAD only\n", id="no"),
        pytest.param(b"GET /metrics HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK", b"a 1\n", id="http-1.0"),
    ],
)
async def test_a_request_is_answered(request_: bytes, line: bytes, body: bytes) -> None:
    async with served() as address:
        assert await _asked(address, request_) == (line, body)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        pytest.param(b"junk\r\n\r\n", b" 400 ", id="junk"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", b" 400 ", id="no-host"),
        pytest.param(b"GET / HTTP/1.1\r\nx: " + b"y" * HEAD_BYTES_MAX, b" 431 ", id="endless-head"),
        pytest.param(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123", b" 405 ", id="body"),
    ],
)
async def test_bad_input_is_told_and_costs_its_own_connection(request_: bytes, code: bytes) -> None:
    async with served() as address:
        line, _ = await _asked(address, request_)
        assert code in line
        assert (await _asked(address, _get(b"/metrics")))[1] == b"a 1\n"


async def test_an_answer_that_fails_is_told_and_the_server_goes_on() -> None:
    with capture_logs() as said:
        async with served() as address:
            assert (await _asked(address, _get(b"/broken")))[0] == b"HTTP/1.1 500 Internal Server Error"
            assert (await _asked(address, _get(b"/metrics")))[1] == b"a 1\n"
    assert [(one["event"], one["path"]) for one in said] == [("answer_failed", "/broken")]


async def test_no_more_than_so_many_are_served_at_once() -> None:
    with trio.fail_after(10):
        async with served() as address:
            idle = [await trio.open_tcp_stream(*address) for _ in range(CONNECTIONS_MAX)]
            await trio.testing.wait_all_tasks_blocked()
            async with await trio.open_tcp_stream(*address) as one_more:
                assert await _all(one_more) == b""
            await idle[0].aclose()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert (await _asked(address, _get(b"/metrics")))[1] == b"a 1\n"
            for stream in idle[1:]:
                await stream.aclose()


async def test_who_asks_slowly_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    async with served() as address, await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(b"GET /met")
        started = trio.current_time()
        assert await _all(stream) == b""
        assert trio.current_time() - started <= CONNECTION_S_MAX + 1
