"""``backup`` of a running cluster and ``restore`` into a new one: the same log, or a refusal in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_programs import Cluster, run

import lanyinglog
from lanyinglog.cli.processes import free_port

PEERS = ("--peers", "n1=127.0.0.1:1,n2=127.0.0.1:2")


@pytest.fixture(scope="module")
def taken(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of the module's cluster, which runs and has messages in two topics."""
    place = tmp_path_factory.mktemp("backup") / "b"
    lines = b"".join(b"line %d\n" % number for number in range(5_000))
    assert run("publish", "a.lines", "--file", "-", "--server", cluster.server, stdin=lines).code == 0
    assert run("publish", "a.last", "acknowledged", "--server", cluster.server).code == 0
    made = run("backup", str(place), "--dir", str(cluster.directory))
    assert made.code == 0, made.err
    assert made.rows[0]["last_seq"] == 5_001
    return place


@pytest.fixture
def restored(taken: Path, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "restored", free_port(nodes=3))
    result = run("restore", str(taken), "--dir", str(made.directory), "--port", str(made.port))
    assert result.code == 0, result.err
    try:
        yield made
    finally:
        made.stop()


def _messages(server: str) -> list[tuple[object, ...]]:
    with (
        lanyinglog.sync.connect(server) as client,
        client.subscribe(">", start="first", until="last") as subscription,
    ):
        return [(one.seq, one.timestamp, one.topic, one.payload) for one in subscription]


def test_a_restored_cluster_has_the_same_log_and_goes_on(cluster: Cluster, taken: Path, restored: Cluster) -> None:
    started = restored.start()
    assert started.code == 0, started.err
    assert {row["last_seq"] for row in started.rows} == {5_001}
    assert _messages(restored.server) == _messages(cluster.server)
    topics = {row["topic"]: row["messages"] for row in run("topics", "--server", restored.server).rows}
    assert topics == {"a.lines": 5_000, "a.last": 1}
    more = run("publish", "a.last", "more", "--server", restored.server)
    assert more.rows[-1]["first_seq"] == 5_002
    manifest = json.loads((taken / "backup.json").read_text())
    assert manifest["producers"] >= 2


def test_a_restored_cluster_has_an_identity_of_its_own(taken: Path, cluster: Cluster, restored: Cluster) -> None:
    old, new = (json.loads((one.directory / "cluster.json").read_text())["cluster"] for one in (cluster, restored))
    assert old != new
    refused = run(
        "restore", str(taken), "--data", str(restored.directory / "x"), "--id", "n1", "--cluster", old, *PEERS
    )
    assert refused.code == 2 and "new name" in refused.err


def test_one_node_is_restored_alone(taken: Path, tmp_path: Path) -> None:
    made = run(
        "restore",
        str(taken),
        "--data",
        str(tmp_path / "n7"),
        "--id",
        "n7",
        "--cluster",
        "other",
        "--peers",
        "n7=127.0.0.1:1",
    )
    assert made.code == 0, made.err
    checked = run("verify", str(tmp_path / "n7"))
    assert checked.code == 0
    assert [(row["cluster"], row["vote"], row["last_seq"] <= 5_001) for row in checked.rows] == [("other", None, True)]


def test_what_is_there_is_not_overwritten(taken: Path, cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for arguments in (
        ("backup", str(tmp_path), "--dir", str(cluster.directory)),
        ("restore", str(taken), "--dir", str(tmp_path), "--port", str(free_port(nodes=3))),
        ("restore", str(taken), "--data", str(tmp_path), "--id", "n1", "--cluster", "new", *PEERS),
    ):
        refused = run(*arguments)
        assert refused.code == 2 and "not empty" in refused.err, refused.err
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]


def _without_manifest(backup: Path) -> None:
    (backup / "backup.json").unlink()


def _cut_short(backup: Path) -> None:
    with (backup / "data.mdb").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 4096)


def _flip_a_byte(backup: Path) -> None:
    with (backup / "data.mdb").open("r+b") as file:
        file.seek(-100, 2)
        byte = file.read(1)[0]
        file.seek(-100, 2)
        file.write(bytes([byte ^ 1]))


def _lie(backup: Path) -> None:
    manifest = json.loads((backup / "backup.json").read_text())
    (backup / "backup.json").write_text(json.dumps({**manifest, "sha256": "0" * 64}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without_manifest, "not a whole backup"),
        (_cut_short, "torn"),
        (_flip_a_byte, "fails its SHA-256"),
        (_lie, "fails its SHA-256"),
    ],
)
def test_a_backup_that_is_not_whole_is_recognised(taken: Path, tmp_path: Path, damage: object, words: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(taken, copy)
    assert callable(damage)
    damage(copy)
    target = tmp_path / "new"
    refused = run("restore", str(copy), "--dir", str(target), "--port", str(free_port(nodes=3)))
    assert refused.code == 4, refused.err
    assert words in refused.err
    assert [one.name for one in tmp_path.iterdir()] == ["copy"]


def test_a_damaged_log_is_not_backed_up(taken: Path, tmp_path: Path) -> None:
    assert (
        run("restore", str(taken), "--data", str(tmp_path / "n1"), "--id", "n1", "--cluster", "new", *PEERS).code == 0
    )
    file = tmp_path / "n1" / "main" / "data.mdb"
    # Everywhere: pages that were freed have it too.
    file.write_bytes(file.read_bytes().replace(b"acknowledged", b"acknowledgeb"))
    refused = run("backup", str(tmp_path / "b"), "--data", str(tmp_path / "n1"))
    assert refused.code == 4
    assert "damaged" in refused.err and "entry" in refused.err
    assert not list(tmp_path.glob("b*"))


def test_traces_of_an_interrupted_try_are_cleared_away(taken: Path, tmp_path: Path) -> None:
    (tmp_path / "n1.partial" / "main").mkdir(parents=True)
    (tmp_path / "n1.partial" / "main" / "data.mdb").write_bytes(b"half")
    assert (
        run("restore", str(taken), "--data", str(tmp_path / "n1"), "--id", "n1", "--cluster", "new", *PEERS).code == 0
    )
    assert [one.name for one in tmp_path.iterdir()] == ["n1"]


def test_a_restored_cluster_has_members_of_its_own(tmp_path: Path) -> None:
    """Those of the old one are in the log: n1 has left it there, and is needed here."""
    old = Cluster(tmp_path / "old", free_port(nodes=6))
    new = Cluster(tmp_path / "new", free_port(nodes=6))
    try:
        assert run("cluster", "start", "--dir", str(old.directory), "--port", str(old.port), "--nodes", "1").code == 0
        assert run("publish", "a", "kept", "--server", old.server).code == 0
        for arguments in (("add",), ("add",), ("remove", "n1")):
            done = run("cluster", *arguments, "--dir", str(old.directory))
            assert done.code == 0, done.err
        assert run("backup", str(tmp_path / "b"), "--dir", str(old.directory)).code == 0
        made = run("restore", str(tmp_path / "b"), "--dir", str(new.directory), "--port", str(new.port))
        assert made.code == 0, made.err
        started = new.start()
        assert started.code == 0, started.err
        assert [row["node"] for row in new.status().rows] == ["n1", "n2", "n3"]
        assert run("publish", "a", "more", "--server", new.server).rows[-1]["first_seq"] == 2
        assert _messages(new.server)[0][3] == b"kept"
    finally:
        old.stop()
        new.stop()
