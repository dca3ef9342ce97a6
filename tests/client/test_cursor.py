"""A subscription's place against a model log: cut anywhere, resumed anywhere, every message once and in order (P2)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanyinglog.client.cursor import TAKE_BYTES, TAKE_MESSAGES, Cursor, check_filters, parse_start, parse_until
from lanyinglog.errors import BadBatch, BadRequest, BadTopic, ContinuityError, LanyingError, Trimmed
from lanyinglog.record import encode_columns
from lanyinglog.service import Item
from lanyinglog.topics import matcher
from lanyinglog.wire.messages import Origin, Push, Start, Subscribed

Run = tuple[str, int]
LOGS = st.lists(st.tuples(st.sampled_from(["a", "a.b", "c"]), st.integers(1, 5)), max_size=20)


def items_of(runs: list[Run]) -> list[tuple[str, Item]]:
    """A log of ``runs``; message ``seq`` has the payload ``b"seq"`` and the timestamp ``1000 * seq``, rising."""
    items, seq = [], 1
    for topic, count in runs:
        run = encode_columns(topic, [b"%d" % (seq + i) for i in range(count)])
        items.append((topic, Item(seq, 1_000 * seq, count, memoryview(run))))
        seq += count
    return items


def last_of(item: Item) -> int:
    return item.first_seq + item.count - 1


class ModelNode:
    """What a node that has ``items`` pushes to a subscription: `session.subscription` in the words of P2."""

    def __init__(self, items: list[tuple[str, Item]], filters: tuple[str, ...], next_seq: int) -> None:
        matches = matcher(filters)
        self.last_seq = last_of(items[-1][1]) if items else 0
        self.told = next_seq - 1
        self.items = [item for topic, item in items if matches(topic) and last_of(item) >= next_seq]

    def push(self, count: int) -> Push | None:
        """The next ``count`` runs; at the end the rest of the way, then None."""
        taken, self.items = self.items[:count], self.items[count:]
        through = last_of(taken[-1]) if self.items and taken else max(self.last_seq, self.told)
        if not taken and through == self.told:
            return None
        push = push_of(self.told, through, taken)
        self.told = through
        return push


def push_of(prev: int, through: int, items: list[Item]) -> Push:
    return Push(prev, through, sum(item.count for item in items), tuple(items), sum(len(item.run) for item in items))


def place_of(start: Start, first_seq: int, last_seq: int) -> int:
    """Where a node begins (`session.connection`)."""
    places = {Origin.FIRST: first_seq, Origin.NEW: last_seq + 1, Origin.SEQ: max(first_seq, start.value)}
    return places[start.origin]


@settings(max_examples=300, deadline=None)
@given(
    runs=LOGS,
    pattern=st.sampled_from([(">",), ("a",), ("a.*", "c"), ("none",)]),
    start=st.one_of(st.just(Start(Origin.FIRST)), st.integers(1, 70).map(lambda seq: Start(Origin.SEQ, seq))),
    until=st.one_of(st.none(), st.integers(0, 70)),
    weather=st.data(),
)
def test_across_any_cuts_every_message_comes_once_and_in_order(
    runs: list[Run], pattern: tuple[str, ...], start: Start, until: int | None, weather: Any
) -> None:
    items = items_of(runs)
    cursor = Cursor(pattern, start, until=until)
    seen: list[tuple[int, int, str, bytes]] = []
    for attempt in range(6):
        is_last = attempt == 5
        # Each node is as far as it is: one that lags must not make the subscriber go back or lose anything.
        reach = len(items) if is_last else weather.draw(st.integers(0, len(items)), label="the node has")
        here = items[:reach]
        last_seq = last_of(here[-1][1]) if here else 0
        next_seq = place_of(cursor.start, 1, last_seq)
        node = ModelNode(here, pattern, next_seq)
        cursor.subscribed(Subscribed(next_seq, last_seq))
        pushes = 1_000 if is_last else weather.draw(st.integers(0, 6), label="pushes before the cut")
        for _ in range(pushes):
            push = node.push(weather.draw(st.integers(1, 4), label="runs in a push") if not is_last else 3)
            if push is None:
                break
            cursor.pushed(push)
            if is_last or weather.draw(st.booleans(), label="taken"):
                seen += [(m.seq, m.timestamp, m.topic, m.payload) for m in cursor.take()]
        if is_last:
            while more := cursor.take():
                seen += [(m.seq, m.timestamp, m.topic, m.payload) for m in more]
    first = start.value if start.origin is Origin.SEQ else 1
    matches = matcher(pattern)
    assert seen == [
        (seq, 1_000 * item.first_seq + seq - item.first_seq, topic, b"%d" % seq)
        for topic, item in items
        if matches(topic)
        for seq in range(item.first_seq, last_of(item) + 1)
        if seq >= first and (until is None or seq <= until)
    ]
    end = max([last_of(item) for _, item in items] + [first - 1])
    assert cursor.is_done == (until is not None and until <= end)


def begun(filters: tuple[str, ...] = (">",), *, at: int = 1) -> Cursor:
    cursor = Cursor(filters, Start(Origin.SEQ, at))
    cursor.subscribed(Subscribed(at, 100))
    return cursor


ITEMS = [item for _, item in items_of([("a", 3), ("a", 3), ("a", 3)])]
BROKEN: dict[str, list[Push]] = {
    "a push is missing": [push_of(0, 3, ITEMS[:1]), push_of(6, 9, ITEMS[2:])],
    "a push comes twice": [push_of(0, 3, ITEMS[:1]), push_of(0, 3, ITEMS[:1])],
    "a push goes back": [push_of(0, 6, ITEMS[:2]), push_of(3, 9, ITEMS[1:])],
    "it begins too late": [push_of(3, 6, ITEMS[1:2])],
    "a run is missing in front": [push_of(0, 6, ITEMS[1:2])],
    "a run is missing in the middle": [push_of(0, 9, [ITEMS[0], ITEMS[2]])],
    "a run is missing at the end": [push_of(0, 9, ITEMS[:2])],
    "it is empty and moves on": [push_of(0, 9, [])],
    "more is missing than was purged": [replace(push_of(0, 9, [ITEMS[0], ITEMS[2]]), purged=2)],
    "what was purged is told of, and more is missing later": [
        replace(push_of(0, 6, ITEMS[1:2]), purged=3),
        push_of(6, 9, []),
    ],
}


@pytest.mark.parametrize("pushes", BROKEN.values(), ids=BROKEN)
def test_a_break_in_continuity_is_an_error(pushes: list[Push]) -> None:
    cursor = begun()
    for push in pushes[:-1]:
        cursor.pushed(push)
    with pytest.raises(ContinuityError):
        cursor.pushed(pushes[-1])


@pytest.mark.parametrize(
    "pushes",
    [
        [replace(push_of(0, 9, [ITEMS[0], ITEMS[2]]), purged=3)],
        [replace(push_of(0, 3, ITEMS[:1]), purged=6), push_of(3, 6, []), push_of(6, 9, [])],
        [replace(push_of(0, 9, []), purged=9)],
    ],
    ids=["in the middle", "told ahead", "all of it"],
)
def test_what_was_purged_is_no_break(pushes: list[Push]) -> None:
    cursor = begun()
    for push in pushes:
        cursor.pushed(push)
    cursor.take()
    assert cursor.through == 9


def test_with_a_filter_an_empty_push_moves_on() -> None:
    cursor = begun(("b",))
    cursor.pushed(push_of(0, 9, []))
    assert cursor.take() == []
    assert cursor.start == Start(Origin.SEQ, 10)


RESUMED = {"the log begins later by now": (6, Trimmed), "the node begins earlier": (3, ContinuityError)}


@pytest.mark.parametrize(("next_seq", "error"), RESUMED.values(), ids=RESUMED)
def test_a_resumed_subscription_begins_where_it_was_or_not_at_all(next_seq: int, error: type[LanyingError]) -> None:
    cursor = begun()
    cursor.pushed(push_of(0, 3, ITEMS[:1]))
    assert [message.seq for message in cursor.take()] == [1, 2, 3]
    with pytest.raises(error):
        cursor.subscribed(Subscribed(next_seq, 100))


def test_a_node_that_begins_before_the_seq_that_was_asked_for_is_refused() -> None:
    cursor = Cursor((">",), Start(Origin.SEQ, 5))
    with pytest.raises(ContinuityError):
        cursor.subscribed(Subscribed(4, 100))


def test_a_seq_that_retention_dropped_is_told_with_the_first_there_is() -> None:
    cursor = Cursor((">",), Start(Origin.SEQ, 5))
    with pytest.raises(Trimmed, match="messages 5 to 7 are not kept any more") as caught:
        cursor.subscribed(Subscribed(8, 100))
    assert caught.value.hint == "8"


@pytest.mark.parametrize("start", [Start(Origin.FIRST), Start(Origin.TIME, 9)], ids=["first", "time"])
def test_who_names_no_seq_begins_behind_what_retention_dropped(start: Start) -> None:
    cursor = Cursor((">",), start)
    cursor.subscribed(Subscribed(8, 100))
    assert cursor.start == Start(Origin.SEQ, 8)


def test_what_was_not_taken_comes_again_on_the_next_connection() -> None:
    cursor = begun()
    cursor.pushed(push_of(0, 9, ITEMS))
    cursor.subscribed(Subscribed(1, 100))
    assert cursor.take() == []
    cursor.pushed(push_of(0, 9, ITEMS))
    assert [message.seq for message in cursor.take()] == list(range(1, 10))


def test_a_damaged_run_stops_the_cursor_before_it() -> None:
    damaged = bytearray(ITEMS[1].run)
    damaged[-1] ^= 1
    cursor = begun()
    cursor.pushed(push_of(0, 9, [ITEMS[0], replace(ITEMS[1], run=memoryview(bytes(damaged))), ITEMS[2]]))
    assert [message.seq for message in cursor.take()] == [1, 2, 3]
    with pytest.raises(BadBatch, match="messages 4 to 6"):
        cursor.take()
    assert cursor.start == Start(Origin.SEQ, 4)
    assert cursor.take() == [], "what was behind it waits for a new connection"


@pytest.mark.parametrize("again", [False, True], ids=["one connection", "a connection each push"])
@pytest.mark.parametrize(
    ("time", "first_seq"), [(3_999, 4), (4_000, 4), (4_001, 5), (4_002, 6), (4_003, 7), (7_002, 9), (7_003, 10)]
)
def test_what_is_older_than_the_time_is_dropped_if_the_node_was_behind(time: int, first_seq: int, again: bool) -> None:
    """The node had 3 messages when it was asked, and so begins with what comes next."""
    cursor = Cursor([">"], Start(Origin.TIME, time))
    seen: list[int] = []
    for place, (_, item) in enumerate(items_of([("a", 3)] * 4)[1:]):
        if again or place == 0:
            cursor.subscribed(Subscribed(item.first_seq, item.first_seq - 1))
        cursor.pushed(push_of(item.first_seq - 1, last_of(item), [item]))
        seen += [message.seq for message in cursor.take()]
    assert seen == list(range(first_seq, 13))


def test_a_damaged_run_does_not_hide_how_old_it_is() -> None:
    (_, item), *_ = items_of([("a", 3)])
    torn = replace(item, run=memoryview(bytes(item.run[:-1]) + b"?"))
    cursor = Cursor([">"], Start(Origin.TIME, 1_002))
    for run in (torn, item):
        cursor.subscribed(Subscribed(1, 0))
        cursor.pushed(push_of(0, 3, [run]))
        if run is torn:
            with pytest.raises(BadBatch):
                cursor.take()
    assert [message.seq for message in cursor.take()] == [3]


def test_much_that_is_too_old_does_not_hide_what_has_arrived_behind_it() -> None:
    size = 1 << 19
    runs = [encode_columns("a", [bytes(size)]) for _ in range(2 * TAKE_BYTES // size + 1)]
    items = [Item(seq, 1_000 * seq, 1, memoryview(run)) for seq, run in enumerate(runs, 1)]
    cursor = Cursor([">"], Start(Origin.TIME, items[-1].timestamp))
    cursor.subscribed(Subscribed(1, 0))
    cursor.pushed(push_of(0, len(items), items))
    assert [message.seq for message in cursor.take()] == [len(items)]


def test_messages_are_decoded_some_runs_at_a_time() -> None:
    items = [item for _, item in items_of([("a", TAKE_MESSAGES // 2 + 1)] * 4)]
    cursor = begun()
    cursor.pushed(push_of(0, last_of(items[-1]), items))
    sizes = []
    while messages := cursor.take():
        sizes.append(len(messages))
    assert sizes == [TAKE_MESSAGES + 2] * 2


STARTS: dict[str, tuple[Any, int | None, Start]] = {
    "first": ("first", None, Start(Origin.FIRST)),
    "new": ("new", None, Start(Origin.NEW)),
    "seq": (7, None, Start(Origin.SEQ, 7)),
    "time": (datetime(2026, 1, 1, tzinfo=UTC), None, Start(Origin.TIME, 1_767_225_600_000_000_000)),
    "microseconds": (datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC), None, Start(Origin.TIME, 1_000)),
    "nanoseconds": ("first", 17, Start(Origin.TIME, 17)),
}


@pytest.mark.parametrize(("start", "timestamp", "expected"), STARTS.values(), ids=STARTS)
def test_a_start_is_a_word_a_seq_or_a_time(start: Any, timestamp: int | None, expected: Start) -> None:
    assert parse_start(start, timestamp) == expected


@pytest.mark.parametrize("start", [0, -1, True, 1.5, "last", None, 1 << 63, datetime(1960, 1, 1, tzinfo=UTC)], ids=str)
def test_a_start_that_is_none_of_these_is_refused(start: Any) -> None:
    with pytest.raises(BadRequest, match="start must be"):
        parse_start(start)


def test_until_is_a_seq_or_left_open() -> None:
    assert [parse_until(until) for until in (None, "last", 0, 9)] == [None, None, 0, 9]
    with pytest.raises(BadRequest, match="until must be"):
        parse_until("first")


def test_filters_are_checked_before_anyone_is_asked() -> None:
    assert check_filters("a.*") == ("a.*",)
    assert check_filters(["a", ">"]) == ("a", ">")
    with pytest.raises(BadTopic):
        check_filters("a b")
    with pytest.raises(BadRequest):
        check_filters([])


def test_who_goes_on_behind_until_misses_nothing() -> None:
    """A push reaches beyond ``until``: the messages there were not handed out, and the place is before them."""
    cursor = Cursor(("a",), Start(Origin.SEQ, 1), until=4)
    cursor.subscribed(Subscribed(1, 9))
    cursor.pushed(push_of(0, 9, [ITEMS[0], ITEMS[2]]))
    assert [message.seq for message in cursor.take()] == [1, 2, 3]
    assert cursor.is_done and cursor.through == 4


def test_who_has_seen_something_does_not_begin_again() -> None:
    """What was handed out is not handed out twice, and what is missing behind it is told."""
    cursor = Cursor(["a"], Start(Origin.FIRST))
    cursor.subscribed(Subscribed(1, 5))
    assert cursor.begin_again()
    assert cursor.start == Start(Origin.FIRST)
    cursor.subscribed(Subscribed(3, 5))
    cursor.pushed(push_of(2, 5, []))
    assert not cursor.begin_again()
    assert Cursor(["a"], Start(Origin.TIME, 1)).begin_again()
    assert not Cursor(["a"], Start(Origin.SEQ, 1)).begin_again()
    assert not Cursor(["a"], Start(Origin.NEW)).begin_again()
