"""Messages as JSON lines: what one log gives out another takes in, and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_programs import Cluster, run

import lanyinglog
from lanyinglog.cli.json_lines import LINE_BYTES_MAX, from_line, to_line
from lanyinglog.errors import BadBatch
from lanyinglog.record import MESSAGE_BYTES_MAX, Message

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    payload=st.binary(max_size=50) | TEXTS.map(str.encode),
    key=st.none() | st.binary(max_size=20),
    headers=st.dictionaries(TEXTS.filter(bool), TEXTS, max_size=3),
)
def test_what_is_printed_is_read(payload: bytes, key: bytes | None, headers: dict[str, str]) -> None:
    line = to_line(Message(7, 9, "a.b", key, headers, payload))
    assert line.count(b"\n") == 1
    assert from_line(line, 1) == ("a.b", payload, key, headers)


def test_the_largest_message_fits_in_a_line() -> None:
    assert len(to_line(Message(1, 1, "a", None, {}, b"\x01" * MESSAGE_BYTES_MAX))) <= LINE_BYTES_MAX


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"x", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff", "utf-8"),
        (b"[1]", "it is no object"),
        (b'{"key": "k"}', "it has neither payload nor payload_b64"),
        (b'{"payload": 1}', "payload is no text"),
        (b'{"payload": "x", "payload_b64": "eA=="}', "it has both payload and payload_b64"),
        (b'{"payload_b64": "x"}', "payload_b64 is no base64"),
        (b'{"payload_b64": 1}', "payload_b64 is no text"),
        (b'{"payload": "x", "key": 1}', "key is no text"),
        (b'{"payload": "x", "headers": {"a": 1}}', "headers is no object of texts"),
        (b'{"payload": "x", "headers": "a"}', "headers is no object of texts"),
        (b'{"payload": "x", "topic": 1}', "topic is no text"),
    ],
)
def test_what_is_no_message_is_told(line: bytes, why: str) -> None:
    with pytest.raises(BadBatch) as caught:
        from_line(line, 5)
    assert caught.value.message.startswith("line 5 is no message: ")
    assert why in caught.value.message


def test_a_log_goes_into_another_with_keys_and_headers(cluster: Cluster) -> None:
    with lanyinglog.sync.connect(cluster.server) as client:
        client.publish("copy.a", b"text", key=b"k", headers={"h": "1"})
        client.publish("copy.b", b"\xff\x00", key=b"\xfe")
        client.publish("copy.a", b"")
    out = run(
        "subscribe", "copy.*", "--from", "first", "--until", "last", "--format", "json", "--server", cluster.server
    )
    ended = run("publish", "--json", "-", "--server", cluster.server, stdin=out.out)
    assert (ended.code, ended.rows[0]["acknowledged"]) == (0, 3), ended.err
    assert run("publish", "moved", "--json", "-", "--server", cluster.server, stdin=out.out + b"\n").code == 0
    with (
        lanyinglog.sync.connect(cluster.server) as client,
        client.subscribe(["copy.*", "moved"], start="first", until="last") as messages,
    ):
        found = [(one.topic, one.payload, one.key, one.headers) for one in messages]
    assert found[3:6] == found[:3]
    assert found[6:] == [("moved", *rest) for _, *rest in found[:3]]


def test_a_line_that_is_no_message_ends_it_behind_those_before(cluster: Cluster) -> None:
    lines = [
        {"topic": "bad.one", "payload": "1"},
        {"topic": "bad..two", "payload": "2"},
        {"topic": "bad.one", "payload": "3"},
    ]
    given_lines = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    ended = run("publish", "--json", "-", "--server", cluster.server, stdin=given_lines)
    assert (ended.code, ended.rows[0]["acknowledged"]) == (1, 1)
    assert "line 2" in ended.err
    without = run("publish", "--json", "-", "--server", cluster.server, stdin=b'{"payload": "x"}\n')
    assert (without.code, "line 1 is no message: it has no topic" in without.err) == (1, True)


@pytest.mark.parametrize(
    "more", [("a", "text"), ("--file", "-"), ("--key", "k"), ("--header", "a=b")], ids=lambda m: m[0]
)
def test_json_brings_all_there_is(more: tuple[str, ...]) -> None:
    assert run("publish", "--json", "-", *more).code == 2


def test_topics_are_filtered(cluster: Cluster) -> None:
    with lanyinglog.sync.connect(cluster.server) as client:
        client.publish("sift.a", b"x")
        client.publish("sift.b.c", b"x")
    assert [row["topic"] for row in run("topics", "sift.*", "--server", cluster.server).rows] == ["sift.a"]
    assert run("topics", "sift..x", "--server", cluster.server).code == 2
