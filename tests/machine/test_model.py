"""The state machine against a model of a page: what each batch gets, what is counted; and checkpoints change nothing.

Two machines take the same entries; one of them is stored as rows and made anew at every chance (P1-P5, audit 12).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lanyinglog.errors import BadBatch, BatchOutOfOrder, LanyingError, ProducerUnknown, TooManyTopics
from lanyinglog.machine.commands import KIND_BATCH, NO_OP, encode_command, encode_entry
from lanyinglog.machine.producers import WINDOW, Producers
from lanyinglog.machine.state_machine import Applied, StateMachine, places
from lanyinglog.machine.topic_table import TopicTable
from lanyinglog.record import OutgoingMessage, encode_batch, encode_run
from lanyinglog.service import Ack

PRODUCERS_MAX = 3
IDLE_NS_MAX = 1_000
STEP_NS_MAX = 600
TOPICS_MAX = 4
Runs = list[tuple[str, int]]


def machine() -> StateMachine:
    return StateMachine(
        producers=Producers(producers_max=PRODUCERS_MAX, idle_ns_max=IDLE_NS_MAX, step_ns_max=STEP_NS_MAX),
        topics=TopicTable(topics_max=TOPICS_MAX),
    )


def key(producer: int) -> bytes:
    return bytes([producer]) * 16


def encoded(producer: int, number: int, runs: Runs) -> bytes:
    made = [encode_run(topic, [OutgoingMessage(b"%d" % place) for place in range(count)]) for topic, count in runs]
    return encode_batch(key(producer), number, made)


def told(done: Applied) -> object:
    """``done`` as a value: errors of the same words are the same."""
    results = [result if isinstance(result, Ack) else (type(result), str(result)) for result in done.results]
    return done.record, done.runs, results


@dataclass
class Model:
    """What must come of entries, in the words of the promises."""

    messages: list[tuple[int, str]] = field(default_factory=list)  # timestamp, topic
    known: OrderedDict[int, list[Ack]] = field(default_factory=OrderedDict)  # producer -> its acks, least recent first
    newest: int = 0  # the timestamp of the last batch
    time: int = 0  # without the large steps of timestamps
    used: dict[int, int] = field(default_factory=dict)  # producer -> when its last batch came

    @property
    def topics(self) -> set[str]:
        return {topic for _, topic in self.messages}

    def expect(self, producer: int, number: int, runs: Runs, timestamp: int) -> Ack | type[LanyingError]:
        acks = self.known.get(producer)
        if number <= len(acks or []):
            assert acks is not None
            first = acks[number - 1]
            forgotten = number <= len(acks) - WINDOW
            return Ack(0, 0, 0, True) if forgotten else Ack(first.first_seq, first.count, first.timestamp, True)
        if number != len(acks or []) + 1:
            return ProducerUnknown if acks is None else BatchOutOfOrder
        if len(self.topics | {topic for topic, _ in runs}) > TOPICS_MAX:
            return TooManyTopics
        ack = Ack(len(self.messages) + 1, sum(count for _, count in runs), timestamp)
        for topic, count in runs:
            for _ in range(count):
                self.messages.append((timestamp, topic))
                timestamp += 1
        self.known.setdefault(producer, []).append(ack)
        self.known.move_to_end(producer)
        self.time += min(ack.timestamp - self.newest, STEP_NS_MAX)
        self.newest = ack.timestamp
        self.used[producer] = self.time
        self._forget()
        return ack

    def _forget(self) -> None:
        for producer in list(self.known):
            if self.time - self.used[producer] > IDLE_NS_MAX or len(self.known) > PRODUCERS_MAX:
                del self.known[producer]


class Life(RuleBasedStateMachine):
    """See the module."""

    @initialize()
    def begin(self) -> None:
        self.model = Model()
        self.whole, self.reloaded = machine(), machine()
        self.rows: dict[bytes, bytes] = {}
        self.clock = 1_000

    def apply(self, command: bytes) -> Applied:
        index = self.whole.applied + 1
        done = self.whole.apply(index, command)
        assert told(self.reloaded.apply(index, command)) == told(done), "a checkpoint changed what an entry gives"
        assert done.record.count or done.record.timestamp == self.whole.last_timestamp, "an empty entry has no time"
        assert places(command, done.record) == done.runs, "what is read later is not what was applied"
        return done

    @rule(
        batches=st.lists(
            st.tuples(
                st.integers(1, 5),
                st.sampled_from(["next", "next", "next", "again", "oldest", "long ago", "skip", "first"]),
                st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3)), min_size=1, max_size=3),
            ),
            min_size=1,
            max_size=4,
        ),
        ahead=st.sampled_from([-500, 0, 1, 400, 2_000]),
    )
    def entry(self, batches: list[tuple[int, str, Runs]], ahead: int) -> None:
        """A leader's clock may go back; a producer may do anything."""
        self.clock = max(0, self.clock + ahead)
        last = self.model.messages[-1][0] if self.model.messages else 0
        timestamp = max(self.clock, last + 1)
        expected: list[Any] = []
        commands: list[bytes] = []
        for producer, which, runs in batches:
            so_far = len(self.model.known.get(producer, []))
            number = {
                "next": so_far + 1,
                "again": so_far,
                "oldest": so_far - WINDOW + 1,  # the last one that is remembered
                "long ago": so_far - WINDOW,
                "skip": so_far + 2,
                "first": 1,
            }
            commands.append(encoded(producer, max(1, number[which]), runs))
            got = self.model.expect(producer, max(1, number[which]), runs, timestamp)
            expected.append(got)
            if isinstance(got, Ack) and not got.duplicate:
                timestamp += got.count
        done = self.apply(encode_entry(self.clock, commands))
        assert [result if isinstance(result, Ack) else type(result) for result in done.results] == expected

    @rule(producer=st.integers(1, 5), times=st.integers(1, 2 * WINDOW))
    def many(self, producer: int, times: int) -> None:
        """So many batches that the first are no longer remembered."""
        for _ in range(times):
            self.entry([(producer, "next", [("a", 1)])], 0)

    @rule(
        command=st.one_of(
            st.just(NO_OP),
            st.binary(max_size=40),
            st.builds(encode_command, st.integers(0, 2_000), st.integers(6, 255), st.binary(max_size=9)),
            st.builds(encode_command, st.integers(0, 2_000), st.just(KIND_BATCH), st.binary(max_size=60)),
        )
    )
    def nonsense(self, command: bytes) -> None:
        """Whatever an entry holds, applying it is total and the same everywhere."""
        done = self.apply(command)
        assert done.record.count == 0
        assert all(isinstance(result, BadBatch) for result in done.results)

    @rule()
    def reload(self) -> None:
        checkpoint = self.reloaded.take_checkpoint()
        for row, value in checkpoint.rows.items():
            if value is None:
                self.rows.pop(row, None)
            else:
                self.rows[row] = value
        self.reloaded = machine()
        self.reloaded.load(checkpoint.applied, sorted(self.rows.items()))

    @invariant()
    def agrees(self) -> None:
        model, whole = self.model, self.whole
        assert whole.last_seq == len(model.messages)
        timestamps = [timestamp for timestamp, _ in model.messages]
        assert timestamps == sorted(set(timestamps)), "timestamps are unique and rise"
        assert whole.last_timestamp == (timestamps[-1] if timestamps else 0)
        counts = {stat.topic: (stat.messages, stat.last_seq, stat.last_timestamp) for stat in whole.topics.stats()}
        seqs = list(enumerate(model.messages, start=1))
        assert counts == {
            topic: (
                sum(1 for _, name in model.messages if name == topic),
                max(seq for seq, (_, name) in seqs if name == topic),
                max(timestamp for timestamp, name in model.messages if name == topic),
            )
            for topic in model.topics
        }
        assert len(whole.producers) == len(self.reloaded.producers) == len(model.known)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("number", [0, 1, 1 << 63])
