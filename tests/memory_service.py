"""A log in a list: the twin of the real `LogService`, for tests of sessions and clients.

One node, which is the leader unless told otherwise; a batch commits at once, or when the test says so (`held`,
`release`). It deduplicates like the real one, refuses what the test asks it to refuse, and can lose its oldest
messages (`trim`) or find an entry damaged (`damage`).
"""

from __future__ import annotations

import itertools
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import trio

from lanyinglog.errors import BatchOutOfOrder, Busy, CorruptEntry, LanyingError, ProducerUnknown
from lanyinglog.machine.retention import check_changes
from lanyinglog.record import BatchView
from lanyinglog.service import Ack, Item, Owner, Page, TopicPage, TopicStat
from lanyinglog.topics import matcher


class MemoryTicket:
    """Settled once, with an `Ack` or an error."""

    def __init__(self, batch: BatchView) -> None:
        self.batch = batch
        self.result: Ack | LanyingError | None = None
        self._owner: Owner | None = None
        self._settled = trio.Event()

    def settle(self, result: Ack | LanyingError) -> None:
        assert self.result is None
        self.result = result
        self._settled.set()
        send = self._owner() if self._owner is not None else None
        if send is not None:
            send()

    def tell(self, owner: Owner) -> None:
        self._owner = owner  # who comes too late looks for himself: a log that has nothing to do tells nobody

    async def wait(self) -> Ack:
        await self._settled.wait()
        if isinstance(self.result, LanyingError):
            raise self.result
        assert self.result is not None
        return self.result


