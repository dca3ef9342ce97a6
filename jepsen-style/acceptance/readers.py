"""Reading a topic back, each way there is: command line, async client on asyncio and on trio, blocking client."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import anyio

import lanyinglog
from acceptance.cluster import lanyinglog as program
from acceptance.cluster import require


class Message(NamedTuple):
    """What a check compares."""

    seq: int
    timestamp: int
    payload: bytes


def by_async_client(server: str, topic: str, *, backend: str) -> list[Message]:
    """All of ``topic`` up to what is committed now, from the node at ``server`` alone."""
    return anyio.run(_read, server, topic, backend=backend)


async def _read(server: str, topic: str) -> list[Message]:
    async with (
        lanyinglog.connect(server) as client,
        client.subscribe(topic, start="first", until="last") as subscription,
    ):
        return [Message(m.seq, m.timestamp, m.payload) async for batch in subscription.batches() for m in batch]


def by_blocking_client(server: str, topic: str) -> list[Message]:
    """The same, without an event loop in sight."""
    with (
        lanyinglog.sync.connect(server) as client,
        client.subscribe(topic, start="first", until="last") as subscription,
    ):
        return [Message(m.seq, m.timestamp, m.payload) for batch in subscription.batches() for m in batch]


def by_command_line(server: str, topic: str) -> list[Message]:
    """The same, through ``lanyinglog subscribe``."""
    printed = program(
        "subscribe", topic, "--from", "first", "--until", "last", "--server", server, "--format", "json"
    ).stdout
    found = []
    for line in printed.splitlines():
        shown = json.loads(line)
        payload = shown["payload"].encode() if "payload" in shown else _from_base64(shown["payload_b64"])
        found.append(Message(shown["seq"], shown["timestamp"], payload))
    return found


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


READERS: dict[str, Callable[[str, str], list[Message]]] = {
    "command line": by_command_line,
    "async client on asyncio": partial(by_async_client, backend="asyncio"),
    "async client on trio": partial(by_async_client, backend="trio"),
    "blocking client": by_blocking_client,
}


def require_order(messages: list[Message], *, where: str) -> None:
    """Seqs and timestamps rise strictly; so both are unique (P2)."""
    for before, after in pairwise(messages):
        require(after.seq > before.seq, f"{where}: seq {after.seq} comes behind {before.seq}")
        require(after.timestamp > before.timestamp, f"{where}: the timestamp of seq {after.seq} does not rise")
