"""What becomes of messages before the pipeline: batches within bounds, in order, nothing lost, nothing doubled (P5)."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanyinglog import record, service
from lanyinglog.client.acks import Pending
from lanyinglog.client.outbox import COMPANY_S, Batch, Outbox, Parcel, checked_payloads, encode, parcel_of
from lanyinglog.compression import CODEC_ZSTD
from lanyinglog.errors import BadBatch, NotSent, OutcomeUnknown, TooManyTopics

Sent = tuple[str, bytes, bytes | None, dict[str, str]]


def outbox(
    batch_bytes: int = 1_000,
    batch_messages: int = 100,
    linger_s: float = 0.0,
    compression: int = 0,
    plain_bytes_max: int = 0,
) -> Outbox:
    return Outbox(
        batch_bytes=batch_bytes,
        batch_messages=batch_messages,
        plain_bytes_max=plain_bytes_max,
        linger_s=linger_s,
        compression=compression,
    )


def messages_of(batch: Batch) -> list[Sent]:
    """What a subscriber would see of ``batch``, which the broker must accept."""
    view = record.parse_batch(record.encode_batch(bytes(16), 1, batch.runs))
    assert (view.count, len(view.encoded)) == (batch.count, batch.bytes)
    decoded = [record.decode_run(b"".join(run), first_seq=1, timestamp=1) for run in batch.runs]
    return [(one.topic, one.payload, one.key, dict(one.headers)) for run in decoded for one in run]


SINGLE = st.tuples(
    st.sampled_from(["a", "b", "long.topic.name"]),
    st.binary(max_size=300),
    st.one_of(st.none(), st.binary(max_size=20)),
    st.one_of(st.none(), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)),
)
MANY = st.tuples(st.sampled_from(["a", "b"]), st.lists(st.binary(max_size=90), max_size=60))


@settings(max_examples=200, deadline=None)
@given(calls=st.lists(st.one_of(SINGLE, MANY), max_size=25), compression=st.sampled_from([0, 1]), draw=st.data())
def test_batches_hold_what_was_added_in_order_and_within_bounds(calls: Any, compression: int, draw: Any) -> None:
    box = outbox(batch_bytes=1_200, batch_messages=30, compression=compression)
    sent: list[Sent] = []
    batches: list[Batch] = []
    for call in calls:
        if len(call) == 2:
            topic, payloads = call
            box.extend(topic, *checked_payloads(topic, payloads))
            sent += [(topic, payload, None, {}) for payload in payloads]
        else:
            topic, payload, key, headers = call
            box.add(parcel_of(topic, payload, key, headers, None))
            sent.append((topic, payload, key, headers or {}))
        assert (box.messages > 0) == (box.bytes > 0)
        if draw.draw(st.booleans()) and (batch := box.take()) is not None:
            batches.append(batch)
    while (batch := box.take()) is not None:
        batches.append(batch)
    assert [message for batch in batches for message in messages_of(batch)] == sent
    assert (box.messages, box.bytes, box.added) == (0, 0, len(sent))
    for batch in batches:
        assert batch.count <= 30
        assert batch.bytes - record.BATCH_HEADER_BYTES <= 1_200


@pytest.mark.parametrize("bound", ["bytes", "messages"])
@pytest.mark.parametrize("size", range(1, 25))
def test_lists_of_any_length_fill_batches(bound: str, size: int) -> None:
    """As many messages in each batch as if they had come one by one."""
    total = 120

    def counts(lists: int) -> list[int]:
        box = outbox(batch_bytes=1_000) if bound == "bytes" else outbox(batch_messages=7)
        payloads = [b"%90d" % number for number in range(total)]
        for at in range(0, total, lists):
            box.extend("a", *checked_payloads("a", payloads[at : at + lists]))
        found = []
        sent: list[bytes] = []
        while (batch := box.take()) is not None:
            found.append(batch.count)
            sent += [payload for _, payload, *_ in messages_of(batch)]
        assert sent == payloads
        return found

    one_by_one = counts(1)
    most = max(one_by_one)
    assert one_by_one == [most] * (total // most) + [total % most] * (total % most > 0)
    # A piece of a list is taken for a run of its own, which may cost one message a batch.
    assert all(count >= most - 1 for count in counts(size)[:-1])


def test_a_list_does_not_fill_a_batch_that_has_all_its_runs() -> None:
    box = outbox(batch_bytes=100_000, batch_messages=10_000)
    for number in range(record.RUNS_MAX):
        box.add(parcel_of(f"t{number}", b"x", None, None, None))
    box.extend("another", *checked_payloads("another", [b"y"] * 3))
    first, second = box.take(), box.take()
    assert first is not None and second is not None
    assert (first.count, second.count) == (record.RUNS_MAX, 3)


def test_each_waiter_gets_the_place_of_his_message() -> None:
    box = outbox()
    waiters = [Pending(1) for _ in range(3)]
    for waiter in waiters:
        box.extend("t", *checked_payloads("t", [b"nobody waits for me"]))
        box.add(parcel_of("t", b"x", None, None, waiter))
    batch = box.take()
    assert batch is not None
    batch.settle(service.Ack(11, batch.count, 1_000))
    assert [waiter.result()[0] for waiter in waiters] == [(12, 1_001, False), (14, 1_003, False), (16, 1_005, False)]


def test_one_waiter_of_many_messages_gets_all_their_places() -> None:
    box = outbox(batch_messages=10)
    waiter = Pending(25)
    box.extend("t", *checked_payloads("t", [b"x"] * 25), waiter)
    seq = 1
    while (batch := box.take()) is not None:
        assert not waiter.done
        batch.settle(service.Ack(seq, batch.count, seq))
        seq += batch.count + 5  # others' messages between
    acks = waiter.result()
    assert [ack.seq for ack in acks] == [*range(1, 11), *range(16, 26), *range(31, 36)]
    assert (len(acks), acks[-1].seq, acks[12].seq, [ack.seq for ack in acks[9:11]]) == (25, 35, 18, [10, 16])
    assert (acks.first_seq, acks.last_seq) == (1, 35)
    with pytest.raises(IndexError):
        acks[25]


PARTS: dict[str, tuple[list[Any], type[Exception]]] = {
    "all failed": ([TooManyTopics("no"), TooManyTopics("no")], TooManyTopics),
    "the second may be stored": ([NotSent("no"), OutcomeUnknown("who knows")], OutcomeUnknown),
    "the second failed": ([service.Ack(1, 1, 1), TooManyTopics("no")], OutcomeUnknown),
    "the first failed": ([TooManyTopics("no"), service.Ack(1, 1, 1)], OutcomeUnknown),
}


@pytest.mark.parametrize(("parts", "expected"), PARTS.values(), ids=PARTS)
def test_a_part_that_failed_makes_the_whole_unknown(parts: list[Any], expected: type[Exception]) -> None:
    waiter = Pending(2)
    for part in parts:
        waiter.settle(1, part)
    for _ in range(2):
        with pytest.raises(expected):
            waiter.result()


def test_a_whole_batch_stays_alone_and_in_its_place() -> None:
    box = outbox()
    box.extend("t", *checked_payloads("t", [b"before"]))
    box.add_whole(encode([parcel_of("t", b"whole", None, None, None)], 0))
    box.extend("t", *checked_payloads("t", [b"behind"]))
    batches = [box.take() for _ in range(3)]
    assert [messages_of(batch)[0][1] for batch in batches if batch] == [b"before", b"whole", b"behind"]
    assert box.take() is None


def test_a_shut_outbox_gives_all_back_to_be_settled_and_takes_in_no_more() -> None:
    box = outbox(batch_messages=10)
    one, many, whole = Pending(1), Pending(25), Pending(2)
    box.add(parcel_of("t", b"x", None, None, one))
    box.extend("u", *checked_payloads("u", [b"x"] * 25), many)
    pair = encode([parcel_of("t", b"x", None, None, None)] * 2, 0)
    box.add_whole(Batch(pair.runs, pair.count, pair.bytes, ((whole, 0, 2),)))
    drained = box.shut(TooManyTopics("no"))
    assert sum(batch.count for batch in drained) == 28
    assert (box.messages, box.bytes, box.take()) == (0, 0, None)
    for batch in drained:
        batch.settle(NotSent("no"))
    assert all(pending.done for pending in (one, many, whole))
    calls: list[Callable[[], object]] = [
        lambda: box.add(parcel_of("t", b"x", None, None, None)),
        lambda: box.extend("t", *checked_payloads("t", [b"x"] * 25)),
        lambda: box.add_whole(pair),
    ]
    for call in calls:
        with pytest.raises(TooManyTopics):
            call()
    assert (box.messages, box.added) == (0, 28)


@pytest.mark.parametrize("taken", [0, 1], ids=["all still here", "some under way"])
def test_withdrawing_drops_what_is_still_here(taken: int) -> None:
    box = outbox(batch_messages=10)
    mine, other = Pending(25), Pending(1)
    box.extend("t", *checked_payloads("t", [b"x"] * 25), mine)
    box.add(parcel_of("t", b"other", None, None, other))
    for _ in range(taken):
        box.take()
    assert box.withdraw(mine) == 25 - 10 * taken
    batch = box.take()
    assert batch is not None
    assert [message[1] for message in messages_of(batch)] == [b"other"]
    assert (box.take(), box.messages, box.bytes) == (None, 0, 0)


@pytest.mark.parametrize("order", [1, -1], ids=["oldest first", "newest first"])
@pytest.mark.parametrize("kind", ["one open batch", "batches of one", "whole batches"])
def test_withdrawing_looks_at_nothing_else_however_much_waits(kind: str, order: int) -> None:
    box = outbox(batch_bytes=1 << 20, batch_messages=1 if kind == "batches of one" else 65_536)
    pendings = [Pending(1) for _ in range(2_000)]
    for pending in pendings:
        if kind == "whole batches":
            box.add_whole(Batch((), 1, 10, ((pending, 0, 1),)))
        else:
            box.add(parcel_of("t", b"x", None, None, pending))
    assert steps_made(lambda: [box.withdraw(pending) for pending in pendings[::order]]) < 50 * len(pendings)
    assert (box.messages, box.bytes, box.added, box.take()) == (0, 0, 0, None)
    assert box.ready_in(hurry=True) is None


def steps_made(function: Callable[[], object]) -> int:
    """How many lines, calls and returns of Python it takes: unlike time, the same whatever else the machine does."""
    events = 0

    def count(*_: Any) -> Any:
        nonlocal events
        events += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        function()
    finally:
        sys.settrace(before)
    return events


@pytest.mark.parametrize("waits", [True, False], ids=["somebody waits", "nobody waits"])
@pytest.mark.parametrize("end", ["take", "drain", "withdraw"])
def test_what_has_left_is_not_kept_by_the_outbox_nor_by_who_waits(end: str, waits: bool) -> None:
    box = outbox(batch_messages=10)
    payload = bytes(1_000)
    before = sys.getrefcount(payload)
    pending = Pending(25)
    gc.disable()
    try:
        box.extend("t", *checked_payloads("t", [payload] * 25), pending if waits else None)
        assert sys.getrefcount(payload) > before
        ends: dict[str, Callable[[], object]] = {
            "take": lambda: [box.take() for _ in range(25)],
            "drain": box.drain,
            "withdraw": lambda: box.withdraw(pending) or box.drain(),
        }
        ends[end]()
        assert sys.getrefcount(payload) == before
    finally:
        gc.enable()


def test_a_batch_that_is_not_full_lingers_unless_someone_hurries() -> None:
    box = outbox(linger_s=100.0, batch_messages=5)
    assert box.ready_in(hurry=False) is None
    assert box.extend("t", *checked_payloads("t", [b"x"])) is True
    lingers = box.ready_in(hurry=False)
    assert lingers is not None and 99 < lingers <= 100
    assert box.ready_in(hurry=True) == 0.0
    assert box.extend("t", *checked_payloads("t", [b"x"])) is False, "nothing new to take"
    assert box.extend("t", *checked_payloads("t", [b"x"] * 4)) is True, "a batch is full"
    assert box.ready_in(hurry=False) == 0.0


def test_what_does_not_shrink_is_sent_as_it_is() -> None:
    noise = bytes(range(256)) * 2
    batch = encode([parcel_of("t", noise, None, None, None)], CODEC_ZSTD)
    assert batch.bytes < len(noise) + 200
    assert messages_of(batch)[0][1] == noise


def test_payloads_are_bytes_and_copied_if_they_can_change() -> None:
    buffer = bytearray(b"abc")
    ((payload,), _) = checked_payloads("t", [buffer])  # type: ignore[list-item]
    buffer[0] = 0
    assert payload == b"abc"
    with pytest.raises(TypeError, match="payload must be bytes, not str"):
        checked_payloads("t", [b"fine", "text"])  # type: ignore[list-item]
    with pytest.raises(BadBatch):
        checked_payloads("t", [b"fine", bytes(1 << 20)])


def test_an_error_is_copied_for_each_caller() -> None:
    waiter = Pending(1)
    waiter.settle(1, NotSent("why", hint="where"))
    raised = []
    for _ in range(2):
        with pytest.raises(NotSent) as caught:
            waiter.result()
        raised.append(caught.value)
    assert raised[0] is not raised[1]
    assert (raised[1].message, raised[1].hint) == ("why", "where")


def test_what_does_not_fill_a_batch_waits_for_company_and_not_for_ever() -> None:
    box = outbox(batch_bytes=1_000)
    box.add(parcel_of("a", b"x" * 10, None, None, None))
    assert box.ready_in(hurry=False) == 0.0, "alone it goes at once"
    waits = box.ready_in(hurry=False, company=True)
    assert waits is not None and 0.0 < waits <= COMPANY_S
    assert box.ready_in(hurry=True, company=True) == 0.0, "somebody waits for all of it"
    box._open.since -= COMPANY_S
    assert box.ready_in(hurry=False, company=True) == 0.0, "long enough"


def test_a_full_batch_waits_for_nobody() -> None:
    box = outbox(batch_messages=2)
    box.extend("a", *checked_payloads("a", [b"x", b"y", b"z"]))
    assert box.ready_in(hurry=False, company=True) == 0.0


# ------------------------------------------------------------------------------------------------- the largest message
ROOM = record.MESSAGE_BYTES_MAX - len("t") - len(b"key") - len(record.pack_headers({"h": "v"}))


@pytest.mark.parametrize("compression", [0, CODEC_ZSTD])
def test_the_largest_message_is_a_full_batch(compression: int) -> None:
    box = outbox(compression=compression)
    payload = random.Random(1).randbytes(ROOM)
    box.add(parcel_of("t", payload, b"key", {"h": "v"}, None))
    (batch,) = taken(box)
    assert messages_of(batch) == [("t", payload, b"key", {"h": "v"})]
    assert batch.bytes == record.BATCH_BYTES_MAX


def test_a_message_that_is_too_large_is_told_its_size_and_the_limit() -> None:
    with pytest.raises(BadBatch, match=f"has {record.MESSAGE_BYTES_MAX + 1} bytes.* {record.MESSAGE_BYTES_MAX} are"):
        parcel_of("t", bytes(ROOM + 1), b"key", {"h": "v"}, None)


def test_of_a_list_the_first_message_that_is_too_large_is_named() -> None:
    room = record.MESSAGE_BYTES_MAX - len("t")
    assert checked_payloads("t", [b"", bytes(room), b""])[1] == [0, room, 0]
    with pytest.raises(BadBatch, match=f"message 3 of 4 has {record.MESSAGE_BYTES_MAX + 1} bytes"):
        checked_payloads("t", [b"", bytes(room), bytes(room + 1), bytes(room + 9)])


# -------------------------------------------------------------------------------------------------------- compression
LIMIT = record.BATCH_BYTES_MAX
TEXT = [b"%06d " % i + b"all lines are alike " * 40 for i in range(4_000)]  # 3 MB, of which little is left


def noise(count: int) -> list[bytes]:
    source = random.Random(1)
    return [source.randbytes(800) for _ in range(count)]


def taken(box: Outbox) -> list[Batch]:
    batches = []
    while (batch := box.take()) is not None:
        batches.append(batch)
    return batches


def test_what_shrinks_fills_batches_too():
    box = outbox(512 << 10, 65_536, compression=CODEC_ZSTD, plain_bytes_max=2 << 20)
    box.extend("t", *checked_payloads("t", TEXT))
    (first, *_) = taken(box)
    box.extend("t", *checked_payloads("t", TEXT))
    (second, *_) = taken(box)
    assert second.count > 3 * first.count
    assert sum(map(len, TEXT[: second.count])) <= 2 << 20, "never more than a few of them fit the buffer"


def test_what_no_longer_shrinks_is_cut_up_and_nothing_is_lost_or_moved():
    box = outbox(512 << 10, 65_536, compression=CODEC_ZSTD, plain_bytes_max=4 << 20)
    box.extend("t", *checked_payloads("t", TEXT))
    taken(box)
    payloads = noise(5_000)  # 4 MB
    waiter = Pending(len(payloads))
    box.extend("t", *checked_payloads("t", payloads), waiter)
    box.extend("u", *checked_payloads("u", [b"behind"]))
    batches = taken(box)
    assert [message[1] for batch in batches for message in messages_of(batch)] == [*payloads, b"behind"]
    assert all(batch.bytes <= LIMIT for batch in batches)
    assert (box.messages, box.bytes) == (0, 0)
    assert sum(count for batch in batches for pending, _, count in batch.waiters if pending is waiter) == len(payloads)


def test_what_was_put_back_can_be_withdrawn():
    box = outbox(512 << 10, 65_536, compression=CODEC_ZSTD, plain_bytes_max=4 << 20)
    box.extend("t", *checked_payloads("t", TEXT))
    taken(box)
    waiter = Pending(5_000)
    box.extend("t", *checked_payloads("t", noise(5_000)), waiter)
    first = box.take()
    assert first is not None and first.count < 5_000
    assert box.withdraw(waiter) == 5_000 - first.count
    assert box.take() is None


def test_a_batch_is_no_more_than_the_log_takes_once_decompressed():
    lines = [bytes(1_000_000)] * 40
    box = outbox(512 << 10, 65_536, compression=CODEC_ZSTD, plain_bytes_max=150 << 20)
    box.extend("a", *checked_payloads("a", lines[:2]))
    taken(box)  # it shrinks to next to nothing
    for topic in ("a", "b"):
        box.extend(topic, *checked_payloads(topic, lines))  # 40 MB, of which each run may have 64 MiB
    batches = taken(box)
    assert sum(batch.count for batch in batches) == 80
    for batch in batches:
        record.encode_batch(bytes(16), 1, batch.runs)
    assert len(batches) == 2, "and not much less"


def test_what_would_be_too_much_once_decompressed_is_refused():
    lines = checked_payloads("t", [bytes(1_000_000)] * 40)
    parcels = [Parcel(topic, *lines, None, None, None, 40_000_500) for topic in ("a", "b")]
    with pytest.raises(BadBatch, match="decoded bytes"):
        encode(parcels, CODEC_ZSTD)