def test_a_batch_of_an_unknown_producer_must_be_its_first(number: int) -> None:
    verdict = Producers().verdict(b"p" * 16, number)
    assert (verdict is None) == (number == 1)


def test_as_many_acknowledgements_are_remembered_as_a_producer_may_have_under_way() -> None:
    producers = Producers()
    for number in range(1, 2 * WINDOW + 1):
        producers.accept(b"p" * 16, number, Ack(10 * number, 1, number))
    oldest = WINDOW + 1
    assert producers.verdict(b"p" * 16, oldest) == Ack(10 * oldest, 1, oldest, duplicate=True)
    assert producers.verdict(b"p" * 16, oldest - 1) == Ack(0, 0, 0, duplicate=True)


def test_a_clock_that_is_weeks_ahead_for_a_moment_makes_the_log_forget_nobody() -> None:
    """A leader's clock was 20 days ahead: others' retries came, and their producers were not known any more."""
    day = 24 * 3600 * 10**9
    producers = Producers()
    for place, timestamp in enumerate((day, day + 1, 21 * day, 21 * day + 1), start=1):
        producers.accept(bytes([place]) * 16, 1, Ack(place, 1, timestamp))
    assert [producers.verdict(bytes([place]) * 16, 1) for place in (1, 2)] == [
        Ack(1, 1, day, True),
        Ack(2, 1, day + 1, True),
    ]


def test_who_is_idle_for_a_week_is_forgotten_and_a_reload_changes_nothing() -> None:
    hour = 3600 * 10**9
    producers, rows = Producers(), dict[bytes, bytes]()
    producers.accept(b"i" * 16, 1, Ack(1, 1, hour))
    for count in range(1, 7 * 24 + 2):
        assert producers.verdict(b"i" * 16, 1) is not None, f"forgotten after {count} hours"
        producers.accept(b"b" * 16, count, Ack(1 + count, 1, (1 + count) * hour))
        rows.update((key, row) for key, row in producers.take_changes().items() if row is not None)
        if count % 50 == 0:
            producers = Producers()
            producers.load(rows)
    assert producers.verdict(b"i" * 16, 1) is None
