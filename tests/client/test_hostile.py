"""Servers that lie, babble or say nothing: a good one beside them is enough, and alone they end as a clear error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
import trio
from client.loopback import QUICK, Loopback
from client.test_client import go, read_all

import lanyinglog
from lanyinglog.errors import BadBatch, ContinuityError, NotSent, Outcome, OutcomeUnknown, Unavailable
from lanyinglog.record import encode_columns
from lanyinglog.service import Item
from lanyinglog.wire.connection import Connection, Role
from lanyinglog.wire.messages import (
    Acked,
    Error,
    Hello,
    Limits,
    Message,
    Ping,
    Pong,
    Publish,
    Status,
    StatusReply,
    Subscribe,
    Subscribed,
    Topics,
    TopicsReply,
    Unsubscribed,
    Welcome,
    encode_push,
    to_frame,
)

HASTY = replace(QUICK, connect_s=0.15, silence_s=0.2)
PATIENT = replace(QUICK, connect_s=0.3, silence_s=0.5)
"""Where a good server has to be heard among bad ones, on a machine that may be busy."""
WELCOME = Welcome(1, "evil", "twin", None, Limits())
LEADS: dict[str, Any] = {"role": "leader", "last_seq": 3, "peers": {}, "leader_client": None}
Reply = Callable[[int, Message], list[bytes]]
Handler = Callable[[trio.SocketStream], Awaitable[None]]


def says(first: bytes, *, then_close: bool = False) -> Handler:
    """A server that answers anything with ``first``."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65_536)
        await stream.send_all(first)
        while not then_close and await stream.receive_some(65_536):
            pass

    return serve


async def closes(stream: trio.SocketStream) -> None:
    pass


def node(answers: dict[type[Message], Reply]) -> Handler:
    """A node that is right up to the welcome and its status, and then answers as it is told."""
    usual: dict[type[Message], Reply] = {
        Hello: lambda request, message: [to_frame(WELCOME, 0)],
        Status: lambda request, message: [to_frame(StatusReply(LEADS), request)],
        Ping: lambda request, message: [to_frame(Pong(), request)],
    }
    replies = usual | answers

    async def serve(stream: trio.SocketStream) -> None:
        wire = Connection(Role.NODE)
        while chunk := await stream.receive_some(65_536):
            for request, message in wire.receive(chunk):
                if isinstance(message, Hello):
                    wire.send(WELCOME, 0)
                for frame in replies.get(type(message), lambda request, message: [])(request, message):
                    await stream.send_all(frame)

    return serve


def item(first_seq: int, count: int, run: bytes | None = None) -> Item:
    encoded = encode_columns("t", [b"%d" % (first_seq + i) for i in range(count)]) if run is None else run
    return Item(first_seq, 1_000 + first_seq, count, memoryview(encoded))


def push(prev: int, through: int, *items: Item) -> Callable[[int], bytes]:
    return lambda request: encode_push(request, prev=prev, through=through, items=items)[0]


def subscription(*frames: Callable[[int], bytes], next_seq: int = 1) -> Handler:
    """A node whose subscriptions begin at ``next_seq`` and consist of ``frames``."""
    begun = [lambda request: to_frame(Subscribed(next_seq, 3), request), *frames]
    return node({Subscribe: lambda request, message: [frame(request) for frame in begun]})


def flipped(frame: Callable[[int], bytes], at: int) -> Callable[[int], bytes]:
    def broken(request: int) -> bytes:
        encoded = bytearray(frame(request))
        encoded[at] ^= 1
        return bytes(encoded)

    return broken


def error(code: str, outcome: Outcome = Outcome.DEFINITE) -> bytes:
    return to_frame(Error(code, outcome, "because I say so"), 0)


NO_NODES: dict[str, Handler] = {
    "closes at once": closes,
    "silent": says(b""),
    "another protocol": says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "a hostile length": says(b"\xff\xff\xff\xff" * 10),
    "half a welcome": says(to_frame(WELCOME, 0)[:20]),
    "half a welcome, then the end": says(to_frame(WELCOME, 0)[:20], then_close=True),
    "a welcome with a flipped bit": says(flipped(lambda request: to_frame(WELCOME, 0), 30)(0)),
    "another version": says(to_frame(replace(WELCOME, version=9), 0)),
    "an unsupported version": says(error("unsupported_version"), then_close=True),
    "shutting down": says(error("shutting_down"), then_close=True),
    "no welcome but an answer": says(to_frame(Pong(), 1)),
    "welcome twice": says(to_frame(WELCOME, 0) * 2),
    "a version that changes later": node({Status: lambda request, message: [error("unsupported_version")]}),
    "a status of nothing": node({Status: lambda request, message: [to_frame(Pong(), request)]}),
    "a status of an unknown kind": node({Status: lambda request, message: [b"\x10\0\0\0\xff" + bytes(15)]}),
}


