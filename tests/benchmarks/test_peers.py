"""What adapters make of bytes: replies, confirms, frames, answers of a monitor."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.processes import Trouble
from benchmarks.systems import amqp, etcd, nats, redis, sockets


# ---------------------------------------------------------------------------------------------------------- Redis
@pytest.mark.parametrize(
    ("buffer", "count", "rest"),
    [
        pytest.param(b"$3\r\n1-0\r\n$3\r\n1-1\r\n", 2, b"", id="two ids"),
        pytest.param(b"+PONG\r\n:2\r\n", 2, b"", id="simple replies"),
        pytest.param(b"$3\r\n1-0\r\n$3\r\n1-", 1, b"$3\r\n1-", id="the second is cut off"),
        pytest.param(b"$3\r", 0, b"$3\r", id="not even a line"),
    ],
)
def test_whole_redis_replies_are_counted(buffer: bytes, count: int, rest: bytes) -> None:
    left = bytearray(buffer)
    assert (redis.count_replies(left), bytes(left)) == (count, rest)


def test_an_error_of_redis_is_trouble() -> None:
    with pytest.raises(Trouble, match="OOM"):
        redis.count_replies(bytearray(b"-OOM command not allowed\r\n"))


def test_a_redis_command_counts_words_and_bytes() -> None:
    assert redis.encode_command(b"XADD", b"t") == b"*2\r\n$4\r\nXADD\r\n$1\r\nt\r\n"


# ----------------------------------------------------------------------------------------------------------- AMQP
def _ack(tag: int, *, multiple: bool) -> bytes:
    return amqp.method(amqp.ACK, struct.pack(">QB", tag, multiple))


@given(st.permutations(range(1, 30)), st.integers(0, 29))
def test_each_message_is_confirmed_once_in_any_order(order: list[int], through: int) -> None:
    """Some one by one, then all up to one, then the rest one by one: never more or less than were sent."""
    confirms = amqp.Confirms()
    singles, rest = order[: len(order) // 2], order[len(order) // 2 :]
    count = sum(confirms(bytearray(_ack(tag, multiple=False))) for tag in singles)
    if through:
        count += confirms(bytearray(_ack(through, multiple=True)))
    count += sum(confirms(bytearray(_ack(tag, multiple=False))) for tag in rest if tag > through)
    assert count == len(order)


def test_a_frame_that_is_cut_off_waits_for_its_rest() -> None:
    whole = _ack(7, multiple=False)
    buffer = bytearray(whole + whole[:-1])
    assert len(amqp.take_frames(buffer)) == 1
    assert bytes(buffer) == whole[:-1]


def test_a_refused_message_is_trouble() -> None:
    with pytest.raises(Trouble, match="RabbitMQ"):
        amqp.take_frames(bytearray(amqp.method(amqp.NACK, bytes(9))))


def test_a_published_message_is_three_frames_with_its_payload_last() -> None:
    kinds = amqp.take_frames(bytearray(amqp.publish("q", b"hello")))
    assert [kind for kind, _ in kinds] == [amqp.METHOD, amqp.HEADER, amqp.BODY]
    assert kinds[-1][1] == b"hello"


# ----------------------------------------------------------------------------------------------------------- etcd
@given(st.integers(0, 2**63))
def test_an_integer_survives_protocol_buffers(value: int) -> None:
    assert list(etcd.decode(etcd.encode((3, value), (200, b"x")))) == [(3, value), (200, b"x")]


def test_a_watch_tells_the_values_of_its_events() -> None:
    def event(value: bytes) -> bytes:
        return etcd.encode((2, etcd.encode((1, b"bench/1"), (5, value))))

    response = etcd.encode((1, b""), (2, 1), (11, event(b"one")), (11, event(b"two")))
    assert etcd.watched(response) == [b"one", b"two"]


# ----------------------------------------------------------------------------------------------------------- NATS
def _view(leader: str | None, *replicas: tuple[str, bool]) -> dict[str, Any]:
    others = [{"name": name, "current": current} for name, current in replicas]
    return {"name": "bench", "cluster": {"leader": leader, "replicas": others}}


FOLLOWERS = [_view("n2", ("n2", True), ("n3", False)), _view("n2", ("n1", False), ("n2", True))]


@pytest.mark.parametrize(
    ("views", "leader"),
    [
        pytest.param([*FOLLOWERS, _view("n2", ("n1", True), ("n3", True))], "n2", id="the leader says all are current"),
        pytest.param([*FOLLOWERS, _view("n2", ("n1", True), ("n3", False))], None, id="the leader says one is behind"),
        pytest.param(FOLLOWERS, None, id="one server is silent"),
        pytest.param([*FOLLOWERS, _view("n1", ("n2", True), ("n3", True))], None, id="two leaders"),
        pytest.param([_view(None)] * 3, None, id="no leader"),
    ],
)
def test_a_stream_is_settled_when_its_leader_says_so(views: list[dict[str, Any]], leader: str | None) -> None:
    assert nats.settled_leader(views) == leader


def test_a_monitor_without_streams_has_no_view() -> None:
    assert nats.stream_views({"account_details": None}) == []
    assert nats.stream_views({"account_details": [{"stream_detail": [_view("n1"), {"name": "other"}]}]}) == [
        _view("n1")
    ]


def test_a_pool_is_lengths_and_payloads() -> None:
    assert nats.encode_pool([b"ab", b""]) == b"\x02\0\0\0ab\0\0\0\0"


# -------------------------------------------------------------------------------------------------------- sockets
def test_a_plan_has_the_layout_that_the_program_reads() -> None:
    plan = sockets.encode_plan([sockets.Talk(7420, b"hi", 1, [b"one"])], expected=9)
    assert plan == struct.pack("<IQHII2sII3s", 1, 9, 7420, 1, 2, b"hi", 1, 3, b"one")
