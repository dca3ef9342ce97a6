"""etcd: three members; a message is a key with a rising number, its subscriber a watch.

Spoken to through gRPC with messages encoded by hand (`grpcio` carries bytes): the few fields are those of
``rpc.proto`` and ``kv.proto`` of etcd's API, version 3.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import count as count_from
from typing import Any, TypeVar

from benchmarks.machine import program_version
from benchmarks.processes import Trouble, Workplace, find_program, free_ports, workplace
from benchmarks.schedule import Schedule, latency_s, now_ns, stamp
from benchmarks.system import NODES, Cluster, Load, Published, System

T = TypeVar("T")
IN_FLIGHT = 256
"""Puts in flight when a client publishes as fast as it can; more did not help."""
QUOTA_BYTES = 8 << 30
PUT, WATCH, RANGE = "/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch", "/etcdserverpb.KV/Range"
PREFIX, PREFIX_END = b"bench/", b"bench0"
ANSWER_S_MAX = 60.0
PAGE = 2_000


# --------------------------------------------------------------------------------------------- protocol buffers
def varint(value: int) -> bytes:
    """``value``, not negative, 7 bits a byte, the least first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(*fields: tuple[int, bytes | int]) -> bytes:
    """Fields by number: bytes as they are, integers as varints."""
    parts: list[bytes] = []
    for number, value in fields:
        if isinstance(value, int):
            parts += (varint(number << 3), varint(value))
        else:
            parts += (varint(number << 3 | 2), varint(len(value)), value)
    return b"".join(parts)