@pytest.mark.parametrize("handler", NO_NODES.values(), ids=NO_NODES)
def test_a_server_that_is_no_node_costs_nothing_but_itself(cluster: Loopback, backend: str, handler: Handler) -> None:
    async def main() -> None:
        evil = cluster.serve(handler)
        async with lanyinglog.connect([evil, cluster.servers[0]], timing=PATIENT, timeout=5) as client:
            assert (await client.publish("t", b"1")).seq == 1
            async with client.publisher() as publisher:
                await publisher.send("t", b"2")
            assert [message.seq for message in await read_all(client)] == [1, 2]
            assert [one.topic for one in await client.topics()] == ["t"]
            assert "leader" in [row["role"] for row in await client.status()]

    go(backend, main)


@pytest.mark.parametrize("handler", NO_NODES.values(), ids=NO_NODES)
def test_alone_it_ends_as_a_clear_error(cluster: Loopback, handler: Handler) -> None:
    async def main() -> None:
        evil = cluster.serve(handler)
        async with lanyinglog.connect(evil, timing=HASTY, timeout=0.1) as client:
            with pytest.raises(NotSent) as caught:
                await client.publish("t", b"1")
            assert caught.value.outcome is Outcome.DEFINITE
            with pytest.raises(lanyinglog.LanyingError):
                await read_all(client)

    go("asyncio", main)


BAD_PUSHES: dict[str, tuple[Handler, type[Exception], str]] = {
    "a gap in prev": (
        subscription(push(0, 2, item(1, 2)), push(5, 6, item(6, 1))), ContinuityError, "goes on behind seq 5"),
    "a step back": (subscription(push(0, 2, item(1, 2)), push(1, 2, item(2, 1))), ContinuityError, "behind seq 1"),
    "a gap inside": (subscription(push(0, 9, item(1, 2), item(8, 2))), ContinuityError, "3 to 7 are missing"),
    "a gap at the end": (subscription(push(0, 9, item(1, 2))), ContinuityError, "its messages at 2"),
    "a start before the one asked for": (subscription(next_seq=1), ContinuityError, "begins at 1"),
    "a run that is damaged": (
        subscription(push(0, 2, item(1, 2, encode_columns("t", [b"1", b"2"])[:-1] + b"X"))), BadBatch, "CRC32C"),
    "a run of nonsense": (
        subscription(push(0, 1, item(1, 1, encode_columns("t", [b"\0" * 40])[:20] + bytes(50)))), BadBatch, "to 1:"),
    "heads that fail their CRC32C": (
        subscription(flipped(push(0, 2, item(1, 2)), -70)), Unavailable, "broke the protocol"),
    "a push before it began": (
        node({Subscribe: lambda request, message: [push(0, 2, item(1, 2))(request)]}), Unavailable, "with push"),
    "an acknowledgement": (
        node({Subscribe: lambda request, message: [to_frame(Acked(1, 1, 1), request)]}), Unavailable, "acked"),
    "an end at once": (subscription(lambda request: to_frame(Unsubscribed(), request)), Unavailable, "unsubscribed"),
    "a push for another request": (
        subscription(lambda request: push(0, 2, item(1, 2))(request + 1)), Unavailable, "sent push"),
    "an error that it can't read": (
        subscription(lambda request: to_frame(Error("corrupt_entry", Outcome.DEFINITE, "ouch"), request)),
        Unavailable, "ouch"),
    "silence": (node({Ping: lambda request, message: []}), Unavailable, "did not open"),
}  # fmt: skip


@pytest.mark.parametrize(("handler", "expected", "words"), BAD_PUSHES.values(), ids=BAD_PUSHES)
def test_a_subscription_is_never_led_astray(
    cluster: Loopback, backend: str, handler: Handler, expected: type[Exception], words: str
) -> None:
    async def main() -> None:
        evil = cluster.serve(handler)
        start = 2 if "begins" in words else 1
        seen: list[int] = []
        async with lanyinglog.connect(evil, timing=HASTY, timeout=0.3) as client:
            with pytest.raises(expected, match=words):
                async with client.subscribe(">", start=start) as messages:
                    async for message in messages:
                        seen.append(message.seq)
        assert seen in ([], [1, 2])

    go(backend, main)


