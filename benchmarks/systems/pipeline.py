"""Publishing over one blocking socket to a system whose requests and replies are plain bytes: Redis, AMQP.

A client library in Python would be the limit, so the adapters speak the few commands they need themselves: requests
are joined and sent while at most a window of them is unanswered, replies are counted as they come.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from benchmarks.processes import Trouble
from benchmarks.schedule import Schedule, now_ns, stamp
from benchmarks.system import Load, Published

CHUNK = 64
"""Requests that are joined into one send."""
READ_BYTES = 1 << 18
SILENCE_S_MAX = 60.0

CountReplies = Callable[[bytearray], int]
"""Takes whole replies off the front of a buffer; how many requests they answer. `Trouble` for an error."""


class Pipeline:
    """A connection on which requests are answered in order, or counted."""

    def __init__(self, port: int, count_replies: CountReplies) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._count_replies = count_replies
        self._buffer = bytearray()
        self.unanswered = 0

    def send(self, requests: Sequence[bytes]) -> None:
        """Send ``requests``, each of which has one answer."""
        self.socket.sendall(b"".join(requests))
        self.unanswered += len(requests)

    def wait_below(self, unanswered: int) -> None:
        """Returns once fewer requests than ``unanswered`` have no answer."""
        while self.unanswered >= unanswered:
            self.unanswered -= self.read()

    def read(self) -> int:
        """Wait for more; how many answers it brought."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise Trouble("the server closed the connection")
        self._buffer += data
        return self._count_replies(self._buffer)

    def close(self) -> None:
        self.socket.close()


def publish(pipeline: Pipeline, encode: Callable[[bytes], bytes], load: Load, *, window: int) -> Published:
    """A load as fast as it goes, with at most ``window`` messages unanswered."""
    encoded = dict.fromkeys(load.pool, b"")
    encoded.update((payload, encode(payload)) for payload in encoded)
    began, sent, payload_bytes = time.perf_counter(), 0, 0
    for chunk in load.chunks(CHUNK):
        pipeline.wait_below(window)
        pipeline.send([encoded[payload] for payload in chunk])
        sent += len(chunk)
        payload_bytes += sum(map(len, chunk))
        if time.perf_counter() - began > load.seconds:
            break
    pipeline.wait_below(1)
    return Published(sent, payload_bytes, time.perf_counter() - began)


def publish_each(pipeline: Pipeline, encode: Callable[[bytes], bytes], load: Load) -> list[float]:
    """One at a time."""
    took = []
    for (payload,) in load.chunks(1):
        request = encode(payload)
        began = time.perf_counter()
        pipeline.send([request])
        pipeline.wait_below(1)
        took.append(time.perf_counter() - began)
    return took


def publish_on(
    pipeline: Pipeline,
    encode: Callable[[bytes], bytes],
    schedule: Schedule,
    payload_bytes: int,
    received: Iterable[float],
) -> list[float]:
    """Publish on schedule from a thread, while this one collects the latencies that ``received`` yields."""
    failures: list[BaseException] = []

    def send() -> None:
        try:
            begins_ns, sent = now_ns() + 50_000_000, 0
            while sent < schedule.count:
                due = schedule.due_count(begins_ns, now_ns())
                stamps = (stamp(schedule.due_ns(begins_ns, i), payload_bytes) for i in range(sent, due))
                pipeline.send([encode(one) for one in stamps])
                sent = due
                time.sleep(max(0, schedule.due_ns(begins_ns, sent) - now_ns()) / 1e9)
        except BaseException as error:
            failures.append(error)
            raise

    # Answers are read in a third thread: a server whose answers nobody takes stops.
    stopped = threading.Event()
    threads = [threading.Thread(target=send), threading.Thread(target=_drain, args=(pipeline, stopped))]
    for thread in threads:
        thread.start()
    try:
        latencies = []
        for latency in received:
            latencies.append(latency)
            if len(latencies) == schedule.count:
                break
            if failures:
                raise Trouble(f"publishing failed: {failures[0]}")
        return latencies
    finally:
        threads[0].join()
        stopped.set()
        threads[1].join()


def _drain(pipeline: Pipeline, stopped: threading.Event) -> None:
    pipeline.socket.settimeout(0.1)
    while not stopped.is_set() or pipeline.unanswered > 0:
        try:
            pipeline.unanswered -= pipeline.read()
        except TimeoutError:
            if stopped.is_set():
                break
    pipeline.socket.settimeout(SILENCE_S_MAX)
