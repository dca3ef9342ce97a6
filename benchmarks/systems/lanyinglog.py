"""lanyinglog itself: three nodes as an operator starts them, and its Python client under trio."""

from __future__ import annotations

import contextlib
import math
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count as count_from
from pathlib import Path
from typing import Any

import trio

import lanyinglog as product
from benchmarks.processes import Trouble, Workplace, accepts, free_ports, workplace
from benchmarks.samples import longest_gap
from benchmarks.schedule import Schedule, latency_s, now_ns, stamp
from benchmarks.system import NODES, QUESTIONS, TOPIC, Closed, Cluster, Delivered, Load, Published, System
from benchmarks.systems.sockets import Talk, closed, sockets
from lanyinglog import record
from lanyinglog.errors import LanyingError
from lanyinglog.wire.messages import Hello, Origin, Publish, Start, Subscribe, to_frame

CHUNK_BYTES = 128 << 10
"""How much an application has ready at a time."""
ANSWER_S_MAX = 60.0
STATUS_S_MAX = 2.0
KILL_AFTER_S = 1.0
CONNECTIONS_MAX = 6_000
CREDIT = 1 << 40
PRODUCER_RATE_MAX = 20_000
"""Requests are prepared for at most so many a second, all producers together."""
HELLO = Hello(client="benchmark")


