"""RabbitMQ: a quorum queue (Raft, synced) and a stream (replicated log, in the page cache), three nodes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.machine import program_version
from benchmarks.processes import Trouble, Workplace, accepts, find_program, free_ports, workplace
from benchmarks.schedule import Schedule, latency_s, now_ns
from benchmarks.system import NODES, TOPIC, Closed, Cluster, Load, Published, System
from benchmarks.systems import amqp, pipeline
from benchmarks.systems.pipeline import Pipeline
from benchmarks.systems.sockets import Talk, closed

WINDOW = 2_048
PREFETCH = 2_000
ACK_EVERY = 256
START_S_MAX = 120.0
HOME = Path("/usr/lib/rabbitmq/bin")
"""Debian's programs on the PATH change to a user of their own; these do not."""


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join((str(HOME), os.environ.get("PATH", ""))))


class Consumer:
    """One consumer; `read` gives payloads and acknowledges them now and then."""

    def __init__(self, port: int, queue: str, *, offset: str | None) -> None:
        self._pipeline = Pipeline(port, lambda _: 0)
        self._buffer = bytearray()
        self._tag = self._acknowledged = 0
        greet(self._pipeline)
        self._pipeline.socket.sendall(amqp.consume(queue, prefetch=PREFETCH, offset=offset))

    def read(self) -> list[bytes]:
        """The payloads that arrived, maybe none."""
        data = self._pipeline.socket.recv(pipeline.READ_BYTES)
        if not data:
            raise Trouble("RabbitMQ closed the connection")
        self._buffer += data
        payloads = [payload for kind, payload in amqp.take_frames(self._buffer) if kind == amqp.BODY]
        self._tag += len(payloads)
        if self._tag - self._acknowledged >= ACK_EVERY:
            self._acknowledge()
        return payloads

    def _acknowledge(self) -> None:
        self._acknowledged = self._tag
        self._pipeline.socket.sendall(amqp.acknowledge_through(self._tag))

    def close(self) -> None:
        """Acknowledges the rest, and waits until that has arrived."""
        if self._tag > self._acknowledged:
            self._acknowledge()
        self._pipeline.socket.sendall(amqp.method((20, 40), b"\0\0" + amqp.short("") + b"\0\0\0\0"))
        with contextlib.suppress(Trouble):
            while b"\x00\x14\x00\x29" not in self._buffer:
                self._buffer += self._pipeline.socket.recv(pipeline.READ_BYTES) or amqp.method((20, 41))
        self._pipeline.close()


def greet(one: Pipeline) -> None:
    """Opens the channel."""
    one.socket.sendall(amqp.greeting())
    buffer, replies = bytearray(), 0
    while replies < amqp.GREETING_REPLIES:
        data = one.socket.recv(pipeline.READ_BYTES)
        if not data:
            raise Trouble("RabbitMQ closed the connection during the handshake")
        buffer += data
        replies += len(amqp.take_frames(buffer))


