"""Input that no client or node of ours would send: made from a seed, and what a port said to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from lanyinglog import record
from lanyinglog.errors import LanyingError
from lanyinglog.wire.connection import Connection, Role
from lanyinglog.wire.frames import encode_frame
from lanyinglog.wire.messages import Error, Hello, Origin, Publish, Start, Status, Subscribe, Topics, to_frame

ANSWER_S_MAX = 5.0
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes for a port."""

    kind: str
    data: bytes


def cases(count: int, *, seed: int) -> Iterator[Case]:
    """``count`` cases of all kinds in turn."""
    source = random.Random(seed)
    makers = list(_MAKERS.items())
    for number in range(count):
        kind, make = makers[number % len(makers)]
        yield Case(kind, make(source))


def _conversation(source: random.Random) -> bytes:
    """What a client in good order might send."""
    batch = record.encode_batch(source.randbytes(16), 1, [record.encode_columns("check.hostile", [b"x" * 50] * 5)])
    requests = [
        Publish(batch),
        Subscribe((">",), Start(Origin.FIRST), 100, 100_000),
        Status(),
        Topics(),
    ]
    chosen = source.sample(requests, source.randrange(1, len(requests) + 1))
    return to_frame(Hello(client="hostile"), 0) + b"".join(
        to_frame(one, number) for number, one in enumerate(chosen, 1)
    )


def _garbage(source: random.Random) -> bytes:
    return source.randbytes(source.randrange(1, 4096))


def _truncated(source: random.Random) -> bytes:
    whole = _conversation(source)
    return whole[: source.randrange(1, len(whole))]


def _flipped(source: random.Random) -> bytes:
    damaged = bytearray(_conversation(source))
    for _ in range(source.randrange(1, 9)):
        damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
    return bytes(damaged)


def _oversized(source: random.Random) -> bytes:
    """A head that promises far more than is allowed, and the start of it."""
    frame = bytearray(to_frame(Hello(client="x"), 0))
    frame[:4] = source.choice((1 << 31, (1 << 32) - 1, 16 << 20)).to_bytes(4, "little")
    return bytes(frame) + source.randbytes(2000)


def _wrong_version(source: random.Random) -> bytes:
    low = source.randrange(2, 60_000)
    return to_frame(Hello(low, low + source.randrange(5), "from the future"), 0)


def _out_of_order(source: random.Random) -> bytes:
    frames = [to_frame(Status(), 1), to_frame(Hello(), 0), to_frame(Hello(), 0), to_frame(Topics(), 2)]
    source.shuffle(frames)
    return b"".join(frames)


def _strange_header(source: random.Random) -> bytes:
    """A sound frame around fields of the wrong name, type or size."""
    values: list[object] = [None, -1, 1 << 62, "x" * 5000, [[]] * 50, {"a": {"b": {}}}, b"\xff", True, 1.5, "\0"]
    names = ["versions", "client", "log", "filters", "start", "credit_messages", "nonce", "node", "term", "proof"]
    header = {name: source.choice(values) for name in source.sample(names, source.randrange(len(names)))}
    frame = encode_frame(source.randrange(256), source.randrange(3), header, (source.randbytes(source.randrange(64)),))
    return (to_frame(Hello(), 0) if source.random() < 0.5 else b"") + frame


def _peer_words(source: random.Random) -> bytes:
    """What a node might say that does not know the secret: a hello, a proof, Raft messages."""
    hello = {
        "versions": source.choice(([2, 2], [2, 2], [1, 1], [3, 1], [], 2)),
        "cluster": source.choice(("lanyinglog", "other")),
        "node": source.choice(("n1", "n2", "n3", "n9")),
        "to": source.choice(("n1", "n2", "n3")),
        "client": "127.0.0.1:1",
        "nonce": source.randbytes(16),
    }
    proof = encode_frame(140, 0, {"proof": source.randbytes(32)})
    vote = encode_frame(135, 0, {"term": 1 << 40, "last_index": 1 << 40, "last_term": 1 << 40})
    return encode_frame(128, 0, hello) + source.choice((b"", proof, proof + vote, vote))


_MAKERS: dict[str, Callable[[random.Random], bytes]] = {
    "garbage": _garbage,
    "truncated": _truncated,
    "flipped": _flipped,
    "oversized": _oversized,
    "wrong version": _wrong_version,
    "out of order": _out_of_order,
    "strange header": _strange_header,
    "peer without secret": _peer_words,
}

KINDS = tuple(_MAKERS)


def unfinished_frame() -> bytes:
    """A good hello and the head of a large frame."""
    whole = to_frame(Publish(record.encode_batch(b"s" * 16, 1, [record.encode_columns("t", [b"x" * 50_000])])), 1)
    return to_frame(Hello(client="slow"), 0) + whole[:100]


async def send(case: Case, port: int) -> str:
    """How the node at ``port`` of loopback took it: ``error CODE``, ``answered``, ``closed`` or ``hung``.

    Our side of the connection is closed behind the last byte, so that a node has no reason to wait for more.
    """
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    received = bytearray()
    try:
        with trio.move_on_after(ANSWER_S_MAX) as patience:
            try:
                await stream.send_all(case.data)
                await stream.send_eof()
                async for chunk in stream:
                    received += chunk
            except trio.BrokenResourceError:
                pass  # a reset: it closed while we were still talking
    finally:
        await trio.aclose_forcefully(stream)
    return "hung" if patience.cancelled_caught else _meaning(bytes(received))


def _meaning(received: bytes) -> str:
    if not received:
        return "closed"
    reader = Connection(Role.CLIENT)
    reader.send(Hello(), 0)
    try:
        messages = [one.message for one in reader.receive(received)]
    except LanyingError:
        return "closed"  # a peer port's welcome: not for clients, and nothing came of it
    errors = [message.code for message in messages if isinstance(message, Error)]
    return f"error {errors[-1]}" if errors else "answered"


async def drip(port: int, *, start: bytes, seconds_max: float) -> float:
    """A slow loris: ``start``, then one byte now and then. Seconds until the node closed; inf if it did not."""
    began = trio.current_time()
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    try:
        with trio.move_on_after(seconds_max):
            try:
                await stream.send_all(start)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_drip_on, stream)
                    async for _ in stream:
                        pass
                    nursery.cancel_scope.cancel()
            except* trio.BrokenResourceError:
                pass
            return trio.current_time() - began
        return float("inf")
    finally:
        await trio.aclose_forcefully(stream)


async def _drip_on(stream: trio.abc.SendStream) -> None:
    while True:
        await trio.sleep(0.5)
        await stream.send_all(b"\0")