def test_a_damaged_copy_is_read_from_another_node(cluster: Loopback, backend: str) -> None:
    damaged = encode_columns("t", [b"1", b"2"])[:-1] + b"X"

    async def main() -> None:
        evil = cluster.serve(subscription(push(0, 2, item(1, 2, damaged))))
        async with lanyinglog.connect(cluster.servers, timing=HASTY) as client:
            await client.publish_many("t", [b"1", b"2", b"3"])
        async with lanyinglog.connect(evil, timing=HASTY, timeout=5) as client:
            client._servers.learn(cluster.servers[0])
            assert [message.seq for message in await read_all(client, until=3)] == [1, 2, 3]

    go(backend, main)


BAD_LEADERS: dict[str, tuple[Handler, type[Exception]]] = {
    "never acknowledges": (node({}), OutcomeUnknown),
    "acknowledges too much": (
        node({Publish: lambda request, message: [to_frame(Acked(1, 9, 1), request)]}), ContinuityError),
    "answers with something else": (
        node({Publish: lambda request, message: [to_frame(TopicsReply(()), request)]}), OutcomeUnknown),
    "closes": (node({Publish: lambda request, message: [error("internal", Outcome.UNKNOWN)]}), OutcomeUnknown),
    "is busy for ever": (
        node({Publish: lambda request, message: [to_frame(Error("busy", Outcome.DEFINITE, "no"), request)]}), NotSent),
    "says not me for ever": (
        node({Publish: lambda request, message: [to_frame(Error("not_leader", Outcome.DEFINITE, "no"), request)]}),
        NotSent),
}  # fmt: skip


@pytest.mark.parametrize(("handler", "expected"), BAD_LEADERS.values(), ids=BAD_LEADERS)
def test_whatever_a_leader_answers_the_outcome_is_honest(
    cluster: Loopback, backend: str, handler: Handler, expected: type[Exception]
) -> None:
    async def main() -> None:
        async with lanyinglog.connect(cluster.serve(handler), timing=HASTY, timeout=0.15) as client:
            with pytest.raises(lanyinglog.LanyingError) as one:
                await client.publish("t", b"1")
            # What time ran out on may have been on its way to a node for one more attempt.
            with pytest.raises((NotSent, OutcomeUnknown) if expected is NotSent else expected):
                async with client.publisher() as publisher:
                    await publisher.send("t", b"1")
        assert one.type in (expected, OutcomeUnknown)

    go(backend, main)


def test_an_acknowledgement_counts_though_nonsense_follows_it_at_once(cluster: Loopback, backend: str) -> None:
    unanswered: list[int] = []

    def answer(request: int, message: Message) -> list[bytes]:
        unanswered.append(request)
        if len(unanswered) < 2:
            return []
        first, second = unanswered
        return [to_frame(Acked(1, 1, 1), first) + to_frame(TopicsReply(()), second)]

    def status(request: int, message: Message) -> list[bytes]:
        """From then on nobody leads."""
        return [to_frame(StatusReply(LEADS if len(unanswered) < 2 else {}), request)]

    leader = cluster.serve(node({Publish: answer, Status: status}))

    async def main() -> None:
        async with lanyinglog.connect(leader, timing=replace(QUICK, stall_s=60)) as client:
            publisher = await client.publisher(batch_messages=1).__aenter__()
            first = await publisher.send("t", b"1")
            await publisher.send("t", b"2")
            assert (await first).seq == 1

    go(backend, main)


def test_a_list_of_topics_without_end_is_not_believed(cluster: Loopback) -> None:
    row = lanyinglog.TopicStat("t", 1, 1, 1, 1)
    endless = node({Topics: lambda request, message: [to_frame(TopicsReply((row,), more=True), request)]})

    async def main() -> None:
        async with lanyinglog.connect(cluster.serve(endless), timing=HASTY, timeout=0.3) as client:
            with pytest.raises(Unavailable, match="without end"):
                await client.topics()

    go("trio", main)


def test_a_node_can_not_make_a_client_remember_any_number_of_servers(cluster: Loopback) -> None:
    peers = {f"n{place}": {"client": f"127.0.0.1:{1_000 + place}"} for place in range(1_000)}
    boaster = node({Status: lambda request, message: [to_frame(StatusReply(LEADS | {"peers": peers}), request)]})

    async def main() -> None:
        async with lanyinglog.connect(cluster.serve(boaster), timing=HASTY, timeout=0.3) as client:
            with anyio.move_on_after(0.2):
                await client.publish("t", b"1")
            assert len(client._servers.addresses) == 64

    go("trio", main)