class RabbitCluster(Cluster):
    """See the module. ``kind`` is quorum or stream."""

    def __init__(self, place: Workplace, kind: str) -> None:
        super().__init__(place)
        self._kind = kind
        ports = free_ports(2 * NODES + 1)
        self._epmd, self._ports, self._distribution = ports[0], ports[1 : NODES + 1], ports[NODES + 1 :]

    def start_all(self) -> None:
        """Returns when all nodes have joined and the queue is there."""
        epmd = find_program("epmd") or ""
        self.place.spawn("epmd", [epmd, "-port", str(self._epmd), "-address", "127.0.0.1"])
        self.place.wait(lambda: accepts(self._epmd), what="epmd")
        cookie = self.place.directory / ".erlang.cookie"
        cookie.write_text("benchmark")
        cookie.chmod(0o400)
        lines = ["cluster_formation.peer_discovery_backend = classic_config", "log.console.level = error"]
        lines += [f"cluster_formation.classic_config.nodes.{i + 1} = bench{i}@localhost" for i in range(NODES)]
        (self.place.directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.place.directory / "plugins").write_text("[].\n")
        for i, port in enumerate(self._ports):
            # One after the other: the first one founds the cluster, the others join it.
            self.place.spawn(f"rabbit{i}", [_program("rabbitmq-server") or ""], environment=self._environment(i))
            self.place.wait(
                partial(self._is_open, port),
                what=f"RabbitMQ node {i}",
                seconds_max=START_S_MAX,
            )
        self._await_members()
        with self._pipeline() as one:
            one.socket.sendall(amqp.declare(TOPIC, self._kind))
            one.read()

    def _await_members(self) -> None:
        """A queue that is declared too early has too few replicas, and is then fast for the wrong reason."""
        name = self._environment(0)["RABBITMQ_NODENAME"]
        result = subprocess.run(
            [_program("rabbitmqctl") or "", "-n", name, "await_online_nodes", str(NODES), "--timeout", "60"],
            env={**os.environ, **self._environment(0)},
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise Trouble(f"the RabbitMQ nodes did not become a cluster: {result.stderr.strip()[-500:]}")

    def _environment(self, i: int) -> dict[str, str]:
        directory = self.place.directory / f"rabbit{i}"
        return {
            "HOME": str(self.place.directory),
            "ERL_EPMD_PORT": str(self._epmd),
            "RABBITMQ_NODENAME": f"bench{i}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._ports[i]),
            "RABBITMQ_DIST_PORT": str(self._distribution[i]),
            "RABBITMQ_MNESIA_BASE": str(directory),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.place.directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.place.directory / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_LOGS": "-",
        }

    def _is_open(self, port: int) -> bool:
        try:
            with contextlib.closing(Pipeline(port, amqp.Confirms())) as one:
                greet(one)
        except (OSError, Trouble):
            return False
        return True

    @contextlib.contextmanager
    def _pipeline(self) -> Iterator[Pipeline]:
        with contextlib.closing(Pipeline(self._ports[0], amqp.Confirms())) as one:
            greet(one)
            yield one

    def publish(self, load: Load) -> Published:
        with self._pipeline() as one:
            return pipeline.publish(one, _append, load, window=WINDOW)

    def publish_each(self, load: Load) -> list[float]:
        with self._pipeline() as one:
            return pipeline.publish_each(one, _append, load)

    def tail(self, schedule: Schedule, payload_bytes: int) -> list[float]:
        with self._pipeline() as one, contextlib.closing(self._consumer("next")) as consumer:
            time.sleep(0.5)  # a stream's "next" is settled some time after the consumer is confirmed
            return pipeline.publish_on(one, _append, schedule, payload_bytes, _latencies(consumer))

    def _consumer(self, offset: str) -> Consumer:
        return Consumer(self._ports[0], TOPIC, offset=offset if self._kind == "stream" else None)

    def replay(self, count: int, *, behind: int = 0) -> float:
        if behind:
            raise Trouble("a queue has no message numbers")
        began, received = time.perf_counter(), 0
        with contextlib.closing(self._consumer("first")) as consumer:
            while received < count:
                received += len(consumer.read())
            return time.perf_counter() - began

    def producers(self, connections: int, seconds: float, payload_bytes: int) -> Closed:
        greeting, request = amqp.greeting(), _append(b"." * payload_bytes)
        talks = [Talk(self._ports[i % NODES], greeting, amqp.GREETING_REPLIES, [request]) for i in range(connections)]
        return closed("amqp", talks, seconds=seconds)


def _append(payload: bytes) -> bytes:
    return amqp.publish(TOPIC, payload)


def _latencies(consumer: Consumer) -> Iterator[float]:
    while True:
        payloads = consumer.read()
        received_ns = now_ns()
        yield from (latency_s(payload, received_ns) for payload in payloads)


class RabbitMq(System):
    """A queue of one kind."""

    client = "plain sockets (Python, C for many)"
    answers = frozenset({"throughput", "latency", "tail", "replay", "producers", "cpu"})

    def __init__(self, kind: str, durability: str) -> None:
        self.name = f"rabbitmq-{kind}"
        self.durability = durability
        self._kind = kind

    def missing(self) -> list[str]:
        return (
            []
            if _program("rabbitmq-server") and find_program("epmd")
            else ["rabbitmq-server (Debian: apt install rabbitmq-server)"]
        )

    def version(self) -> str:
        return f"RabbitMQ {program_version('dpkg-query', '-W', '-f', '${Version}', 'rabbitmq-server')}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        with workplace() as place:
            cluster = RabbitCluster(place, self._kind)
            cluster.start_all()
            yield cluster


SYSTEMS: Sequence[System] = (
    RabbitMq("quorum", "fdatasync on a majority of 3 before the confirm"),
    RabbitMq("stream", "in the page cache of a majority of 3, synced by the system when it likes"),
)
