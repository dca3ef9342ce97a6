"""Starting, stopping, hurting and checking a cluster through the command line."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import types
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from real_programs import Cluster, run

from lanyinglog.cli import cluster as verbs
from lanyinglog.cli.directory import create_cluster
from lanyinglog.cli.processes import free_port


def test_start_starts_what_is_not_running(cluster: Cluster) -> None:
    before = {row["node"]: row["pid"] for row in cluster.status().rows}
    os.kill(before["n2"], signal.SIGKILL)
    started = cluster.start()
    assert started.code == 0, started.err
    after = {row["node"]: row["pid"] for row in cluster.status().rows}
    assert after["n2"] != before["n2"]
    assert (after["n1"], after["n3"]) == (before["n1"], before["n3"])


@pytest.mark.parametrize("answers_until_it_votes", [1, 3, None])
def test_who_is_told_that_a_cluster_is_up_may_stop_any_node_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers_until_it_votes: int | None
) -> None:
    """A node that joins is waited for, but not for as long as a lost disk takes to come back (None)."""
    made = create_cluster(tmp_path, nodes=3)
    answers = [0]

    def rows_of(*_: object, **__: object) -> list[dict[str, Any]]:
        answers[0] += 1
        joins = answers_until_it_votes is None or answers[0] < answers_until_it_votes
        return [
            {"node": "n1", "role": "leader", "term": 1, "catch_up": None},
            {"node": "n2", "role": "follower", "term": 1, "catch_up": None},
            {"node": "n3", "role": "follower", "term": 1, "catch_up": "its directory is new" if joins else None},
        ]

    clock = itertools.count(100.0, 0.5)
    monkeypatch.setattr(verbs, "rows_of", rows_of)
    monkeypatch.setattr(verbs, "time", types.SimpleNamespace(monotonic=clock.__next__, sleep=lambda _: None))
    running: Any = types.SimpleNamespace(poll=lambda: None)
    rows = verbs.wait_until_up(made, [(member, running) for member in made.members], timeout_s=30.0)
    assert answers[0] == answers_until_it_votes or (answers_until_it_votes is None and 5 < answers[0] < 15)
    assert (rows[2]["catch_up"] is None) == (answers_until_it_votes is not None)


def test_leadership_moves_on_request(cluster: Cluster) -> None:
    moved = run("cluster", "transfer", "--dir", str(cluster.directory))
    assert moved.code == 0, moved.err
    (leader,) = [row["node"] for row in cluster.status().rows if row["role"] == "leader"]
    assert moved.rows[0]["leader"] == leader
    refused = run("cluster", "transfer", "--dir", str(cluster.directory), "--to", "n9")
    assert refused.code == 1 and "n9" in refused.err


def test_a_stopped_cluster_has_no_quorum_and_keeps_its_data(tmp_path: Path) -> None:
    made = Cluster(tmp_path / "c", free_port(nodes=3))
    try:
        assert made.start().code == 0
        run("publish", "kept", "worth keeping", "--server", made.server)
        assert made.stop().code == 0
        down = made.status()
        assert down.code == 3
        assert {row["role"] for row in down.rows} == {"unreachable"}
        _flip_a_byte_and_verify(made)
        assert made.start().code == 0
        found = run("subscribe", "kept", "--from", "first", "--count", "1", "--server", made.server)
        assert found.rows[0]["payload"] == "worth keeping"
    finally:
        made.stop()


def _flip_a_byte_and_verify(made: Cluster) -> None:
    assert run("verify", str(made.directory)).code == 0
    file = made.directory / "n1" / "data" / "main" / "data.mdb"
    content = file.read_bytes()
    # Wherever it lies: pages that are free by now keep what they had.
    file.write_bytes(content.replace(b"worth keeping", b"worth seeping"))
    damaged = run("verify", str(made.directory))
    assert damaged.code == 4
    assert [row["ok"] for row in damaged.rows] == [False, True, True]
    assert "entry" in str(damaged.rows[0]["problems"])
    file.write_bytes(content)


def test_a_taken_port_is_an_error_in_words(tmp_path: Path) -> None:
    port = free_port(nodes=3)
    with socket.create_server(("127.0.0.1", port + 1)):
        refused = run("cluster", "start", "--dir", str(tmp_path / "c"), "--port", str(port))
    assert refused.code == 1
    assert str(port + 1) in refused.err and "taken" in refused.err
    assert "node.log" not in refused.err, "no node was started: there is none"


def test_a_node_does_not_bind_beyond_loopback_unless_told(tmp_path: Path) -> None:
    refused = run(
        "node", "--id", "n1", "--data", str(tmp_path / "n1"), "--client-listen", "0.0.0.0:0",
        "--peer-listen", "127.0.0.1:0", "--peers", "n1=127.0.0.1:1",
    )  # fmt: skip
    assert refused.code == 2
    assert "i_accept_an_open_unencrypted_port" in refused.err


def test_a_node_is_watched_over_http(tmp_path: Path) -> None:
    port = free_port(nodes=1)
    settings = ["--id", "n1", "--data", str(tmp_path), "--client-listen", f"127.0.0.1:{port}", "--log-format", "json"]
    settings += ["--peer-listen", "127.0.0.1:0", "--peers", f"n1=127.0.0.1:{port + 100}"]
    node = [sys.executable, "-m", "lanyinglog", "node", *settings, "--metrics-listen", "127.0.0.1:0"]
    with subprocess.Popen(node, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stderr is not None
            said = map(json.loads, process.stderr)
            at = next(line["at"] for line in said if line["event"] == "metrics_served")
            assert run("publish", "a", "x", "--server", f"127.0.0.1:{port}").code == 0
            with urllib.request.urlopen(f"http://{at}/metrics", timeout=10) as answer:
                assert b"\nlanyinglog_messages_total 1.0\n" in answer.read()
            with urllib.request.urlopen(f"http://{at}/ready", timeout=10) as answer:
                assert answer.status == 200
        finally:
            process.terminate()
            process.wait(30)


def test_dev_ends_with_ctrl_c_and_leaves_nothing() -> None:
    port = free_port(nodes=1)
    dev = [sys.executable, "-m", "lanyinglog", "dev", "--nodes", "1", "--port", str(port), "--format", "json"]
    with subprocess.Popen(dev, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert run("publish", "dev", "x", "--server", f"127.0.0.1:{port}").code == 0
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_verify_says_when_there_is_nothing_to_check(tmp_path: Path) -> None:
    assert run("verify", str(tmp_path)).code == 1
    assert run("verify", str(tmp_path / "absent")).code == 2


def test_the_demo_holds(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"".join(b"line %d\n" % number for number in range(2_000)))
    shown = run("demo", "--file", str(file))
    assert shown.code == 0, shown.err
    assert b"all 2,000 lines, byte for byte, each once, in order" in shown.out
