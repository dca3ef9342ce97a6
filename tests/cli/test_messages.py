"""publish, subscribe, topics and status against real nodes: formats and exit codes that scripts rely on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from real_programs import Cluster, run

from lanyinglog.cli.subscribe import _terminal_line
from lanyinglog.record import Message

STATUS_KEYS = {
    "node", "pid", "client", "peer", "role", "term", "commit", "applied", "last_seq", "lag", "storage_full",
    "unconnected", "first_seq", "file_bytes", "catch_up",
}  # fmt: skip


def test_a_file_comes_back_byte_for_byte(cluster: Cluster, tmp_path: Path) -> None:
    source = random.Random(1)
    lines = [source.randbytes(source.randrange(120)).replace(b"\n", b"") for _ in range(3_000)]
    lines += [b"", b"\r", "订单".encode(), b"x" * 300_000, b"the end"]
    file = tmp_path / "lines"
    file.write_bytes(b"\n".join(lines) + b"\n")
    ending = run("publish", "bytes", "--file", str(file), "--server", cluster.server).rows[-1]
    assert set(ending) == {"acknowledged", "first_seq", "last_seq", "seconds"}
    assert ending["acknowledged"] == len(lines) == ending["last_seq"] - ending["first_seq"] + 1
    back = run(
        "subscribe", "bytes", "--from", "first", "--until", "last", "--format", "raw", "--server", cluster.server
    )
    assert back.out == file.read_bytes()


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        pytest.param(b"a\nb\n", [b"a", b"b"], id="ends with a newline"),
        pytest.param(b"a\nb", [b"a", b"b"], id="ends without one"),
        pytest.param(b"\n\n", [b"", b""], id="empty lines"),
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"a\r\n\xff\n", [b"a\r", b"\xff"], id="no text"),
    ],
)
def test_standard_input_is_read_line_by_line(cluster: Cluster, given: bytes, lines: list[bytes]) -> None:
    topic = f"stdin.{given.hex() or 'nothing'}"
    done = run("publish", topic, "--file", "-", "--server", cluster.server, stdin=given)
    assert (done.code, done.rows[-1]["acknowledged"]) == (0, len(lines))
    back = run("subscribe", topic, "--from", "first", "--until", "last", "--server", cluster.server, "--format", "raw")
    assert back.out == b"".join(line + b"\n" for line in lines)


def test_a_message_in_json_has_all_its_fields(cluster: Cluster) -> None:
    run("publish", "json.text", "héllo", "--key", "k", "--header", "a=b=c", "--server", cluster.server)
    run("publish", "json.bytes", "--file", "-", "--server", cluster.server, stdin=b"\xff\xfe\n")
    text, binary = run("subscribe", "json.*", "--from", "first", "--until", "last", "--server", cluster.server).rows
    assert set(text) == {"seq", "timestamp", "topic", "key", "headers", "payload"}
    assert (text["topic"], text["key"], text["headers"], text["payload"]) == ("json.text", "k", {"a": "b=c"}, "héllo")
    assert binary["payload_b64"] == "//4=" and "payload" not in binary
    assert binary["seq"] > text["seq"] and binary["timestamp"] > text["timestamp"]


def test_a_subscription_begins_and_ends_where_it_is_told(cluster: Cluster) -> None:
    seqs = [run("publish", "place", str(n), "--server", cluster.server).rows[0]["first_seq"] for n in range(4)]
    times = [row["timestamp"] for row in run("subscribe", "place", "--from", "first", "--count", "4",
                                             "--server", cluster.server).rows]  # fmt: skip
    for start, until in [(str(seqs[1]), str(seqs[2])), (str(times[1]), str(seqs[2]))]:
        found = run("subscribe", "place", "--from", start, "--until", until, "--server", cluster.server).rows
        assert [row["payload"] for row in found] == ["1", "2"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough_is_no_error(cluster: Cluster, unbuffered: str) -> None:
    run("publish", "pipe", "--file", "-", "--server", cluster.server, stdin=b"line\n" * 20_000)
    subscribe = [sys.executable, "-m", "lanyinglog", "subscribe", "pipe", "--from", "first", "--server", cluster.server]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(subscribe, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            assert b"line" in process.stdout.readline()
            process.stdout.close()
            assert process.wait(30) == 0
            assert process.stderr.read() == b""
        finally:
            process.kill()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_finds_no_room_is_an_error(cluster: Cluster, tmp_path: Path, unbuffered: str) -> None:
    run("publish", "long", "--file", "-", "--server", cluster.server, stdin=(b"x" * 99 + b"\n") * 1_000)
    program = f"{sys.executable} -m lanyinglog subscribe long --from first --until last --server {cluster.server}"
    with (tmp_path / "messages").open("wb") as file:
        done = subprocess.run(
            ["sh", "-c", f"ulimit -f 8 && exec {program} --format raw"],
            stdout=file,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            timeout=60,
            check=False,
        )
    assert done.returncode == 5
    assert done.stderr.startswith(b"lanyinglog: standard output: File too large\n")


def test_status_and_topics_have_their_fields(cluster: Cluster) -> None:
    run("publish", "listed", "one", "--server", cluster.server)
    for rows in (run("status", "--server", cluster.server).rows, cluster.status().rows):
        assert [row["node"] for row in rows] == ["n1", "n2", "n3"]
        assert all(set(row) == STATUS_KEYS for row in rows)
        assert sorted(row["role"] for row in rows) == ["follower", "follower", "leader"]
    (topic,) = [row for row in run("topics", "--server", cluster.server).rows if row["topic"] == "listed"]
    assert topic["messages"] == 1


def test_the_server_can_come_from_the_environment(cluster: Cluster) -> None:
    done = run("publish", "environment", "x", environment={"LANYINGLOG_SERVER": cluster.server})
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["publish", "a b", "x"], 2, "topic", id="a bad topic"),
        pytest.param(["publish", "a", "x", "--header", "novalue"], 2, "NAME=VALUE", id="a bad header"),
        pytest.param(["publish", "a", "--file", "/does/not/exist"], 2, "does not exist", id="no such file"),
        pytest.param(["subscribe", ">", "--from", "yesterday"], 2, "--from", id="a bad start"),
        pytest.param(["subscribe", ">", "--until", "never"], 2, "last nor a seq", id="a bad end"),
        pytest.param(["publish", "a", "x", "--server", "127.0.0.1:1", "--timeout", "1"], 3, "1 s", id="nobody there"),
        pytest.param(["status", "--server", "127.0.0.1:1"], 3, "no node answers", id="no status"),
        pytest.param(["nonsense"], 2, "nonsense", id="no such verb"),
    ],
)
def test_an_error_has_its_code_and_its_words(cluster: Cluster, arguments: list[str], code: int, words: str) -> None:
    done = run(*arguments, environment={"LANYINGLOG_SERVER": cluster.server})
    assert done.code == code, done
    assert words in done.err
    assert "Traceback" not in done.err


USAGE = {
    "a bad header": ["publish", "a", "x", "--header", "bad"],
    "no such file": ["publish", "a", "--file", "/does/not/exist"],
    "no such option": ["publish", "a", "x", "--nonsense"],
    "nothing to subscribe to": ["subscribe"],
    "no such verb": ["nonsense"],
    "no such verb of a group": ["log", "nonsense"],
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_wrong_usage_is_one_line_for_programs_and_a_sentence_for_people(arguments: list[str]) -> None:
    asked = [
        run(*arguments, "--format", "json"), run(*arguments, "--format=json"), run("--format", "json", *arguments),
        run(*arguments, environment={"LANYINGLOG_FORMAT": "json"}),
    ]  # fmt: skip
    for done in asked:
        assert done.code == 2
        (line,) = done.err.splitlines()
        told = json.loads(line)
        assert set(told) == {"error", "outcome", "message", "advice"}
        assert (told["error"], told["outcome"]) == ("usage", "definite")
    done = run(*arguments)
    assert done.code == 2
    first, second = done.err.splitlines()
    assert first.startswith("lanyinglog: ") and second.startswith("  usage: lanyinglog ")


@pytest.mark.parametrize("more", [["--format", "raw"], ["--format"], ["--", "--format", "json"]], ids=str)
def test_a_form_that_was_not_asked_for_is_not_guessed(more: list[str]) -> None:
    done = run("publish", "a", "x", *more)
    assert done.code == 2
    assert done.err.startswith("lanyinglog: ")


def test_the_name_of_a_header_does_not_write_over_the_screen() -> None:
    line = _terminal_line(Message(1, 1_790_000_000_000_000_000, "t", None, {"\x1b[2J": "v"}, b"x"))
    assert b"\x1b" not in line and rb"\x1b[2J=v" in line


@pytest.mark.parametrize("until", ["9" * 5000, "0", "x", "9223372036854775808"])
def test_an_end_that_is_no_seq_is_wrong_usage(until: str) -> None:
    done = run("subscribe", "t", "--until", until)
    assert done.code == 2
    assert "neither last nor a seq" in done.err