def decode(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a message, of the two kinds that `encode` knows."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == 2:
            yield tag >> 3, message[at : at + value]
            at += value
        elif tag & 7 == 0:
            yield tag >> 3, value
        else:
            raise Trouble(f"a field of wire type {tag & 7}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at


def put(number: int, payload: bytes) -> bytes:
    """A request that stores message ``number``."""
    return encode((1, PREFIX + b"%012d" % number), (2, payload))


def key_values(message: bytes, field: int) -> list[tuple[bytes, bytes]]:
    """Keys and values of the key-value messages in a field that repeats."""
    found = []
    for number, value in decode(message):
        if number == field and isinstance(value, bytes):
            inner = dict(decode(value))
            found.append((bytes(inner.get(1, b"")), bytes(inner.get(5, b""))))
    return found


def watched(message: bytes) -> list[bytes]:
    """The values in a watch's response: its events (11) have a key-value (2) each."""
    events = [value for number, value in decode(message) if number == 11 and isinstance(value, bytes)]
    return [value for event in events for _, value in key_values(event, 2)]


# ----------------------------------------------------------------------------------------------------- cluster
class EtcdCluster(Cluster):
    """See the module."""

    def __init__(self, place: Workplace) -> None:
        super().__init__(place)
        ports = free_ports(2 * NODES)
        self._clients, self._peers = ports[:NODES], ports[NODES:]
        self._numbers = count_from(1)

    def start_all(self) -> None:
        """Returns when all members say that they are healthy."""
        members = ",".join(f"m{i}=http://127.0.0.1:{port}" for i, port in enumerate(self._peers))
        for i in range(NODES):
            client, peer = f"http://127.0.0.1:{self._clients[i]}", f"http://127.0.0.1:{self._peers[i]}"
            options = {
                "--name": f"m{i}",
                "--data-dir": str(self.place.directory / f"m{i}"),
                "--listen-client-urls": client,
                "--advertise-client-urls": client,
                "--listen-peer-urls": peer,
                "--initial-advertise-peer-urls": peer,
                "--initial-cluster": members,
                "--quota-backend-bytes": str(QUOTA_BYTES),
            }
            words = [word for pair in options.items() for word in pair]
            self.place.spawn(f"m{i}", [find_program("etcd") or "", *words])
        self.place.wait(lambda: all(map(_is_healthy, self._clients)), what="healthy members")

    def _run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async def run() -> T:
            import grpc

            async with grpc.aio.insecure_channel(f"127.0.0.1:{self._clients[0]}") as channel:
                return await work(channel)

        return asyncio.run(run())

    def publish(self, load: Load) -> Published:
        return self._run(lambda channel: _publish(channel.unary_unary(PUT), load, self._numbers))

    def publish_each(self, load: Load) -> list[float]:
        async def publish_each(channel: Any) -> list[float]:
            store = channel.unary_unary(PUT)
            took = []
            for (payload,) in load.chunks(1):
                began = time.perf_counter()
                await store(put(next(self._numbers), payload))
                took.append(time.perf_counter() - began)
            return took

        return self._run(publish_each)

    def tail(self, schedule: Schedule, payload_bytes: int) -> list[float]:
        return self._run(lambda channel: _tail(channel, schedule, payload_bytes, self._numbers))

    def replay(self, count: int, *, behind: int = 0) -> float:
        return self._run(lambda channel: _replay(channel.unary_unary(RANGE), count, behind))


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return b'"true"' in answer.read()
    except OSError:
        return False


async def _publish(store: Any, load: Load, numbers: Iterator[int]) -> Published:
    began, sent, payload_bytes = time.perf_counter(), 0, 0
    chunks = load.chunks(1)

    async def producer() -> None:
        nonlocal sent, payload_bytes
        for (payload,) in chunks:
            await store(put(next(numbers), payload))
            sent += 1
            payload_bytes += len(payload)
            if time.perf_counter() - began > load.seconds:
                return

    await asyncio.gather(*(producer() for _ in range(IN_FLIGHT)))
    return Published(sent, payload_bytes, time.perf_counter() - began)


async def _tail(channel: Any, schedule: Schedule, payload_bytes: int, numbers: Iterator[int]) -> list[float]:
    watch = channel.stream_stream(WATCH)(_watch_request())
    await watch.read()  # it is created
    store = channel.unary_unary(PUT)
    publisher = asyncio.create_task(_publish_on(store, schedule, payload_bytes, numbers))
    latencies: list[float] = []
    async with asyncio.timeout(schedule.count / schedule.rate + ANSWER_S_MAX):
        while len(latencies) < schedule.count:
            message = await watch.read()
            received_ns = now_ns()
            latencies += [latency_s(value, received_ns) for value in watched(message)]
        await publisher
    return latencies


async def _watch_request() -> AsyncIterator[bytes]:
    yield encode((1, encode((1, PREFIX), (2, PREFIX_END))))
    await asyncio.Event().wait()  # the end of the requests would be the end of the watch


async def _publish_on(store: Any, schedule: Schedule, payload_bytes: int, numbers: Iterator[int]) -> None:
    begins_ns, sent, calls = now_ns() + 50_000_000, 0, []
    while sent < schedule.count:
        due = schedule.due_count(begins_ns, now_ns())
        for i in range(sent, due):
            payload = stamp(schedule.due_ns(begins_ns, i), payload_bytes)
            calls.append(store(put(next(numbers), payload)))
        sent = due
        await asyncio.sleep(max(0, schedule.due_ns(begins_ns, sent) - now_ns()) / 1e9)
    await asyncio.gather(*calls)


async def _replay(read: Any, count: int, behind: int) -> float:
    began, received = time.perf_counter(), 0
    start = PREFIX + b"%012d" % (behind + 1)
    while received < count:
        found = key_values(await read(encode((1, start), (2, PREFIX_END), (3, min(PAGE, count - received)))), 2)
        if not found:
            raise Trouble(f"{received} of {count} messages are there")
        received += len(found)
        start = found[-1][0] + b"\0"
    return time.perf_counter() - began


class Etcd(System):
    """See the module."""

    name = "etcd"
    client = "grpcio (Python)"
    durability = "fdatasync on a majority of 3 before the reply"
    answers = frozenset({"throughput", "latency", "tail", "replay", "cpu"})

    def missing(self) -> list[str]:
        missing = []
        if find_program("etcd") is None:
            missing.append("etcd (Debian: apt install etcd-server)")
        if importlib.util.find_spec("grpc") is None:
            missing.append("grpcio (pip install grpcio)")
        return missing

    def version(self) -> str:
        return program_version("etcd", "--version")

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        with workplace() as place:
            cluster = EtcdCluster(place)
            cluster.start_all()
            yield cluster


SYSTEMS: Sequence[System] = (Etcd(),)
