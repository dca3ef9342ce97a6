"""The producer's pipeline against a model log, over a network that loses, delays, repeats and reorders (P4, P5, P7)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lanyinglog.client.producer import WINDOW, Advice, Flight, Producer
from lanyinglog.errors import (
    BadBatch,
    BatchOutOfOrder,
    Busy,
    LanyingError,
    NotLeader,
    NotSent,
    Outcome,
    OutcomeUnknown,
    ProducerUnknown,
    ShuttingDown,
    StorageFull,
    TooManyTopics,
)
from lanyinglog.record import encode_columns, parse_batch
from lanyinglog.service import Ack


@dataclass(eq=False)
class Sealed:
    """A batch of ``count`` messages; ``poison`` is refused by every node, at every try."""

    place: int
    count: int = 1
    poison: bool = False
    runs: tuple[bytes, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.runs = (encode_columns(f"t{self.place}", [b"%d" % i for i in range(self.count)]),)

    def __repr__(self) -> str:
        return f"<{self.place}{' poison' if self.poison else ''}>"


def ids() -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        yield number.to_bytes(16, "big")


def make(**options: object) -> Producer[Sealed]:
    source = ids()
    return Producer(new_id=lambda: next(source), **options)  # type: ignore[arg-type]


class ModelLog:
    """What every node does, in a dict: the rule of `machine.producers` in the words of P4."""

    def __init__(self) -> None:
        self.stored: list[int] = []  # places, in the order of the log
        self.acks: dict[bytes, list[Ack]] = {}
        self.next_seq = 1

    def publish(self, flight: Flight[Sealed]) -> Ack | LanyingError:
        batch = parse_batch(flight.encoded)
        acks = self.acks.get(batch.producer)
        if acks is None and batch.number > 1:
            return ProducerUnknown("who?")
        acks = self.acks.setdefault(batch.producer, [])
        if batch.number > len(acks) + 1:
            return BatchOutOfOrder("too soon")
        if batch.number <= len(acks):
            assert batch.number > len(acks) - WINDOW, "older than anything the log remembers"
            old = acks[batch.number - 1]
            return Ack(old.first_seq, old.count, old.timestamp, duplicate=True)
        if flight.batch.poison:
            return TooManyTopics("never")
        acks.append(Ack(self.next_seq, batch.count, self.next_seq))
        self.next_seq += batch.count
        self.stored.append(flight.batch.place)
        return acks[-1]


class Weather(RuleBasedStateMachine):
    """Everything that can happen between a producer and the log."""

    stop_at_failure = False

    def __init__(self) -> None:
        super().__init__()
        self.producer = make(stop_at_failure=self.stop_at_failure)
        self.log = ModelLog()
        self.pushed: list[Sealed] = []
        self.results: dict[int, Ack | LanyingError] = {}
        self.link: deque[Flight[Sealed]] = deque()  # sent, not yet at the node
        self.ghosts: list[deque[Flight[Sealed]]] = []  # what lost connections still carry
        self.answers: list[tuple[Flight[Sealed], Ack | LanyingError]] = []
        self.used: list[tuple[Flight[Sealed], Ack | LanyingError]] = []
        self.withdrawn: set[int] = set()

    # ---------------------------------------------------------------------------------------------- what users do
    @rule(count=st.integers(1, 3), poison=st.sampled_from([False, False, False, True]))
    def push(self, count: int, poison: bool) -> None:
        batch = Sealed(len(self.pushed), count, poison)
        self.pushed.append(batch)
        self.producer.push(batch)

    @rule(place=st.integers(0, 40))
    def withdraw(self, place: int) -> None:
        batch = self.producer.withdraw(lambda one: one.place >= place)
        if batch is not None:
            self.withdrawn.add(batch.place)

    @rule()
    def give_up(self) -> None:
        self.producer.give_up("enough")
        assert self.producer.unsettled == 0
        self.collect()

    # ------------------------------------------------------------------------------------------- what the pump does
    @rule(times=st.integers(1, 20))
    def send(self, times: int) -> None:
        for _ in range(times):
            flight = self.producer.next_send()
            if flight is None:
                return
            self.link.append(flight)

    @rule()
    def lose_link(self) -> None:
        if self.link:
            self.ghosts.append(self.link)
        self.link = deque()
        self.answers.clear()
        self.producer.link_lost()

    # ------------------------------------------------------------------------------------------- what the node does
    @precondition(lambda self: self.link)
    @rule(times=st.integers(1, 8))
    def serve(self, times: int) -> None:
        for _ in range(min(times, len(self.link))):
            flight = self.link.popleft()
            self.answers.append((flight, self.log.publish(flight)))

    @precondition(lambda self: self.link)
    @rule(error=st.sampled_from([NotLeader, Busy, ShuttingDown, StorageFull]))
    def decline(self, error: type[LanyingError]) -> None:
        self.answers.append((self.link.popleft(), error("not now")))

    @precondition(lambda self: self.link)
    @rule(stores=st.booleans(), later=st.booleans())
    def lose_leadership(self, stores: bool, later: bool) -> None:
        flight = self.link.popleft()
        if stores:
            self.log.publish(flight)
        if later:
            self.ghosts.append(deque([flight]))
        self.answers.append((flight, OutcomeUnknown("deposed")))

    @rule()
    def forget_producers(self) -> None:
        """Idle producers are forgotten; those with something under way are not idle."""
        if not self.link and not self.ghosts and not self.answers and not self.producer.unsettled:
            self.log.acks.clear()

    # ---------------------------------------------------------------------------------------- what the network does
    @precondition(lambda self: self.ghosts)
    @rule(choice=st.integers(0, 100), stores=st.booleans())
    def a_ghost_arrives(self, choice: int, stores: bool) -> None:
        ghost = self.ghosts[choice % len(self.ghosts)]
        flight = ghost.popleft()
        if stores:
            self.log.publish(flight)
        if not ghost:
            self.ghosts.remove(ghost)

    @precondition(lambda self: self.answers)
    @rule(choice=st.integers(0, 100))
    def answer(self, choice: int) -> None:
        """Errors may overtake acknowledgements."""
        self.hear(*self.answers.pop(choice % len(self.answers)))

    @precondition(lambda self: self.answers)
    @rule()
    def all_answers(self) -> None:
        while self.answers:
            self.hear(*self.answers.pop(0))

    @precondition(lambda self: self.used)
    @rule(choice=st.integers(0, 100))
    def an_answer_is_repeated(self, choice: int) -> None:
        flight, result = self.used[choice % len(self.used)]
        if isinstance(result, Ack):
            self.producer.acked(flight, result)
            self.collect()

    def hear(self, flight: Flight[Sealed], result: Ack | LanyingError) -> None:
        advice = Advice.GO_ON
        if isinstance(result, Ack):
            self.producer.acked(flight, result)
        else:
            advice = self.producer.failed(flight, result, result.outcome)
        self.used.append((flight, result))
        self.collect()
        if advice is Advice.LEAVE:
            self.lose_link()

    # ----------------------------------------------------------------------------------------------------- promises
    def collect(self) -> None:
        for batch, result in self.producer.take_settled():
            assert batch.place not in self.results, "settled twice"
            assert batch.place not in self.withdrawn, "settled though withdrawn"
            self.results[batch.place] = result

    @invariant()
    def stored_once(self) -> None:
        assert len(set(self.log.stored)) == len(self.log.stored), "P4"

    @invariant()
    def outcomes_are_honest(self) -> None:
        for place, result in self.results.items():
            if isinstance(result, Ack):
                assert place in self.log.stored, "acknowledged and not stored"
                assert result.count == self.pushed[place].count
            elif result.outcome is Outcome.DEFINITE:
                assert place not in self.log.stored, "P7: reported as definitely failed, and stored"
        assert not self.withdrawn & set(self.log.stored), "withdrawn and stored"

    @invariant()
    def the_window_is_bounded(self) -> None:
        assert len(self.producer._window) <= WINDOW

    def teardown(self) -> None:
        """The weather clears: everything ends, and what was acknowledged stands in the order of the pushes (P5)."""
        self.lose_link()
        for _ in range(2_000):
            if not self.producer.unsettled:
                break
            while (flight := self.producer.next_send()) is not None:
                self.hear(flight, self.log.publish(flight))
        self.collect()
        assert set(self.results) | self.withdrawn == set(range(len(self.pushed))), "forgotten"
        for ghost in self.ghosts:
            for flight in ghost:
                self.log.publish(flight)
        self.stored_once()
        self.outcomes_are_honest()
        unknown = {
            place
            for place, result in self.results.items()
            if isinstance(result, LanyingError) and result.outcome is Outcome.UNKNOWN
        }
        acknowledged = [place for place in self.log.stored if place not in unknown]
        assert acknowledged == sorted(acknowledged), "P5"


class StoppingWeather(Weather):
    """A publisher that stops at its first failure stores a prefix of what was pushed."""

    stop_at_failure = True

    @invariant()
    def a_prefix_is_stored(self) -> None:
        pushed = [batch.place for batch in self.pushed if batch.place not in self.withdrawn]
        assert self.log.stored == pushed[: len(self.log.stored)]

    def teardown(self) -> None:
        super().teardown()
        self.a_prefix_is_stored()


TestWeather = Weather.TestCase
TestWeather.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestStoppingWeather = StoppingWeather.TestCase
TestStoppingWeather.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


# ------------------------------------------------------------------------------------------------ single claims
def sent(producer: Producer[Sealed], count: int) -> list[Flight[Sealed]]:
    for place in range(count):
        producer.push(Sealed(place))
    flights = []
    while (flight := producer.next_send()) is not None:
        flights.append(flight)
    return flights


def number_of(flight: Flight[Sealed]) -> int:
    return parse_batch(flight.encoded).number


def test_no_more_than_the_window_is_under_way() -> None:
    producer = make()
    flights = sent(producer, WINDOW + 3)
    assert [number_of(flight) for flight in flights] == list(range(1, WINDOW + 1))
    assert not producer.has_room
    producer.acked(flights[0], Ack(1, 1, 1))
    following = producer.next_send()
    assert following is not None and number_of(following) == WINDOW + 1
    assert producer.next_send() is None


def test_after_a_lost_link_all_goes_again_in_order_under_the_same_numbers() -> None:
    producer = make()
    first = sent(producer, 3)
    producer.acked(first[0], Ack(1, 1, 1))
    producer.link_lost()
    again = [producer.next_send(), producer.next_send()]
    assert [flight and flight.encoded for flight in again] == [flight.encoded for flight in first[1:]]
    assert producer.next_send() is None


def test_an_answer_out_of_order_holds_a_batch_until_the_one_before_it_went_again() -> None:
    producer = make()
    one, two = sent(producer, 2)
    producer.failed(two, BatchOutOfOrder("1 comes next"), Outcome.DEFINITE)
    assert producer.next_send() is None, "the first is still under way"
    producer.failed(one, Busy("full"), Outcome.DEFINITE)
    assert producer.next_send() is one
    assert producer.next_send() is two


def test_behind_a_refused_batch_the_others_go_on_under_a_new_id() -> None:
    producer = make()
    one, two, three = sent(producer, 3)
    producer.failed(two, TooManyTopics("no"), Outcome.DEFINITE)
    assert producer.next_send() is None, "not before the first is settled"
    producer.acked(one, Ack(1, 1, 1))
    again = producer.next_send()
    assert again is not None and again.batch is three.batch
    assert number_of(again) == 1
    assert parse_batch(again.encoded).producer != parse_batch(three.encoded).producer
    settled = {batch.place: result for batch, result in producer.take_settled()}
    assert isinstance(settled[0], Ack) and isinstance(settled[1], TooManyTopics)


def test_with_stop_at_failure_nothing_behind_a_refused_batch_is_sent() -> None:
    producer = make(stop_at_failure=True)
    one, *_ = sent(producer, 3)
    producer.failed(one, TooManyTopics("no"), Outcome.DEFINITE)
    results = [type(result) for _, result in producer.take_settled()]
    assert results == [TooManyTopics, NotSent, NotSent]
    assert producer.next_send() is None


FAILURES = {
    "a refused batch": lambda producer, flight: producer.failed(flight, StorageFull("full"), Outcome.DEFINITE),
    "an acknowledgement of another batch": lambda producer, flight: producer.acked(flight, Ack(1, 7, 1)),
    "a give-up": lambda producer, flight: producer.give_up("too late"),
}


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
def test_with_stop_at_failure_nothing_pushed_later_is_sent(fail: Callable[..., object]) -> None:
    producer = make(stop_at_failure=True)
    (one,) = sent(producer, 1)
    fail(producer, one)
    assert [batch for batch, _ in producer.take_settled()] == [one.batch]
    later = Sealed(1)
    producer.push(later)
    assert producer.next_send() is None
    ((batch, result),) = producer.take_settled()
    assert batch is later and isinstance(result, NotSent)


@pytest.mark.parametrize("stop", [False, True])
def test_a_batch_that_can_not_be_encoded_fails_alone_and_takes_no_number(stop: bool) -> None:
    producer = make(stop_at_failure=stop)
    broken, good = Sealed(0), Sealed(1)
    broken.runs = ()
    for batch in (broken, good):
        producer.push(batch)
    flight = producer.next_send()
    assert (flight and (flight.batch.place, number_of(flight))) == (None if stop else (1, 1))
    results = [(batch.place, type(result)) for batch, result in producer.take_settled()]
    assert results == [(0, BadBatch), (1, NotSent)][: 2 if stop else 1]


def test_a_forgotten_producer_goes_on_under_a_new_id() -> None:
    producer = make()
    (one,) = sent(producer, 1)
    producer.acked(one, Ack(1, 1, 1))
    (two,) = sent(producer, 1)
    producer.failed(two, ProducerUnknown("who?"), Outcome.DEFINITE)
    again = producer.next_send()
    assert again is not None and number_of(again) == 1


@pytest.mark.parametrize(
    ("answered", "expected"),
    [(False, OutcomeUnknown), (True, NotSent)],
    ids=["no answer: it may be stored", "declined: it is not"],
)
def test_giving_up_tells_what_may_be_stored(answered: bool, expected: type[LanyingError]) -> None:
    producer = make()
    (one,) = sent(producer, 1)
    if answered:
        producer.failed(one, NotLeader("not me"), Outcome.DEFINITE)
    producer.give_up("too late")
    assert [type(result) for _, result in producer.take_settled()] == [expected]


def test_a_batch_that_went_once_without_an_answer_never_fails_for_sure() -> None:
    producer = make()
    (one,) = sent(producer, 1)
    producer.link_lost()
    assert producer.next_send() is one
    producer.failed(one, TooManyTopics("no"), Outcome.DEFINITE)
    assert [type(result) for _, result in producer.take_settled()] == [OutcomeUnknown]


def test_an_acknowledgement_of_the_wrong_size_is_an_error() -> None:
    producer = make()
    (one,) = sent(producer, 1)
    producer.acked(one, Ack(1, 7, 1))
    ((_, result),) = producer.take_settled()
    assert isinstance(result, LanyingError) and "7 were acknowledged" in result.message


def test_what_may_be_stored_is_not_withdrawn() -> None:
    producer = make()
    sent(producer, WINDOW + 1)
    assert producer.withdraw(lambda batch: batch.place == 0) is None
    withdrawn = producer.withdraw(lambda batch: batch.place == WINDOW)
    assert withdrawn is not None and withdrawn.place == WINDOW
