"""``cluster add`` and ``cluster remove`` on a cluster of real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from real_programs import Cluster, run

from lanyinglog.cli.directory import add_member, open_cluster
from lanyinglog.cli.processes import free_port


@pytest.fixture
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of one node, with ports beside it that are free."""
    made = Cluster(tmp_path_factory.mktemp("cluster"), free_port(nodes=6))
    started = run("cluster", "start", "--dir", str(made.directory), "--port", str(made.port), "--nodes", "1")
    assert started.code == 0, started.err
    yield made
    assert made.stop().code == 0


def change(cluster: Cluster, *arguments: str) -> dict[str, str]:
    """Who belongs after ``cluster add`` or ``remove``, and what they are."""
    done = run("cluster", *arguments, "--dir", str(cluster.directory))
    assert done.code == 0, done.err
    return {row["node"]: row["role"] for row in done.rows}


def test_a_cluster_grows_is_left_by_its_leader_and_keeps_every_line(single: Cluster):
    lines = b"".join(b"line %d\n" % number for number in range(500))
    assert run("publish", "a", "--file", "-", "--server", single.server, stdin=lines).code == 0
    assert change(single, "add") == {"n1": "voter", "n2": "voter"}
    assert change(single, "add") == {"n1": "voter", "n2": "voter", "n3": "voter"}
    assert change(single, "remove", "n1") == {"n2": "voter", "n3": "voter"}
    status = single.status()
    assert [row["node"] for row in status.rows] == ["n2", "n3"]
    assert {row["last_seq"] for row in status.rows} == {500}
    server = status.rows[1]["client"]
    read = run("subscribe", "a", "--from", "first", "--until", "last", "--format", "raw", "--server", server)
    assert read.out == lines
    assert "join" not in (single.directory / "n3" / "node.toml").read_text()
    assert change(single, "add") == {"n2": "voter", "n3": "voter", "n4": "voter"}, "a name is not used again"


def test_a_learner_that_nobody_reaches_counts_for_nothing(single: Cluster):
    (alone,) = single.status().rows
    assert alone["unconnected"] == []
    peer = f"127.0.0.1:{single.port + 1}"
    added = run("cluster", "add", "n2", "--peer", peer, "--server", single.server, "--timeout", "1")
    assert added.code == 3, added.err
    for words in (
        "n2 is a learner",
        "the leader can't reach it",
        "its own log",
        f"cluster remove n2 --server {single.server}",
    ):
        assert words in added.err
    status = run("status", "--server", single.server)
    assert [(row["node"], row["role"]) for row in status.rows] == [("n1", "leader"), ("n2", "unreachable")]
    assert status.rows[0]["unconnected"] == ["n2"] and "members" not in status.rows[0]
    assert (status.code, status.err) == (0, "")
    told = {row["check"]: row for row in run("doctor", "--server", single.server).rows if row["node"] is None}
    assert told["quorum"]["ok"], told
    removed = run("cluster", "remove", "n2", "--server", single.server)
    assert [row["node"] for row in removed.rows] == ["n1"], removed.err
    again = run("cluster", "add", "n2", "--peer", peer, "--server", single.server)
    assert again.code == 1 and "needs a new name" in again.err


def test_nothing_is_begun_where_nobody_leads(single: Cluster):
    directory = str(single.directory)
    assert single.stop().code == 0
    before = (single.directory / "cluster.json").read_text()
    refused = run("cluster", "add", "--dir", directory)
    assert refused.code == 3 and "nothing was begun" in refused.err
    assert f"lanyinglog cluster start --dir {directory}" in refused.err
    assert (single.directory / "cluster.json").read_text() == before
    assert not (single.directory / "n2").exists()
    told = run("cluster", "add", "n2", "--peer", "127.0.0.1:1", "--server", single.server, "--format", "json")
    error = json.loads(told.err)
    assert (told.code, error["outcome"]) == (3, "definite") and "nothing was begun" in error["message"]


def test_an_addition_that_was_broken_off_can_be_taken_back(single: Cluster):
    add_member(open_cluster(single.directory))  # as far as a call came
    assert change(single, "remove", "n2") == {"n1": "voter"}
    assert [member.node for member in open_cluster(single.directory).members] == ["n1"]
    assert change(single, "add") == {"n1": "voter", "n3": "voter"}
    stranger = run("cluster", "remove", "n7", "--dir", str(single.directory))
    assert stranger.code == 1 and "n7 is no member" in stranger.err


def test_what_cant_be_changed_is_refused_in_words(single: Cluster):
    directory = str(single.directory)
    last = run("cluster", "remove", "n1", "--dir", directory)
    assert last.code == 1 and "the only voter: add another member first" in last.err
    stranger = run("cluster", "remove", "n7", "--server", single.server)
    assert stranger.code == 1 and "n7 is no member; the members are n1" in stranger.err
    assert run("cluster", "add", "n2", "--dir", directory).code == 2
    assert run("cluster", "add", "--server", single.server).code == 2
    again = run("cluster", "add", "n1", "--peer", "127.0.0.1:1", "--server", single.server)
    assert again.code == 1 and "n1 is a member already" in again.err