class LanyingCluster(Cluster):
    """See the module."""

    def __init__(self, place: Workplace) -> None:
        super().__init__(place)
        ports = free_ports(2 * NODES)
        self._names = [f"n{i + 1}" for i in range(NODES)]
        self._clients = dict(zip(self._names, ports[:NODES], strict=True))
        self._peers = dict(zip(self._names, ports[NODES:], strict=True))
        (place.directory / "secret").write_text(secrets.token_hex(32))
        (place.directory / "secret").chmod(0o600)

    @property
    def servers(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self._clients.values())

    # ------------------------------------------------------------------------------------------------- nodes
    def start(self, name: str) -> None:
        """Start a node, whether or not it has run before."""
        peers = ",".join(f"{one}=127.0.0.1:{port}" for one, port in self._peers.items())
        options = {
            "--id": name,
            "--data": str(self.place.directory / name),
            "--client-listen": f"127.0.0.1:{self._clients[name]}",
            "--peer-listen": f"127.0.0.1:{self._peers[name]}",
            "--peers": peers,
            "--secret-file": str(self.place.directory / "secret"),
            "--limit": f"connections_max={CONNECTIONS_MAX}",
        }
        self.place.spawn(
            name,
            [sys.executable, "-m", "lanyinglog", "node", *(word for pair in options.items() for word in pair)],
            environment={"PYTHONPATH": str(Path(product.__file__).resolve().parent.parent)},
        )

    def start_all(self) -> None:
        """Returns when there is a leader and the others follow."""
        for name in self._names:
            self.start(name)
        self.place.wait(lambda: all(map(accepts, self._clients.values())), what="nodes that listen")
        self.place.wait(self._is_settled, what="a leader that all follow")

    def _is_settled(self) -> bool:
        rows = self.status()
        roles = sorted(row["role"] for row in rows.values())
        return roles == ["follower"] * (NODES - 1) + ["leader"] and len({row["last_seq"] for row in rows.values()}) == 1

    def status(self) -> dict[str, dict[str, Any]]:
        """What each node says, by name; nothing of those that do not answer."""
        return trio.run(self._status)

    async def _status(self) -> dict[str, dict[str, Any]]:
        with contextlib.suppress(LanyingError):
            async with product.connect(self.servers, timeout=STATUS_S_MAX) as client:
                return {row["node"]: row for row in await client.status() if row["role"] != "unreachable"}
        return {}

    def leader(self) -> str:
        """The name of the leader, once all nodes agree on it."""
        self.place.wait(self._is_settled, what="a leader that all follow")
        return next(name for name, row in self.status().items() if row["role"] == "leader")

    def _last_seq(self) -> int:
        return max((int(row["last_seq"]) for row in self.status().values()), default=0)

    # ------------------------------------------------------------------------------------------------- publishing
    def publish(self, load: Load) -> Published:
        return trio.run(self._publish, load)

    async def _publish(self, load: Load) -> Published:
        average = sum(map(len, load.pool)) / len(load.pool)
        settings: dict[str, Any] = {"compression": load.compression}
        if load.batch is not None:
            settings["batch_bytes"] = max(1, math.floor(load.batch * average))
        chunks = load.chunks(max(1, round(CHUNK_BYTES / average)))
        payload_bytes = 0
        async with product.connect(self.servers) as client, client.publisher(**settings) as publisher:
            began = time.perf_counter()
            for chunk in chunks:
                await publisher.send_many(TOPIC, chunk)
                payload_bytes += sum(map(len, chunk))
                if time.perf_counter() - began > load.seconds:
                    break
            await publisher.flush()
            return Published(publisher.acknowledged, payload_bytes, time.perf_counter() - began)

    def publish_each(self, load: Load) -> list[float]:
        return trio.run(self._publish_each, load)

    async def _publish_each(self, load: Load) -> list[float]:
        took = []
        async with product.connect(self.servers) as client:
            for chunk in load.chunks(1):
                began = time.perf_counter()
                await client.publish(TOPIC, chunk[0])
                took.append(time.perf_counter() - began)
        return took

    # ------------------------------------------------------------------------------------------------- subscribing
    def tail(self, schedule: Schedule, payload_bytes: int) -> list[float]:
        return trio.run(self._tail, schedule, payload_bytes)

    async def _tail(self, schedule: Schedule, payload_bytes: int) -> list[float]:
        latencies: list[float] = []
        async with product.connect(self.servers) as client:
            subscription = client.subscribe(TOPIC, start="new")
            async with subscription as messages, trio.open_nursery() as nursery:
                nursery.start_soon(self._publish_on, client, schedule, payload_bytes)
                with trio.move_on_after(schedule.count / schedule.rate + ANSWER_S_MAX):
                    async for batch in messages.batches():
                        received_ns = now_ns()
                        latencies += [latency_s(message.payload, received_ns) for message in batch]
                        if len(latencies) >= schedule.count:
                            return latencies
        raise Trouble(f"{len(latencies)} of {schedule.count} messages arrived")

    async def _publish_on(self, client: product.Client, schedule: Schedule, payload_bytes: int) -> None:
        async with client.publisher() as publisher:
            await publisher.flush()
            begins_ns, sent = now_ns() + 50_000_000, 0
            while sent < schedule.count:
                due = schedule.due_count(begins_ns, now_ns())
                if due > sent:
                    payloads = [stamp(schedule.due_ns(begins_ns, i), payload_bytes) for i in range(sent, due)]
                    await publisher.send_many(TOPIC, payloads)
                    sent = due
                await trio.sleep(max(0, schedule.due_ns(begins_ns, sent) - now_ns()) / 1e9)

    def replay(self, count: int, *, behind: int = 0) -> float:
        return trio.run(self._replay, count, behind)

    async def _replay(self, count: int, behind: int) -> float:
        async with product.connect(self.servers) as client:
            began, received = time.perf_counter(), 0
            async with client.subscribe(TOPIC, start=behind + 1) as messages:
                async for batch in messages.batches():
                    received += len(batch)
                    if received >= count:
                        break
            return time.perf_counter() - began

    # ------------------------------------------------------------------------------------------------- many connections
    def producers(self, connections: int, seconds: float, payload_bytes: int) -> Closed:
        leader = self._clients[self.leader()]
        body = record.encode_columns(TOPIC, [b"." * payload_bytes])
        each = max(10, round(seconds * PRODUCER_RATE_MAX / connections))
        return closed("lanyinglog", [_producer(leader, body, each) for _ in range(connections)], seconds=seconds)

    def fan_out(self, subscribers: int, schedule: Schedule, payload_bytes: int, *, one_node: bool) -> Delivered:
        leader = self.leader()
        followers = [port for name, port in self._clients.items() if name != leader]
        ports = followers[:1] if one_node else list(self._clients.values())
        talks = [_subscriber(ports[i % len(ports)]) for i in range(subscribers)]
        expected = subscribers * schedule.count
        seconds = schedule.count / schedule.rate + 10
        with sockets("fan", "lanyinglog", talks, seconds=seconds, expected=expected) as program:
            program.wait_ready()
            trio.run(self._only_publish, schedule, payload_bytes)
            return Delivered(expected, program.finish().latencies)

    async def _only_publish(self, schedule: Schedule, payload_bytes: int) -> None:
        async with product.connect(self.servers) as client:
            await self._publish_on(client, schedule, payload_bytes)

    # ------------------------------------------------------------------------------------------------- failures
    def kill_leader(self) -> float:
        leader = self.leader()
        gap = trio.run(self._gap_around_kill, leader)
        self.start(leader)
        self.leader()
        return gap

    async def _gap_around_kill(self, leader: str) -> float:
        acknowledged: list[float] = []
        killed = math.inf
        async with product.connect(self.servers) as client:
            began = time.perf_counter()
            for number in count_from():
                await client.publish(TOPIC, b"%d" % number)
                now = time.perf_counter()
                acknowledged.append(now)
                if killed == math.inf and now - began > KILL_AFTER_S:
                    killed = now
                    await trio.to_thread.run_sync(self.place.kill, leader)
                if now - killed > KILL_AFTER_S:
                    break
        return longest_gap(acknowledged)

    def catch_up(self, load: Load) -> tuple[Published, float]:
        follower = self._follower()
        self.place.kill(follower)
        published = self.publish(load)
        return published, self._start_and_wait(follower, self._last_seq())

    def restart(self) -> float:
        follower, last_seq = self._follower(), self._last_seq()
        self.place.kill(follower)
        return self._start_and_wait(follower, last_seq)

    def _follower(self) -> str:
        leader = self.leader()
        return next(name for name in self._names if name != leader)

    def _start_and_wait(self, name: str, last_seq: int) -> float:
        began = time.perf_counter()
        self.start(name)

        def has_all() -> bool:
            return int(self.status().get(name, {}).get("last_seq", -1)) >= last_seq

        self.place.wait(has_all, what=f"{name} at seq {last_seq}", seconds_max=10 * ANSWER_S_MAX)
        return time.perf_counter() - began


def _producer(port: int, run: bytes, requests: int) -> Talk:
    """A producer with ``requests`` batches of one message, numbered as the protocol wants them."""
    producer = secrets.token_bytes(16)
    batches = [record.encode_batch(producer, number, [run]) for number in range(1, requests + 1)]
    return Talk(port, to_frame(HELLO, 0), 1, [to_frame(Publish(batch), 1) for batch in batches])


def _subscriber(port: int) -> Talk:
    subscribe = Subscribe((TOPIC,), Start(Origin.NEW), CREDIT, CREDIT)
    return Talk(port, to_frame(HELLO, 0) + to_frame(subscribe, 1), 2)


class Lanyinglog(System):
    """Three synced replicas."""

    name = "lanyinglog"
    client = "its Python client under trio"
    durability = "fdatasync on a majority of 3 before the acknowledgement"
    answers = frozenset(QUESTIONS)

    def missing(self) -> list[str]:
        return []

    def version(self) -> str:
        return f"lanyinglog {product.__version__}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        with workplace() as place:
            cluster = LanyingCluster(place)
            cluster.start_all()
            yield cluster


SYSTEMS: Sequence[System] = (Lanyinglog(),)
