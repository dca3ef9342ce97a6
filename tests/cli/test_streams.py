"""Streams that are closed, full or left by their reader: an exit code that is true, a sentence, and no traceback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest
from real_programs import Cluster, Result, run

from lanyinglog.cli.processes import free_port

PROGRAM = f"{sys.executable} -m lanyinglog"


def shell(arguments: str) -> Result:
    """``lanyinglog arguments``, redirections included, with nothing on standard input."""
    done = subprocess.run(
        ["sh", "-c", f"exec {PROGRAM} {arguments}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr.decode())


@pytest.mark.parametrize("where", [">/dev/full", ">&-", ">/dev/full 2>/dev/full", ">&- 2>&-"])
@pytest.mark.parametrize("what", ["text", "--file /dev/null"])
def test_a_publish_that_could_not_be_told_is_not_said_to_have_failed(cluster: Cluster, where: str, what: str) -> None:
    done = shell(f"publish untold {what} --server {cluster.server} {where}")
    assert done.code == 5
    if "2>" not in where:
        first, *rest = done.err.splitlines()
        assert first.startswith("lanyinglog: standard output: ")
        assert f"{int(what == 'text')} acknowledged" in first
        assert len(rest) == 1 and "advice" in rest[0]


def test_a_publish_that_could_not_be_told_is_there_once(cluster: Cluster) -> None:
    assert shell(f"publish untold.once x --server {cluster.server} >/dev/full").code == 5
    (topic,) = [row for row in run("topics", "--server", cluster.server).rows if row["topic"] == "untold.once"]
    assert topic["messages"] == 1


@pytest.mark.parametrize("verb", ["topics", "status", "--help", "--version", "publish --help"])
@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_an_answer_that_finds_no_room_is_an_error_in_words(cluster: Cluster, verb: str, where: str) -> None:
    run("publish", "some", "x", "--server", cluster.server)
    done = shell(f"{verb} {'' if '-' in verb else f'--server {cluster.server}'} {where}")
    assert done.code == 5
    assert done.err.startswith("lanyinglog: standard output: ")
    assert "Traceback" not in done.err and "Exception" not in done.err


def test_what_went_wrong_counts_more_than_that_it_could_not_be_told() -> None:
    done = shell(f"publish a --file {__file__} --server 127.0.0.1:1 --timeout 0.5 >/dev/full")
    assert done.code == 3
    assert "127.0.0.1:1" in done.err and "standard output" not in done.err


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_who_hears_no_errors_still_gets_the_exit_code(cluster: Cluster, where: str) -> None:
    assert shell(f"publish 'a b' x --server {cluster.server} {where}").code == 2
    assert shell(f"publish a x --no-such-option {where}").code == 2
    done = shell(f"publish heard x --server {cluster.server} {where}")
    assert (done.code, done.rows[0]["acknowledged"]) == (0, 1)


def test_a_closed_standard_input_is_an_error_in_words(cluster: Cluster) -> None:
    done = shell(f"publish a --file - --server {cluster.server} <&-")
    assert done.code == 1
    assert done.rows[0]["acknowledged"] == 0
    assert "Bad file descriptor" in done.err and "Traceback" not in done.err
    asked = shell(f"log purge nothing --server {cluster.server} <&-")
    assert asked.code == 2 and "--yes" in asked.err


def test_the_reader_of_the_help_may_go_away() -> None:
    with subprocess.Popen([*PROGRAM.split(), "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize("form", ["json", "table"])
def test_a_terminal_that_knows_ascii_only_is_no_reason_to_fail(cluster: Cluster, form: str) -> None:
    run("publish", "订单", "x", "--server", cluster.server)
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    done = run("topics", "订单", "--server", cluster.server, "--format", form, environment=ascii_only)
    assert (done.code, done.err) == (0, "")
    assert rb"\u8ba2\u5355" in done.out
    if form == "json":
        assert done.rows[0]["topic"] == "订单"


# ------------------------------------------------------------------------------------------------ who waits for news
def follow(topic: str, server: str, **streams: Any) -> subprocess.Popen[bytes]:
    command = [*PROGRAM.split(), "subscribe", topic, "--from", "first", "--server", server, "--format", "raw"]
    return subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams})


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_follower_ends_when_its_reader_goes_though_nothing_comes(cluster: Cluster, kind: str) -> None:
    run("publish", "quiet", "one", "--server", cluster.server)
    reading, writing = os.pipe() if kind == "pipe" else map(socket.socket.detach, socket.socketpair())
    with os.fdopen(reading, "rb") as ours, follow("quiet", cluster.server, stdout=writing) as process:
        try:
            os.close(writing)
            assert ours.readline() == b"one\n"
            ours.close()
            assert process.stderr is not None
            assert process.wait(30) == 0
            assert process.stderr.read() == b""
        finally:
            process.kill()


def test_a_broken_connection_of_its_own_does_not_end_a_follower(cluster: Cluster) -> None:
    run("publish", "broken", "one", "--server", cluster.server)
    with follow("broken", cluster.server) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"one\n"
            process.send_signal(signal.SIGPIPE)  # what the system says when a socket breaks
            run("publish", "broken", "two", "--server", cluster.server)
            assert process.stdout.readline() == b"two\n"
        finally:
            process.kill()


def test_dev_ends_when_its_reader_goes_though_nothing_happens() -> None:
    port = free_port(nodes=1)
    command = [*PROGRAM.split(), "dev", "--nodes", "1", "--port", str(port), "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            while json.loads(process.stdout.readline())["event"] != "ready":
                pass
            process.stdout.close()
            assert process.wait(30) == 0
            assert process.stderr.read() == b""
        finally:
            process.kill()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