class MemoryLogService:
    """See the module. ``pending_max`` is the number of held batches at which `wait_room` waits."""

    def __init__(self, name: str = "main", *, node: str = "n1", pending_max: int = 1024) -> None:
        self.name = name
        self.node = node
        self.pending_max = pending_max
        self.held = False
        """While True, batches wait for `release`."""
        self.refusal: LanyingError | None = None
        """What `submit` raises, if anything: `NotLeader` makes this node a follower."""
        self.retention: dict[str, int | None] = {}
        """The limits that were set; this twin trims by `trim` alone."""
        self.cut_off = False
        """Whether this node hears no leader."""
        self.read_calls = 0
        self.first_seq = 1
        self._items: list[tuple[str, Item]] = []
        self._last_seqs: list[int] = []
        self._last_timestamp = 0
        self._pending: deque[MemoryTicket] = deque()
        self._acks: dict[bytes, list[Ack]] = {}
        self._damaged_from: int | None = None
        self._moved = trio.Event()
        self._room = trio.Event()

    # ------------------------------------------------------------------------------------------ what tests do
    def release(self, count: int | None = None) -> None:
        """Commit the ``count`` oldest held batches, or all of them and from now on every one at once."""
        self.held = count is not None
        for _ in range(len(self._pending) if count is None else count):
            self._commit(self._pending.popleft())
        self._room.set()
        self._room = trio.Event()

    def fail_pending(self, error: LanyingError) -> None:
        """End all held batches with ``error``: what losing leadership does."""
        while self._pending:
            self._pending.popleft().settle(error)
        self._room.set()
        self._room = trio.Event()

    def trim(self, first_seq: int) -> None:
        """Forget what is before ``first_seq``: retention."""
        self.first_seq = first_seq
        keep = bisect_left(self._last_seqs, first_seq)
        del self._items[:keep], self._last_seqs[:keep]

    def damage(self, seq: int) -> None:
        """From now on no read gets past ``seq``."""
        self._damaged_from = seq

    @property
    def pending(self) -> int:
        return len(self._pending)

    # ------------------------------------------------------------------------------------------ LogService
    @property
    def last_seq(self) -> int:
        return self._last_seqs[-1] if self._last_seqs else self.first_seq - 1

    def submit(self, batch: BatchView, *, received: float) -> MemoryTicket:
        if self.refusal is not None:
            raise self.refusal
        if len(self._pending) >= 2 * self.pending_max:
            raise Busy("too many batches wait")
        ticket = MemoryTicket(batch)
        if self.held:
            self._pending.append(ticket)
        else:
            self._commit(ticket)
        return ticket

    @property
    def has_room(self) -> bool:
        return len(self._pending) < self.pending_max

    async def wait_room(self) -> None:
        while not self.has_room:
            await self._room.wait()

    def read_now(self, *, after: int, filters: Sequence[str], messages_max: int, bytes_max: int) -> Page | None:
        try:
            return self._read(after=after, filters=filters, messages_max=messages_max, bytes_max=bytes_max)
        except LanyingError:
            return None

    async def read(self, *, after: int, filters: Sequence[str], messages_max: int, bytes_max: int) -> Page:
        self.read_calls += 1
        await trio.lowlevel.checkpoint()
        return self._read(after=after, filters=filters, messages_max=messages_max, bytes_max=bytes_max)

    def _read(self, *, after: int, filters: Sequence[str], messages_max: int, bytes_max: int) -> Page:
        matches = matcher(filters)
        items: list[Item] = []
        messages = size = 0
        for topic, item in itertools.islice(self._items, bisect_left(self._last_seqs, after + 1), None):
            if self._damaged_from is not None and item.first_seq + item.count > self._damaged_from:
                if not items:
                    raise CorruptEntry(f"the entry with seq {self._damaged_from} fails its CRC32C")
                break
            if not matches(topic):
                continue
            items.append(item)
            messages += item.count
            size += len(item.run)
            if messages >= messages_max or size >= bytes_max:
                break
        else:
            return Page(items, max(after, self.last_seq), messages, size)
        return Page(items, items[-1].first_seq + items[-1].count - 1, messages, size)

    async def wait_beyond(self, seq: int) -> None:
        while self.last_seq <= seq:
            await self._moved.wait()

    async def seq_at_time(self, timestamp: int) -> int:
        await trio.lowlevel.checkpoint()
        for _, item in self._items:
            if item.timestamp + item.count > timestamp:
                return item.first_seq + max(0, timestamp - item.timestamp)
        return self.last_seq + 1

    async def newest_seq(self) -> int:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        return self.last_seq

    async def transfer(self, to: str | None) -> str:
        if self.refusal is not None:
            raise self.refusal
        return to or self.node

    async def set_retention(self, changes: Mapping[str, int | None]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.retention.update(check_changes(changes))

    def log_info(self) -> dict[str, Any]:
        limits = {f"max_{name}": limit for name, limit in self.retention.items()}
        sizes = {"messages": self.last_seq - self.first_seq + 1, "bytes": sum(len(item.run) for _, item in self._items)}
        return {"log": self.name, "first_seq": self.first_seq, "last_seq": self.last_seq, **limits, **sizes}

    def topics(self, *, after: str, topics_max: int) -> TopicPage:
        stats: dict[str, TopicStat] = {}
        for topic, item in self._items:
            old = stats.get(topic, TopicStat(topic, 0, 0, 0, 0))
            last = item.count - 1
            stats[topic] = TopicStat(
                topic,
                old.messages + item.count,
                old.bytes + len(item.run),
                item.first_seq + last,
                item.timestamp + last,
            )
        names = sorted(topic for topic in stats if topic > after)
        return TopicPage([stats[topic] for topic in names[:topics_max]], len(names) > topics_max)

    def status(self) -> dict[str, Any]:
        role = "leader" if self.refusal is None else "follower"
        return {
            "node": self.node, "pid": 1, "client": "127.0.0.1:1", "peer": "127.0.0.1:2", "role": role, "term": 1,
            "commit": len(self._items), "applied": len(self._items), "last_seq": self.last_seq, "leader": self.node,
            "leader_client": None, "log": self.name, "first_seq": self.first_seq, "durable": len(self._items),
            "peers": {},
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------ committing
    def _commit(self, ticket: MemoryTicket) -> None:
        batch = ticket.batch
        acks = self._acks.get(batch.producer, [])
        if batch.number <= len(acks):
            first = acks[batch.number - 1]
            ticket.settle(Ack(first.first_seq, first.count, first.timestamp, duplicate=True))
        elif batch.number > len(acks) + 1:
            problem = BatchOutOfOrder if acks else ProducerUnknown
            ticket.settle(problem(f"batch {batch.number} came, {len(acks) + 1} comes next"))
        else:
            ack = self._append(batch)
            self._acks.setdefault(batch.producer, []).append(ack)
            ticket.settle(ack)

    def _append(self, batch: BatchView) -> Ack:
        first_seq = self.last_seq + 1
        timestamp = max(time.time_ns(), self._last_timestamp + 1)
        ack = Ack(first_seq, batch.count, timestamp)
        self._last_timestamp = timestamp + batch.count - 1
        view = memoryview(batch.encoded)
        for run in batch.runs:
            self._items.append((run.topic, Item(first_seq, timestamp, run.count, view[run.start : run.stop])))
            first_seq += run.count
            timestamp += run.count
            self._last_seqs.append(first_seq - 1)
        self._moved.set()
        self._moved = trio.Event()
        return ack
