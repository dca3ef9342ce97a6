"""What is read is the log: from memory, from disk and over the seam, from any place on, through any filter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from raft.audit import planted

from lanyinglog import tail as tail_module
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.machine.purge import Purge
from lanyinglog.raft.timing import Timing
from lanyinglog.record import Message, decode_run, encode_batch, encode_columns, parse_batch
from lanyinglog.service import Ack, Item, Page
from lanyinglog.store.memory import MemoryDisk, MemoryStore
from lanyinglog.tail import History
from lanyinglog.topics import matcher

TOPICS = ("a", "a.b", "b")
Runs = Sequence[tuple[str, int]]
"""Topic and number of messages of each run of a batch."""


class OneLog:
    """A log on a node of its own with almost no memory, and what it must hold."""

    def __init__(self, *, cache_bytes_max: int = 500) -> None:
        self.cache_bytes_max = cache_bytes_max
        self.disk = MemoryDisk()
        self.wall_ns = 10**18
        self.batches = 0
        self.messages: list[tuple[str, bytes]] = []
        self.timestamps: list[int] = []
        self.purged: dict[int, int] = {}  # place of a message -> by which purge
        self.purges = 0
        self.start()

    def start(self) -> None:
        self.store = MemoryStore(self.disk)
        self.core = LogCore(
            node="n1",
            members=Members.of({"n1": "n1:1"}),
            store=self.store,
            timing=Timing(),
            uniform=lambda low, high: high,
            now=0.0,
            cache_bytes_max=self.cache_bytes_max,
            checkpoint_entries=7,
        )
        self.history = History(self.store)
        self.now = 0.0
        self.turn(2.0)
        assert self.core.replica.leads

    def turn(self, seconds: float = 0.0) -> None:
        """Time passes, and all is on disk."""
        until = self.now + seconds
        while self.now <= until:
            self.core.advance(self.now, self.wall_ns)
            while self.core.wants_write:
                writes = self.core.begin_write()
                self.store.write(writes)
                self.core.end_write(writes, self.now)
                self.core.advance(self.now, self.wall_ns)
            self.now += 0.5
        self.now = until

    def publish(self, runs: Runs, *, again: bool = False) -> None:
        self.batches += 1
        number = len(self.messages)
        payloads = [[b"%d" % (number + place) for place in range(count)] for _, count in runs]
        encoded = [encode_columns(topic, column) for (topic, _), column in zip(runs, payloads, strict=True)]
        view = parse_batch(encode_batch(self.batches.to_bytes(16, "big"), 1, encoded))
        tickets = [self.core.submit(view, self.now) for _ in range(1 + again)]
        self.turn()
        result = tickets[0].result
        assert isinstance(result, Ack) and result.first_seq == number + 1
        for (topic, _), column in zip(runs, payloads, strict=True):
            self.messages += [(topic, payload) for payload in column]
        self.timestamps += range(result.timestamp, result.timestamp + result.count)
        self.wall_ns += 1_000

    def purge(self, pattern: str, *, again: bool = False) -> None:
        self.purges += not again
        if not again:
            matches = matcher((pattern,))
            self.purged |= {place: self.purges for place, (topic, _) in enumerate(self.messages) if matches(topic)}
        ticket = self.core.purge(Purge(pattern, self.purges), self.now)
        self.turn()
        assert isinstance(ticket.result, Ack)

    def checkpoint(self) -> None:
        writes = self.core.begin_write(checkpoint=True)
        self.store.write(writes)
        self.core.end_write(writes, self.now)

    # ------------------------------------------------------------------------------------------------------- reading
    def page(self, after: int, filters: Sequence[str], messages_max: int, bytes_max: int) -> Page:
        """As `HostedLog.read` does it."""
        matches = matcher(filters)
        if after >= self.core.tail.last_seq:
            return Page((), after, 0, 0)
        if self.core.tail.holds(after + 1):
            return self.core.tail.read(
                after=after,
                matches=matches,
                purged=self.core.machine.topics.purged,
                messages_max=messages_max,
                bytes_max=bytes_max,
            )
        topics = self.core.machine.topics
        selection = self.core.selections.of(filters)
        while not selection.step():
            pass
        numbers = None if ">" in filters else selection.numbers
        return self.history.read(
            after=after,
            matches=matches,
            purged=topics.purged,
            topic_numbers=numbers,
            last_index=self.core.machine.applied,
            messages_max=messages_max,
            bytes_max=bytes_max,
        )

    def read(self, after: int, filters: Sequence[str], messages_max: int, bytes_max: int) -> list[Message]:
        """Page by page to the end of the log."""
        found: list[Message] = []
        while after < self.core.tail.last_seq:
            page = self.page(after, filters, messages_max, bytes_max)
            assert page.through > after, "a page that leads nowhere"
            assert page.messages == sum(item.count for item in page.items)
            bounded = page.items[:-1]
            assert sum(item.count for item in bounded) < messages_max, "a page ends with the run that fills it"
            assert sum(len(item.run) for item in bounded) < bytes_max
            new = [message for item in page.items for message in decoded(item) if message.seq > after]
            assert ">" not in filters or len(new) + page.purged == page.through - after
            found += new
            after = page.through
        return found

    def expected(self, after: int, filters: Sequence[str]) -> list[tuple[int, int, str, bytes]]:
        matches = matcher(filters)
        whole = zip(self.messages, self.timestamps, strict=True)
        return [
            (seq, timestamp, topic, payload)
            for seq, ((topic, payload), timestamp) in enumerate(whole, start=1)
            if seq > after and matches(topic) and seq - 1 not in self.purged
        ]

    def check(self, after: int, filters: Sequence[str], messages_max: int, bytes_max: int) -> None:
        found = self.read(after, filters, messages_max, bytes_max)
        left = [topic for place, (topic, _) in enumerate(self.messages) if place not in self.purged]
        assert {stat.topic: stat.messages for stat in self.core.machine.topics.stats()} == Counter(left)
        assert [(m.seq, m.timestamp, m.topic, m.payload) for m in found] == self.expected(after, filters)


def decoded(item: Item) -> list[Message]:
    return decode_run(item.run, first_seq=item.first_seq, timestamp=item.timestamp)


runs = st.lists(st.tuples(st.sampled_from(TOPICS), st.integers(1, 3)), min_size=1, max_size=3)
steps = st.one_of(
    st.tuples(st.just("publish"), runs),
    st.tuples(st.just("publish"), runs),
    st.tuples(st.just("publish twice"), runs),
    st.tuples(st.just("checkpoint"), st.none()),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.sampled_from(["purge", "purge again"]), st.sampled_from([">", "a", "a.*", "b", "nothing"])),
)
reads = st.tuples(
    st.floats(0, 1),
    st.sampled_from([(">",), ("a",), ("a.*",), ("b", "a.b"), ("nothing",)]),
    st.integers(1, 6),
    st.integers(1, 200),
)
Step = tuple[str, Runs | str | None]
Read = tuple[float, Sequence[str], int, int]


def written(sequence: Sequence[Step], *, cache_bytes_max: int = 500) -> OneLog:
    log = OneLog(cache_bytes_max=cache_bytes_max)
    for step, what in sequence:
        if isinstance(what, str):
            again = step == "purge again" and log.purges > 0
            log.purge(what, again=again)
        elif what is not None:
            log.publish(what, again=step == "publish twice")
        elif step == "checkpoint":
            log.checkpoint()
        else:
            log.start()
    return log


def run(sequence: Sequence[Step], wanted: Sequence[Read]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail_module, "HOT_ENTRIES_MAX", 4)
        patch.setattr(tail_module, "HOT_RUNS_MAX", 6)
        log = written(sequence)
        log.check(0, (">",), 100, 1 << 20)
        for share, filters, messages_max, bytes_max in wanted:
            log.check(int(share * len(log.messages)), filters, messages_max, bytes_max)


ACROSS_THE_SEAM = [("publish", [("a", 2), ("b", 1)])] * 88


@settings(max_examples=50, deadline=None)
@given(st.lists(steps, max_size=25), st.lists(reads, max_size=4))
@example(ACROSS_THE_SEAM, [(0.1, ("a",), 3, 100), (0.5, ("b",), 100, 1 << 20)])
def test_what_is_read_is_the_log(sequence: Sequence[Step], wanted: Sequence[Read]) -> None:
    run(sequence, wanted)


@pytest.mark.parametrize("defect", ["tail_drops_unstored", "index_skips_too_far"])
def test_it_is_noticed_when_memory_or_index_lie(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(defect)(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        run(ACROSS_THE_SEAM, [(0.0, ("b",), 100, 1 << 20)])


@pytest.mark.parametrize(
    ("entries_max", "runs_max", "cache_bytes_max"),
    [(4, 1_000, 1 << 20), (1_000, 8, 1 << 20), (1_000, 1_000, 400)],
    ids=["entries", "runs", "bytes"],
)
def test_memory_is_bounded(
    entries_max: int, runs_max: int, cache_bytes_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps what is not in a checkpoint yet (seven entries at most), and of the rest no more than each bound."""
    monkeypatch.setattr(tail_module, "HOT_ENTRIES_MAX", entries_max)
    monkeypatch.setattr(tail_module, "HOT_RUNS_MAX", runs_max)
    log = written(ACROSS_THE_SEAM, cache_bytes_max=cache_bytes_max)
    tail = log.core.tail
    assert tail.first_seq is not None
    assert len(log.messages) - tail.first_seq < 3 * (4 + 7 + 1)
    log.checkpoint()
    assert len(log.messages) - tail.first_seq < 3 * 5


@pytest.mark.parametrize("cold", [False, True], ids=["from memory", "from disk"])
def test_a_time_finds_the_first_message_at_or_after_it(cold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if cold:
        monkeypatch.setattr(tail_module, "HOT_ENTRIES_MAX", 1)
    log = written([("publish", [("a", 3)])] * 20)
    log.checkpoint()
    for timestamp in [*log.timestamps, *(one + 1 for one in log.timestamps), log.timestamps[0] - 1]:
        found = log.core.tail.seq_at_time(timestamp)
        if found is None:
            found = log.history.seq_at_time(timestamp)
        later = [seq for seq, one in enumerate(log.timestamps, start=1) if one >= timestamp]
        assert (found or len(log.timestamps) + 1) == min(later, default=len(log.timestamps) + 1)
