"""A system under test: how it is started, and how each question's load is put to it.

A `System` says what it is; its `Cluster` is three running nodes with a client for it. A cluster answers a question by
the method of that name; `System.answers` has the questions it has one for. The same load means the same for all: the
same payloads, all acknowledgements waited for, nothing counted that was not acknowledged or received.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import cycle, islice

from benchmarks.processes import Trouble, Workplace
from benchmarks.schedule import Schedule

NODES = 3
TOPIC = "bench"
QUESTIONS = ("throughput", "latency", "tail", "replay", "producers", "fan-out", "cpu", "catch-up", "failover", "growth")
"""Names of all questions."""


@dataclass(frozen=True, slots=True)
class Load:
    """Messages from ``pool``, round and round, until ``seconds`` have passed or ``count`` were sent.

    ``batch`` is how many messages the client puts into one request; None leaves it to the client. ``compression``
    names a codec for clients that have one.
    """

    pool: Sequence[bytes]
    seconds: float = math.inf
    count: int | None = None
    batch: int | None = None
    compression: str | None = None

    def chunks(self, size: int) -> Iterator[list[bytes]]:
        """Lists of ``size`` payloads each, without an end unless there is a ``count``."""
        payloads = cycle(self.pool)
        left = self.count
        while left is None or left > 0:
            chunk = list(islice(payloads, size if left is None else min(size, left)))
            yield chunk
            left = None if left is None else left - len(chunk)


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a load: ``acknowledged`` messages of ``payload_bytes`` in all, within ``seconds``."""

    acknowledged: int
    payload_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Closed:
    """What many producers with one message in flight each got done, and how long each message took, in seconds."""

    seconds: float
    latencies: Sequence[float]


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a fan-out brought: ``expected`` deliveries, and the latency of each one that came, in seconds."""

    expected: int
    latencies: Sequence[float]


class Cluster:
    """Three running nodes and a client. Methods that a system does not `answer` are never called."""

    def __init__(self, place: Workplace) -> None:
        self.place = place

    def publish(self, load: Load) -> Published:
        """Publish as fast as it goes."""
        raise self._unanswered("throughput")

    def publish_each(self, load: Load) -> list[float]:
        """One at a time; how long each took, in seconds."""
        raise self._unanswered("latency")

    def tail(self, schedule: Schedule, payload_bytes: int) -> list[float]:
        """Publish on schedule; seconds from when each message was due to when a subscriber had it."""
        raise self._unanswered("tail")

    def replay(self, count: int, *, behind: int = 0) -> float:
        """Read ``count`` messages, those behind the first ``behind``; seconds."""
        raise self._unanswered("replay")

    def producers(self, connections: int, seconds: float, payload_bytes: int) -> Closed:
        """Many connections, each with one message in flight."""
        raise self._unanswered("producers")

    def fan_out(self, subscribers: int, schedule: Schedule, payload_bytes: int, *, one_node: bool) -> Delivered:
        """Publish on schedule to so many subscribers, all at one node or spread over all nodes."""
        raise self._unanswered("fan-out")

    def kill_leader(self) -> float:
        """Kill the leader while a client publishes one at a time; the longest time without an acknowledgement, in
        seconds. The killed node is back, and has caught up, when this returns."""
        raise self._unanswered("failover")

    def catch_up(self, load: Load) -> tuple[Published, float]:
        """Kill a follower, publish, start it again; what was published, and seconds until it has all of that."""
        raise self._unanswered("catch-up")

    def restart(self) -> float:
        """Kill a follower and start it; seconds until it answers with all that was in the log."""
        raise self._unanswered("growth")

    def memory_bytes(self) -> int:
        """What the fattest node has in memory, mapped files left out."""
        return max(self.place.memory_bytes(name) for name in self.place.processes)

    def cpu_s(self) -> float:
        """CPU seconds of all nodes since they were started."""
        return self.place.cpu_s()

    def _unanswered(self, question: str) -> Trouble:
        return Trouble(f"{type(self).__name__} has no answer to {question}")


class System(ABC):
    """Something that keeps messages."""

    name: str
    client: str
    """Who sends and receives."""
    durability: str
    """What an acknowledgement means, as configured here."""
    answers: frozenset[str]
    """Names of questions."""

    @abstractmethod
    def missing(self) -> list[str]:
        """What has to be installed before it can be measured, and how; empty if nothing."""

    @abstractmethod
    def version(self) -> str:
        """What is measured."""

    @abstractmethod
    def running(self) -> AbstractContextManager[Cluster]:
        """Three nodes, empty, with a leader; afterwards nothing is left of them."""
