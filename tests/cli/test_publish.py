"""``publish``: what is a message, how large it may be, and how it ends when it is told to."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest
from real_programs import Cluster, run

import lanyinglog
from lanyinglog import cli
from lanyinglog.errors import NotSent, Outcome
from lanyinglog.record import MESSAGE_BYTES_MAX, pack_headers

publishing: Any = import_module("lanyinglog.cli.publish")
ENDING = {"acknowledged", "first_seq", "last_seq", "seconds"}


def payloads(cluster: Cluster, topic: str) -> list[bytes]:
    with (
        lanyinglog.sync.connect(cluster.server) as client,
        client.subscribe(topic, until="last") as messages,
    ):
        return [message.payload for message in messages]


@pytest.mark.parametrize(
    ("given", "payload"),
    [
        pytest.param(b"hi\n", b"hi", id="a line"),
        pytest.param(b"hi", b"hi", id="no newline"),
        pytest.param(b"a\nb\n\n", b"a\nb\n", id="lines"),
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"\xff\x00\r\n", b"\xff\x00\r", id="no text"),
    ],
)
def test_a_dash_is_standard_input_as_one_message(cluster: Cluster, given: bytes, payload: bytes) -> None:
    topic = f"dash.{given.hex() or 'nothing'}"
    done = run("publish", topic, "-", "--server", cluster.server, stdin=given)
    assert (done.code, done.rows[-1]["acknowledged"]) == (0, 1)
    assert payloads(cluster, topic) == [payload]


def test_standard_input_takes_the_place_of_a_missing_text(cluster: Cluster) -> None:
    done = run("publish", "piped", "--server", cluster.server, stdin=b"one\ntwo\n")
    assert (done.code, done.rows[-1]["acknowledged"]) == (0, 2)
    assert payloads(cluster, "piped") == [b"one", b"two"]


def test_a_terminal_does_not_take_the_place_of_a_missing_text() -> None:
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "lanyinglog", "publish", "typed"]
        done = subprocess.run(command, stdin=theirs, capture_output=True, timeout=60, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2
    assert b"TEXT or a --file" in done.stderr


@pytest.mark.parametrize("what", [["x", "--file", "-"], ["-", "--file", "-"]])
def test_a_text_and_a_file_are_too_much(what: list[str]) -> None:
    done = run("publish", "both", *what, stdin=b"x\n")
    assert done.code == 2
    assert "TEXT or a --file" in done.err


@pytest.mark.parametrize("variable", ["LANYINGLOG_FILE", "LANYINGLOG_JSON"])
@pytest.mark.parametrize("what", [["text"], ["--file", "-"]])
def test_what_the_command_line_publishes_beats_a_variable(cluster: Cluster, variable: str, what: list[str]) -> None:
    there = {variable: str(Path(__file__))}
    done = run("publish", "beaten", *what, "--server", cluster.server, stdin=b"one\n", environment=there)
    assert (done.code, done.rows[-1]["acknowledged"]) == (0, 1), done.err


# ------------------------------------------------------------------------------------------------ the largest message
ROOM = MESSAGE_BYTES_MAX - len("large") - len(b"key") - len(pack_headers({"h": "v"}))
LABELS = ["--key", "key", "--header", "h=v"]


@pytest.mark.parametrize("what", [["-"], ["--file", "-"]])
def test_the_largest_message_goes_in(cluster: Cluster, what: list[str]) -> None:
    done = run("publish", "large", *what, *LABELS, "--server", cluster.server, stdin=b"x" * ROOM + b"\n")
    assert (done.code, done.rows[-1]["acknowledged"]) == (0, 1)
    assert len(payloads(cluster, "large")[-1]) == ROOM


@pytest.mark.parametrize(
    ("given", "words", "before"),
    [
        pytest.param(b"x" * (ROOM + 1), f"line 1 has {ROOM + 1} bytes or more", 0, id="the last line"),
        pytest.param(b"a\n" + b"x" * (ROOM + 1) + b"\nb\n", f"line 2 has {ROOM + 1} bytes", 1, id="one between"),
        pytest.param(b"a\nb\n" + b"x" * (3 * ROOM), "line 3 has ", 2, id="one without end"),
    ],
)
def test_a_line_that_is_too_large_is_named_and_those_before_it_are_stored(
    cluster: Cluster, given: bytes, words: str, before: int
) -> None:
    known = len(payloads(cluster, "large"))
    done = run("publish", "large", "--file", "-", *LABELS, "--server", cluster.server, stdin=given)
    assert done.code == 1
    assert words in done.err and f"at most {ROOM} are" in done.err
    assert done.rows[-1]["acknowledged"] == before == len(payloads(cluster, "large")) - known


def test_a_text_that_is_too_large_is_told_the_limit(cluster: Cluster) -> None:
    for size in (ROOM + 2, 3 * ROOM):
        done = run("publish", "large", "-", *LABELS, "--server", cluster.server, stdin=b"x" * size)
        assert done.code == 1
        assert "standard input has" in done.err and f"at most {ROOM} are" in done.err
        assert done.out == b""


# ----------------------------------------------------------------------------------------------------------- the end
def test_sigterm_ends_it_with_what_was_acknowledged(cluster: Cluster) -> None:
    command = [sys.executable, "-m", "lanyinglog", "publish", "ended", "--file", "-", "--server", cluster.server]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(b"one\ntwo\n")
            process.stdin.flush()
            with (
                lanyinglog.sync.connect(cluster.server) as client,
                client.subscribe("ended", start="first") as messages,
            ):
                assert next(messages).payload == b"one"
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 143
    assert err == b""
    (ending,) = [json.loads(line) for line in out.splitlines()]
    assert set(ending) == ENDING
    assert ending["acknowledged"] == 2


# --------------------------------------------------------------------------------------------- input that is late
def test_input_that_does_not_block_is_waited_for(cluster: Cluster) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    command = [sys.executable, "-m", "lanyinglog", "publish", "late", "--server", cluster.server]
    with (
        os.fdopen(writing, "wb", buffering=0) as ours,
        subprocess.Popen(command, stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
    ):
        os.close(reading)
        ours.write(b"one\n")
        with (
            lanyinglog.sync.connect(cluster.server) as client,
            client.subscribe("late", start="first") as messages,
        ):
            assert messages.next_batch(timeout=30)[0].payload == b"one"
        ours.write(b"two\n")
        ours.close()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert json.loads(out)["acknowledged"] == 2


def test_who_waits_for_input_hears_that_the_cluster_is_gone() -> None:
    command = [sys.executable, "-m", "lanyinglog", "publish", "dead", "--server", "127.0.0.1:1", "--timeout", "0.5"]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, "--format", "json"], **cast(Any, streams)) as process:
        try:
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            process.stdin.write(b"one\n")
            process.stdin.flush()
            assert process.wait(20) == 3  # though the input has not ended
            assert json.loads(process.stdout.read())["acknowledged"] == 0
            assert json.loads(process.stderr.read())["error"] == "not_sent"
        finally:
            process.kill()


# ----------------------------------------------------------------------------------------- an end before the input's
BLOCK = [b"x" * 99] * 5000
BLOCKS = 20
"""Of half a megabyte each: more than a disk has taken when the last of them is handed on."""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        pytest.param(lambda: signal.raise_signal(signal.SIGTERM), 143, id="SIGTERM"),
        pytest.param(lambda: signal.raise_signal(signal.SIGINT), 130, id="Ctrl-C"),
        pytest.param(lambda: os.read(-1, 1), 1, id="unreadable"),
    ],
)
def test_what_ends_the_input_leaves_nothing_stored_that_is_not_told(
    cluster: Cluster,
    end: Callable[[], object],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def torn(*_: object) -> Iterator[tuple[list[bytes], int]]:
        yield from [(BLOCK, 0)] * BLOCKS
        end()

    monkeypatch.setattr(publishing, "read_lines", torn)
    monkeypatch.setattr(publishing, "SETTLE_S", 30.0)
    topic = f"torn.{code}"
    assert cli.run(["publish", topic, "--file", "-", "--server", cluster.server]) == code
    ending = json.loads(capsys.readouterr().out)
    assert set(ending) == ENDING
    assert ending["acknowledged"] == len(BLOCK) * BLOCKS == len(payloads(cluster, topic))


class Stuck:
    """A publisher of a cluster that takes 3 messages, and says nothing about 5."""

    acknowledged, first_seq, last_seq, unknown = 3, 1, 3, 5
    failure: Exception = TimeoutError()

    def __enter__(self) -> Stuck:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def raise_failure(self) -> None:
        pass

    def flush(self) -> None:
        raise self.failure

    def flush_within(self, timeout: float) -> None:
        assert timeout == publishing.SETTLE_S
        self.flush()


@pytest.mark.parametrize(("form", "words"), [("json", '"unknown": 5}'), ("table", "5 more have an unknown outcome")])
def test_what_is_open_when_a_signal_ends_it_is_told_as_such(
    form: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def send(lines: Sequence[bytes]) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(publishing, "read_lines", lambda *_: iter([(BLOCK, 0)]))
    with pytest.raises(SystemExit) as ended:
        publishing._publish_lines(cast(Any, Stuck()), send, Path("-"), 100, form=form)
    assert ended.value.code == 143
    assert words in capsys.readouterr().out


def test_a_failure_is_not_definite_while_others_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Stuck()
    publisher.failure = NotSent("refused")
    monkeypatch.setattr(publishing, "read_lines", lambda *_: iter([(BLOCK, 0)]))
    with pytest.raises(NotSent) as caught:
        publishing._publish_lines(cast(Any, publisher), lambda lines: None, Path("-"), 100, form="json")
    assert caught.value.outcome is Outcome.UNKNOWN
