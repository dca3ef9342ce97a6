"""Messages: each kind comes back as it was sent, and a field of the wrong type, range or name is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire.examples import BATCH, EXAMPLES, RUNS, STRATEGIES, any_message, check_contents, push, request_of, requests

from lanyinglog import codec
from lanyinglog.errors import BY_CODE, LanyingError, NotLeader, Outcome, ProtocolError
from lanyinglog.record import MESSAGES_MAX
from lanyinglog.service import Ack, Item
from lanyinglog.wire.fields import SEQ_MAX, TEXT_BYTES_MAX, U32_MAX
from lanyinglog.wire.frames import Frame, FrameDecoder, encode_frame
from lanyinglog.wire.messages import (
    BY_KIND,
    CLIENT_MESSAGES,
    CREDIT_MAX,
    FILTERS_MAX,
    FRAME_BYTES_MAX,
    NODE_MESSAGES,
    Acked,
    Error,
    LogInfoReply,
    MembersReply,
    Message,
    Push,
    Scope,
    StatusReply,
    TopicsReply,
    encode_acked,
    encode_push,
    from_frame,
    to_frame,
)

KINDS = CLIENT_MESSAGES + NODE_MESSAGES


def decode(data: bytes) -> list[Frame]:
    decoder = FrameDecoder(frame_bytes_max=FRAME_BYTES_MAX)
    decoder.feed(data)
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    return frames


def frame_of(message: Message) -> Frame:
    [frame] = decode(to_frame(message, request_of(message)))
    return frame


# ------------------------------------------------------------------------------------------------------ there and back
def test_there_is_an_example_and_a_strategy_of_each_kind() -> None:
    assert set(EXAMPLES) == set(STRATEGIES) == set(KINDS)
    assert {kind.NAME for kind in KINDS} == {kind.NAME for kind in Message.__subclasses__()}


def test_no_two_messages_share_a_kind_or_a_name() -> None:
    assert len(BY_KIND) == len(KINDS) == len({kind.NAME for kind in KINDS})


def test_the_kind_tells_who_speaks() -> None:
    assert all(1 <= kind.KIND <= 63 for kind in CLIENT_MESSAGES)
    assert all(64 <= kind.KIND <= 127 for kind in NODE_MESSAGES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.NAME)
def test_every_message_comes_back_as_it_was(kind: type[Message]) -> None:
    @settings(max_examples=60, deadline=None)
    @given(STRATEGIES[kind], requests(kind))
    def comes_back(message: Message, request: int) -> None:
        [frame] = decode(to_frame(message, request))
        assert (frame.kind, frame.request) == (kind.KIND, request)
        assert from_frame(frame) == message

    comes_back()


@settings(max_examples=200, deadline=None)
@given(st.lists(any_message(), max_size=5))
def test_messages_in_one_stream_come_back_in_order(messages: list[Message]) -> None:
    stream = b"".join(to_frame(message, request_of(message)) for message in messages)
    assert [from_frame(frame) for frame in decode(stream)] == messages


@given(STRATEGIES[Push])
def test_a_push_that_is_framed_at_once_is_the_same_frame(message: Push) -> None:
    frame, messages, size = encode_push(9, prev=message.prev, through=message.through, items=message.items)
    assert frame == to_frame(message, 9)
    assert (messages, size) == (message.messages, message.body_bytes)


def test_the_largest_frame_fits_the_limit() -> None:
    largest = push(0, 1, (Item(1, 1, 1, memoryview(RUNS[0] + bytes((1 << 20) - len(RUNS[0])))),))
    assert len(to_frame(largest, U32_MAX)) <= FRAME_BYTES_MAX


# -------------------------------------------------------------------------------------------------------------- fields
FIELDS = [(kind, name) for kind, message in EXAMPLES.items() for name in message.header()]
OPTIONAL = {("welcome", "leader_client"), ("error", "hint"), ("transfer", "node")}


def ids(case: tuple[type[Message], str]) -> str:
    return f"{case[0].NAME}.{case[1]}"


@pytest.mark.parametrize("case", FIELDS, ids=ids)
def test_a_missing_field_is_refused_unless_it_is_optional(case: tuple[type[Message], str]) -> None:
    kind, name = case
    frame = frame_of(EXAMPLES[kind])
    del frame.header[name]
    if (kind.NAME, name) in OPTIONAL:
        from_frame(frame)
    else:
        with pytest.raises(ProtocolError, match=name):
            from_frame(frame)


WRONG = [None, True, 1.0, -1, 1 << 63, "x" * 300, "no such", b"x", [], [[]], {}, {"x": 1}, [None] * 100, ["x" * 300]]


@pytest.mark.parametrize("case", FIELDS, ids=ids)
def test_a_field_of_another_type_or_size_is_refused(case: tuple[type[Message], str]) -> None:
    kind, name = case
    right = frame_of(EXAMPLES[kind]).header[name]
    refused = 0
    for wrong in WRONG:
        frame = frame_of(EXAMPLES[kind])
        frame.header[name] = wrong
        try:
            taken = from_frame(frame)
        except ProtocolError as error:
            assert name in error.message or kind.NAME == "push"
            refused += 1
        else:
            # What is taken must be another value of the field's own type, or nil where nil is allowed.
            assert type(wrong) is type(right) or (wrong is None and (kind.NAME, name) in OPTIONAL), taken
    assert refused >= len(WRONG) - 4


RANGES = {
    ("hello", "versions"): ([[1, 1], [1, 0xFFFF]], [[0, 1], [2, 1], [1, 0x10000], [1], [1, 1, 1], [1, True]]),
    ("subscribe", "filters"): ([[], ["a"] * FILTERS_MAX, ["é" * 127]], [["a"] * (FILTERS_MAX + 1), ["é" * 128], [1]]),
    ("subscribe", "start"): (
        [{"seq": 1}, {"seq": SEQ_MAX}, {"time": 0}, {"first": True}, {"new": True}],
        [{}, {"seq": 0}, {"seq": 1, "new": True}, {"first": False}, {"first": 1}, {"time": -1}, {"last": True}],
    ),
    ("subscribe", "credit_messages"): ([0, CREDIT_MAX], [-1, CREDIT_MAX + 1]),
    ("subscribe", "credit_bytes"): ([0, CREDIT_MAX], [-1, CREDIT_MAX + 1]),
    ("credit", "credit_messages"): ([0, CREDIT_MAX], [-1, CREDIT_MAX + 1]),
    ("credit", "credit_bytes"): ([0, CREDIT_MAX], [-1, CREDIT_MAX + 1]),
    ("publish", "log"): (["", "x" * 255], ["x" * 256, "é" * 128]),
    ("topics", "after"): (["", "x" * 255], ["x" * 256]),
    ("transfer", "node"): ([None, "x" * 255], ["x" * 256, 1]),
    ("welcome", "version"): ([1, 0xFFFF], [0, 0x10000]),
    ("welcome", "frame_bytes_max"): ([1, U32_MAX], [0, U32_MAX + 1]),
    ("welcome", "producer_window"): ([1, U32_MAX], [0, U32_MAX + 1]),
    ("acked", "count"): ([0, MESSAGES_MAX], [-1, MESSAGES_MAX + 1]),
    ("acked", "first_seq"): ([0, SEQ_MAX], [-1, SEQ_MAX + 1]),
    ("acked", "timestamp"): ([0, SEQ_MAX], [-1, SEQ_MAX + 1]),
    ("acked", "duplicate"): ([True, False], [0, 1]),
    ("subscribed", "next_seq"): ([1, SEQ_MAX], [0, SEQ_MAX + 1]),
    ("subscribed", "last_seq"): ([0, SEQ_MAX], [-1, SEQ_MAX + 1]),
    ("error", "outcome"): (["definite", "unknown"], ["", "maybe"]),
    ("error", "message"): (["", "x" * TEXT_BYTES_MAX], ["x" * (TEXT_BYTES_MAX + 1)]),
    ("error", "hint"): ([None, "x" * 255], ["x" * 256]),
}
NAMED = {kind.NAME: kind for kind in KINDS}


@pytest.mark.parametrize("case", RANGES, ids=".".join)
def test_the_ends_of_a_range_are_taken_and_what_is_beyond_is_not(case: tuple[str, str]) -> None:
    taken, refused = RANGES[case]
    for value in taken:
        frame = frame_of(EXAMPLES[NAMED[case[0]]])
        frame.header[case[1]] = value
        from_frame(frame)
    for value in refused:
        frame = frame_of(EXAMPLES[NAMED[case[0]]])
        frame.header[case[1]] = value
        with pytest.raises(ProtocolError):
            from_frame(frame)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.NAME)
def test_an_unknown_field_is_ignored_unless_it_is_critical(kind: type[Message]) -> None:
    frame = frame_of(EXAMPLES[kind])
    frame.header["from_the_future"] = [1, 2, 3]
    assert from_frame(frame) == EXAMPLES[kind]
    frame.header["!from_the_future"] = None
    with pytest.raises(ProtocolError, match="critical"):
        from_frame(frame)


def test_a_field_that_is_nested_a_thousand_deep_is_refused_in_few_words() -> None:
    header = b"\x81\xa3log" + b"\x91" * 1_000 + b"\x01"
    frame = frame_of(EXAMPLES[NAMED["status"]])._replace(header=codec.unpack_map(header))
    with pytest.raises(ProtocolError) as caught:
        from_frame(frame)
    assert len(caught.value.message) < 200


# -------------------------------------------------------------------------------------------------- kinds, ids, bodies
@pytest.mark.parametrize("kind", sorted(set(range(256)) - set(BY_KIND)))
def test_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"kind {kind} "):
        from_frame(Frame(kind, 1, {}, b""))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.NAME)
def test_the_request_id_is_0_for_the_connection_alone(kind: type[Message]) -> None:
    frame = frame_of(EXAMPLES[kind])
    for request, allowed in ((0, kind.SCOPE is not Scope.REQUEST), (1, kind.SCOPE is not Scope.CONNECTION)):
        if allowed:
            from_frame(frame._replace(request=request))
        else:
            with pytest.raises(ProtocolError, match="request id"):
                from_frame(frame._replace(request=request))
            with pytest.raises(AssertionError):
                to_frame(EXAMPLES[kind], request)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.HAS_BODY], ids=lambda kind: kind.NAME)
def test_a_body_where_none_belongs_is_refused(kind: type[Message]) -> None:
    with pytest.raises(ProtocolError, match="body"):
        from_frame(frame_of(EXAMPLES[kind])._replace(body=b"x"))


BAD_BODIES: dict[str, tuple[type[Message], Any]] = {
    "a status that is no map": (StatusReply, [1]),
    "topics that are no list": (TopicsReply, {"a": 1}),
    "a topic without its numbers": (TopicsReply, [["a"]]),
    "a topic whose name is a number": (TopicsReply, [[1, 1, 1, 1, 1]]),
    "a topic with a negative count": (TopicsReply, [["a", -1, 1, 1, 1]]),
    "a topic with a flag for a number": (TopicsReply, [["a", True, 1, 1, 1]]),
    "a topic with a number too large": (TopicsReply, [["a", 1, 1, 1, 1 << 63]]),
}


@pytest.mark.parametrize("case", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_reply_whose_body_is_wrong_is_refused(case: tuple[type[Message], Any]) -> None:
    kind, body = case
    with pytest.raises(ProtocolError):
        from_frame(frame_of(EXAMPLES[kind])._replace(body=codec.pack(body)))
    with pytest.raises(ProtocolError):
        from_frame(frame_of(EXAMPLES[kind])._replace(body=b""))


# ---------------------------------------------------------------------------------------------------------------- push
RUN2, RUN3, *_ = map(memoryview, RUNS)  # of 2 and of 3 messages
GOOD_PUSHES = {
    "nothing matched": (4, 9, ()),
    "nothing at all": (4, 4, ()),
    "one run": (4, 6, ((5, 2, RUN2),)),
    "a run behind others that did not match": (4, 20, ((10, 2, RUN2),)),
    "a first run that begins below": (5, 6, ((5, 2, RUN2),)),
    "a first run that begins far below": (6, 7, ((5, 3, RUN3),)),
    "runs that follow each other": (4, 9, ((5, 2, RUN2), (7, 3, RUN3))),
    "runs with a gap": (4, 12, ((5, 2, RUN2), (9, 3, RUN3))),
}
BAD_PUSHES = {
    "back": (9, 4, ()),
    "a run that ends at prev": (6, 9, ((5, 2, RUN2),)),
    "a run that ends before prev": (7, 9, ((5, 2, RUN2),)),
    "a run that ends behind through": (4, 5, ((5, 2, RUN2),)),
    "a run at seq 0": (0, 9, ((0, 2, RUN2),)),
    "a run again": (4, 9, ((5, 2, RUN2), (5, 2, RUN2))),
    "a run that overlaps the one before": (4, 9, ((5, 2, RUN2), (6, 3, RUN3))),
    "runs in the wrong order": (4, 9, ((7, 3, RUN3), (5, 2, RUN2))),
    "a run near the end of all numbers": (4, SEQ_MAX, ((SEQ_MAX, 2, RUN2),)),
}


def as_push(prev: int, through: int, items: tuple[tuple[int, int, memoryview], ...]) -> bytes:
    made = [Item(first_seq, 1_000, count, run) for first_seq, count, run in items]
    return encode_push(1, prev=prev, through=through, items=made)[0]


@pytest.mark.parametrize("case", GOOD_PUSHES.values(), ids=GOOD_PUSHES)
def test_a_push_in_order_is_taken(case: tuple[int, int, Any]) -> None:
    message = from_frame(decode(as_push(*case))[0])
    assert isinstance(message, Push)
    assert [(item.first_seq, item.count, bytes(item.run)) for item in message.items] == [
        (first_seq, count, bytes(run)) for first_seq, count, run in case[2]
    ]
    check_contents(message)


@pytest.mark.parametrize("case", BAD_PUSHES.values(), ids=BAD_PUSHES)
def test_a_push_that_skips_repeats_or_goes_back_is_refused(case: tuple[int, int, Any]) -> None:
    with pytest.raises(ProtocolError):
        from_frame(decode(as_push(*case))[0])


def test_a_push_with_a_time_beyond_all_clocks_is_refused() -> None:
    frame, _, _ = encode_push(1, prev=4, through=6, items=[Item(5, SEQ_MAX + 1, 2, RUN2)])
    with pytest.raises(ProtocolError):
        from_frame(decode(frame)[0])


def test_a_push_with_a_run_shorter_than_its_head_is_refused() -> None:
    stub = memoryview(RUNS[0][:19])
    frame, _, _ = encode_push(1, prev=4, through=20, items=[Item(5, 1, 2, stub), Item(7, 1, 2, RUN2)])
    with pytest.raises(ProtocolError, match="19 bytes does not fit"):
        from_frame(decode(frame)[0])


def test_a_push_is_refused_when_its_heads_were_damaged() -> None:
    frame = frame_of(EXAMPLES[Push])
    for at in range(20):
        body = bytearray(frame.body)
        body[at] ^= 1
        with pytest.raises(ProtocolError):
            from_frame(frame._replace(body=bytes(body)))


@pytest.mark.parametrize("messages", [0, 4, 6])
def test_a_push_is_refused_when_it_miscounts(messages: int) -> None:
    frame = frame_of(EXAMPLES[Push])
    assert frame.header["messages"] == 5
    frame.header["messages"] = messages
    with pytest.raises(ProtocolError, match="counts"):
        from_frame(frame)


def test_a_torn_push_is_refused() -> None:
    frame = frame_of(EXAMPLES[Push])
    for length in range(1, len(frame.body)):
        with pytest.raises(ProtocolError):
            from_frame(frame._replace(body=frame.body[:length]))


@pytest.mark.parametrize("count", [0, MESSAGES_MAX + 1])
def test_a_push_with_a_run_of_an_impossible_count_is_refused(count: int) -> None:
    run = bytearray(RUNS[0])
    run[12:16] = count.to_bytes(4, "little")
    with pytest.raises(ProtocolError):
        from_frame(decode(as_push(4, SEQ_MAX, ((10, count, memoryview(run)),)))[0])


# -------------------------------------------------------------------------------------------------------------- damage
CHECKSUMMED = [kind for kind in KINDS if not issubclass(kind, StatusReply | TopicsReply | LogInfoReply | MembersReply)]
"""Bodies of these carry no checksum: what they tell is for people (docs/protocol.md says so)."""


@pytest.mark.parametrize("kind", CHECKSUMMED, ids=lambda kind: kind.NAME)
def test_no_flipped_byte_of_a_frame_is_believed(kind: type[Message]) -> None:
    """The frame, with a good one behind it, gives an error in the end or waits for more; never another content."""
    whole = to_frame(EXAMPLES[kind], request_of(kind))
    behind = encode_frame(8, 1, {})
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        with pytest.raises(LanyingError):
            frames = decode(bytes(damaged) + behind)
            for frame in frames:
                check_contents(from_frame(frame))
            if not frames:
                raise ProtocolError("it waits for more")


# -------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("code", BY_CODE)
def test_every_error_crosses_the_wire(code: str) -> None:
    sent = BY_CODE[code]("why", hint="where")
    received = from_frame(frame_of(Error.of(sent)))
    assert isinstance(received, Error)
    error = received.exception()
    assert type(error) is type(sent)
    assert (error.message, error.hint, error.outcome) == ("why", "where", sent.outcome)


def test_an_error_of_a_later_version_keeps_its_outcome() -> None:
    error = Error("from_the_future", Outcome.DEFINITE, "why").exception()
    assert type(error) is LanyingError
    assert error.outcome is Outcome.DEFINITE


@pytest.mark.parametrize("text", ["x" * 20_000, "é" * 10_000, "\ud800" * 9_000], ids=["ASCII", "UTF-8", "surrogates"])
def test_a_long_message_is_cut_to_what_a_frame_holds(text: str) -> None:
    message = from_frame(frame_of(Error.of(NotLeader(text))))
    assert isinstance(message, Error)
    assert len(message.message.encode()) in (TEXT_BYTES_MAX, TEXT_BYTES_MAX - 1)


def test_an_ack_is_told_as_it_is() -> None:
    ack = Ack(5, 3, 1_000, duplicate=True)
    message = from_frame(frame_of(Acked.of(ack)))
    assert message == Acked(5, 3, 1_000, True)


@given(
    st.integers(1, U32_MAX),
    st.builds(Ack, st.integers(0, SEQ_MAX), st.integers(0, MESSAGES_MAX), st.integers(0, SEQ_MAX), st.booleans()),
)
@example(U32_MAX, Ack(SEQ_MAX, MESSAGES_MAX, SEQ_MAX, True))
def test_the_short_way_to_an_acknowledgement_says_the_same(request: int, ack: Ack) -> None:
    decoder = FrameDecoder(frame_bytes_max=1 << 20)
    decoder.feed(encode_acked(request, ack))
    frame = decoder.next_frame()
    assert frame is not None
    assert (frame.request, from_frame(frame)) == (request, Acked.of(ack))
    assert decoder.next_frame() is None


def test_a_publish_carries_its_batch_untouched() -> None:
    assert frame_of(EXAMPLES[NAMED["publish"]]).body == BATCH
