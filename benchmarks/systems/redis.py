"""Redis Streams: one leader with ``appendfsync always``, and two replicas that follow it asynchronously."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.machine import program_version
from benchmarks.processes import Trouble, Workplace, accepts, find_program, free_ports, workplace
from benchmarks.schedule import Schedule, latency_s, now_ns
from benchmarks.system import NODES, TOPIC, Closed, Cluster, Load, Published, System
from benchmarks.systems import pipeline
from benchmarks.systems.pipeline import Pipeline
from benchmarks.systems.sockets import Talk, closed

WINDOW = 1_024
READ_COUNT = 4_096
END = b"\r\n"


def encode_command(*words: bytes) -> bytes:
    """A command as Redis reads it."""
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)])


def append(payload: bytes) -> bytes:
    """The command that appends one message; the server gives it its id."""
    return encode_command(b"XADD", TOPIC.encode(), b"*", b"p", payload)


def count_replies(buffer: bytearray) -> int:
    """Takes whole simple and bulk replies off the front (`pipeline.CountReplies`)."""
    count = at = 0
    while (end := buffer.find(END, at)) >= 0:
        kind = buffer[at : at + 1]
        if kind == b"-":
            raise Trouble(f"Redis: {bytes(buffer[at + 1 : end]).decode(errors='replace')}")
        stop = end + 2
        if kind == b"$":
            stop += int(buffer[at + 1 : end]) + 2
            if stop > len(buffer):
                break
        count += 1
        at = stop
    del buffer[:at]
    return count


class Reader:
    """Reads a stream from behind ``last`` on, in calls of ``XREAD``, each payload once."""

    def __init__(self, port: int, last: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=pipeline.SILENCE_S_MAX)
        self._file = self._socket.makefile("rb", buffering=1 << 20)
        self._last = last

    def read(self) -> list[bytes]:
        """The next payloads, as many as there are, after waiting for one."""
        words = [b"XREAD", b"COUNT", b"%d" % READ_COUNT, b"BLOCK", b"0", b"STREAMS", TOPIC.encode(), self._last]
        self._socket.sendall(encode_command(*words))
        ((_, entries),) = self._value()
        self._last = entries[-1][0]
        return [fields[1] for _, fields in entries]

    def _value(self) -> Any:
        line = self._file.readline()
        if not line:
            raise Trouble("Redis closed the connection")
        if line[:1] == b"$":
            return self._file.read(int(line[1:]) + 2)[:-2]
        if line[:1] == b"*":
            return [self._value() for _ in range(int(line[1:]))]
        raise Trouble(f"Redis: {line.decode(errors='replace').strip()}")

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class RedisCluster(Cluster):
    """See the module."""

    def __init__(self, place: Workplace) -> None:
        super().__init__(place)
        self._ports = free_ports(NODES)

    def start_all(self) -> None:
        """Returns when both replicas have joined."""
        for i, port in enumerate(self._ports):
            directory = self.place.directory / f"r{i}"
            directory.mkdir()
            options = {"--port": port, "--bind": "127.0.0.1", "--dir": directory, "--save": "", "--appendonly": "yes"}
            options |= {"--appendfsync": "always", "--repl-diskless-sync-delay": 0}
            words = [str(word) for pair in options.items() for word in pair]
            follow = ["--replicaof", "127.0.0.1", str(self._ports[0])] if i else []
            self.place.spawn(f"r{i}", [find_program("redis-server") or "", *words, *follow])
            self.place.wait(partial(accepts, port), what="a Redis that listens")
        self.place.wait(self._is_whole, what="two replicas")

    def _is_whole(self) -> bool:
        return self._ask(encode_command(b"WAIT", b"2", b"100")) == b":2"

    def _ask(self, command: bytes) -> bytes:
        """The last line of a short reply."""
        with socket.create_connection(("127.0.0.1", self._ports[0]), timeout=5) as one:
            one.sendall(command)
            return one.recv(256).splitlines()[-1]

    @contextlib.contextmanager
    def _pipeline(self) -> Iterator[Pipeline]:
        with contextlib.closing(Pipeline(self._ports[0], count_replies)) as one:
            yield one

    def publish(self, load: Load) -> Published:
        with self._pipeline() as one:
            return pipeline.publish(one, append, load, window=WINDOW)

    def publish_each(self, load: Load) -> list[float]:
        with self._pipeline() as one:
            return pipeline.publish_each(one, append, load)

    def tail(self, schedule: Schedule, payload_bytes: int) -> list[float]:
        newest = self._ask(append(b"first"))  # the id of a message: "from now on" is behind it
        with self._pipeline() as one, contextlib.closing(Reader(self._ports[0], newest)) as reader:
            return pipeline.publish_on(one, append, schedule, payload_bytes, _latencies(reader))

    def replay(self, count: int, *, behind: int = 0) -> float:
        if behind:
            raise Trouble("Redis Streams have no message numbers")
        with contextlib.closing(Reader(self._ports[0], b"0")) as reader:
            began, received = time.perf_counter(), 0
            while received < count:
                received += len(reader.read())
            return time.perf_counter() - began

    def producers(self, connections: int, seconds: float, payload_bytes: int) -> Closed:
        talk = Talk(self._ports[0], encode_command(b"PING"), 1, [append(b"." * payload_bytes)])
        return closed("redis", [talk] * connections, seconds=seconds)


def _latencies(reader: Reader) -> Iterator[float]:
    while True:
        payloads = reader.read()
        received_ns = now_ns()
        yield from (latency_s(payload, received_ns) for payload in payloads)


class Redis(System):
    """See the module."""

    name = "redis"
    client = "plain sockets (Python, C for many)"
    durability = "fsync on one node before the reply; two replicas follow asynchronously, no consensus"
    answers = frozenset({"throughput", "latency", "tail", "replay", "producers", "cpu"})

    def missing(self) -> list[str]:
        return [] if find_program("redis-server") else ["redis-server (Debian: apt install redis-server)"]

    def version(self) -> str:
        return program_version("redis-server", "--version")

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        with workplace() as place:
            cluster = RedisCluster(place)
            cluster.start_all()
            yield cluster


SYSTEMS: Sequence[System] = (Redis(),)
