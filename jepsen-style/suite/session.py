"""One worker's session: what a workload needs to act and to write down what it did."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

import lanyinglog
from lanyinglog.errors import LanyingError, Outcome
from suite.history import Recorder
from suite.messages import identify, message_id, payload_of, topic_of

OPERATION_S_MAX = 5.0
"""How long an operation may take before its outcome is written down as unknown."""


@dataclass(slots=True)
class Tally:
    """What happened so far, for the live view."""

    operations: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    read: int = 0


class Session:
    """See the module. ``lane`` is the worker's number; ``servers`` are the members' client addresses by name, kept up
    to date from outside; ``everyone`` has those of all nodes that were members or may become some."""

    def __init__(
        self,
        *,
        lane: int,
        servers: dict[str, str],
        everyone: dict[str, str],
        recorder: Recorder,
        tally: Tally,
        source: random.Random,
        epoch_ns: int,
        interval_s: float,
        stop: trio.Event,
    ) -> None:
        self.lane = lane
        self.servers = servers
        self.source = source
        self.everyone = everyone
        self._nodes = {address: node for node, address in everyone.items()}
        self._recorder = recorder
        self.tally = tally
        self._epoch_ns = epoch_ns
        self._interval_s = interval_s
        self._due = trio.current_time() + source.random() * interval_s
        self._stop = stop
        self._counter = 0
        self.place = 1
        """For readers: the seq to go on with."""
        self.lanes = [self]
        """For workloads whose workers have several lanes: one session each, this one first."""

    def server_list(self) -> list[str]:
        """For a client that lives for long: the members in any order, then who may become one."""
        members = list(self.servers.values())
        self.source.shuffle(members)
        return members + [server for server in self.everyone.values() if server not in members]

    # --------------------------------------------------------------------------------------------------------- time
    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def now(self) -> int:
        """Nanoseconds since the run began."""
        return time.monotonic_ns() - self._epoch_ns

    async def pace(self) -> bool:
        """Waits for the next turn of this worker; False when it is time to stop."""
        self._due = max(self._due + self._interval_s * self.source.uniform(0.5, 1.5), trio.current_time() - 0.1)
        await self.sleep(self._due - trio.current_time())
        return not self.stopping

    async def sleep(self, seconds: float) -> None:
        """Waits, but not longer than the run goes on."""
        if seconds <= 0:
            # It is late, as most are under load: a scope costs a tenth of an operation.
            await trio.lowlevel.checkpoint()
        else:
            with trio.move_on_after(seconds):
                await self._stop.wait()

    # ------------------------------------------------------------------------------------------------------ writing
    def next_messages(self, count: int) -> tuple[int, list[tuple[str, bytes]]]:
        """The id of the first of this lane's next ``count`` messages, and their topics and payloads."""
        first = message_id(self.lane, self._counter)
        self._counter += count
        return first, [(topic_of(one), payload_of(one)) for one in range(first, first + count)]

    async def publish(self, client: lanyinglog.Client, count: int) -> int | None:
        """Publish the next ``count`` messages as one batch, and write it down; the seq of the first if it is stored."""
        first, messages = self.next_messages(count)
        began = self.now()
        try:
            if count == 1:
                ack = await client.publish(*messages[0], timeout=OPERATION_S_MAX)
                seq, timestamp = ack.seq, ack.timestamp
            else:
                acks = await client.publish_batch(messages, timeout=OPERATION_S_MAX)
                seq, timestamp = acks.first_seq, acks.batches[0].timestamp
        except LanyingError as error:
            self.publish_failed(began, first, count, error)
            return None
        self.published(began, first, count, seq, timestamp)
        return seq

    def published(
        self, began: int, first: int, count: int, seq: int, timestamp: int, *, again: bool = False, dup: bool = False
    ) -> None:
        """Write down a batch that was acknowledged."""
        self.tally.operations["ok"] += 1
        self.tally.messages += 0 if again else count
        line: dict[str, Any] = {"f": "again" if again else "publish", "w": self.lane, "t0": began, "t1": self.now()}
        line |= {"r": "ok", "id": first, "n": count, "seq": seq, "ts": timestamp}
        if dup:
            line["dup"] = True
        self._recorder.write(line)

    def publish_failed(self, began: int, first: int, count: int, error: LanyingError, *, again: bool = False) -> None:
        """Write down a batch that was not: for certain (fail) or maybe (info), as the error says (P7)."""
        result = "fail" if error.outcome is Outcome.DEFINITE else "info"
        self.tally.operations[result] += not again
        line: dict[str, Any] = {"f": "again" if again else "publish", "w": self.lane, "t0": began, "t1": self.now()}
        self._recorder.write(line | {"r": result, "id": first, "n": count, "e": error.code})

    # ------------------------------------------------------------------------------------------------------ reading
    def polled(
        self,
        began: int,
        messages: Sequence[lanyinglog.Message],
        *,
        subscription: int,
        server: str,
        topic: int,
        after: int,
        through: int,
    ) -> None:
        """Write down what a subscription handed out."""
        self.tally.read += len(messages)
        self._recorder.write(
            {
                "f": "poll",
                "w": self.lane,
                "t0": began,
                "t1": self.now(),
                "s": subscription,
                "at": self._nodes.get(server, server),
                "filter": topic,
                "after": after,
                "through": through,
                "runs": runs_of(messages),
            }
        )

    def read_latest(
        self, began: int, messages: Sequence[lanyinglog.Message], *, server: str, acked: int, until: int
    ) -> None:
        """Write down a read up to the newest message by a client that had seen ``acked`` acknowledged."""
        self.tally.read += len(messages)
        line: dict[str, Any] = {"f": "latest", "w": self.lane, "t0": began, "t1": self.now()}
        line |= {"at": self._nodes.get(server, server), "acked": acked, "until": until, "runs": runs_of(messages)}
        self._recorder.write(line)


def runs_of(messages: Sequence[lanyinglog.Message]) -> list[list[int]]:
    """``messages`` as runs ``[seq, ts, id, n]`` in which all rises by one."""
    runs: list[list[int]] = []
    seq = timestamp = identity = -2  # what would continue the last run
    for message in messages:
        found = identify(message.topic, message.payload)
        if found is not None and found == identity and message.seq == seq and message.timestamp == timestamp:
            runs[-1][3] += 1
        else:
            runs.append([message.seq, message.timestamp, -1 if found is None else found, 1])
        identity = -2 if found is None else found + 1
        seq, timestamp = message.seq + 1, message.timestamp + 1
    return runs
