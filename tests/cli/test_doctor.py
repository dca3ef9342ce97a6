"""``doctor``: each check is shown a sick cluster and says so, names the node, and says what to do."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from real_programs import Cluster, run
from speaking_nodes import speaking_nodes

import lanyinglog
from lanyinglog.cli.doctor import Answer, Finding, check_certificate, findings, last_words
from lanyinglog.cli.processes import free_port

HEALTH: dict[str, Any] = {
    "version": lanyinglog.__version__, "format": 1, "engine": "0.3.17", "python": "3.11.7", "clock_ns": 0,
    "disk_bytes": 100 << 30, "disk_free_bytes": 50 << 30, "files_max": 65_536, "files_needed": 1_064,
    "writes": 256, "write_ms_median": 2.0, "write_ms_max": 30.0,
}  # fmt: skip


def _answer(number: int, *, clock_ms: float = 0.0, storage_full: bool = False, **health: Any) -> Answer:
    status = {"node": f"n{number}", "storage_full": storage_full, "health": {**HEALTH, **health}}
    return Answer(status, clock_ms, 1.0)


def _rows(*roles: str) -> list[dict[str, Any]]:
    return [
        {"node": f"n{number}", "role": role, "term": None if role == "unreachable" else 3, "unconnected": [],
         "client": f"127.0.0.1:{7419 + number}", "storage_full": False}
        for number, role in enumerate(roles, start=1)
    ]  # fmt: skip


WELL = _rows("leader", "follower", "follower")
SICK = {
    "a silent node": (_rows("leader", "follower", "unreachable"), {}, "quorum", None, "n3"),
    "no quorum": (_rows("candidate", "unreachable", "unreachable"), {}, "quorum", None, "1 of 3 nodes answer"),
    "nodes apart": ([{**WELL[0], "unconnected": ["n2"]}, *WELL[1:]], {}, "links", None, "n1 from n2"),
    "a node behind": ([*WELL[:2], {**WELL[2], "catch_up": "is sent a snapshot"}], {}, "catch-up", "n3", "snapshot"),
    "a clock ahead": (WELL, {"clock_ms": 400.0}, "clocks", None, "n2 is 400 ms ahead of n1"),
    "a clock behind": (WELL, {"clock_ms": -3_000.0}, "clocks", None, "ahead of n2"),
    "a full disk": (WELL, {"storage_full": True}, "disk room", "n2", "full"),
    "little room": (WELL, {"disk_free_bytes": 2 << 30}, "disk room", "n2", "2,048 MiB free"),
    "no room on a small disk": (
        WELL, {"disk_bytes": 128 << 20, "disk_free_bytes": 32 << 20}, "disk room", "n2", "32 MiB"),
    "a slow disk": (WELL, {"write_ms_median": 80.0}, "disk speed", "n2", "80 ms"),
    "a disk that stalls": (WELL, {"write_ms_max": 900.0}, "disk speed", "n2", "900"),
    "few files": (WELL, {"files_max": 256}, "open files", "n2", "256"),
    "another version": (WELL, {"version": "9.9.9"}, "versions", None, "9.9.9: n2"),
    "another engine": (WELL, {"engine": "0.3.99"}, "versions", None, "0.3.99: n2"),
}  # fmt: skip


def test_a_sound_cluster_has_no_problem() -> None:
    found = findings(WELL, [_answer(1), _answer(2, files_max=-1), _answer(3)])
    assert [one for one in found if not one.ok] == []
    assert {one.check for one in found} == {"quorum", "clocks", "versions", "disk room", "disk speed", "open files"}


@pytest.mark.parametrize(("rows", "illness", "check", "node", "words"), SICK.values(), ids=SICK.keys())
def test_what_is_wrong_is_found_and_nothing_else(
    rows: list[dict[str, Any]], illness: dict[str, Any], check: str, node: str | None, words: str
) -> None:
    found = [one for one in findings(rows, [_answer(1), _answer(2, **illness), _answer(3)]) if not one.ok]
    assert [(one.check, one.node) for one in found] == [(check, node)]
    assert words in found[0].found
    assert found[0].advice


def test_a_difference_that_asking_explains_is_no_skew() -> None:
    slow = Answer({"node": "n3", "health": HEALTH}, 400.0, 300.0)
    found = findings(WELL, [_answer(1), _answer(2), slow])
    assert all(one.ok for one in found)


@pytest.mark.parametrize(("days", "ok"), [(None, None), (90.0, True), (14.0, True), (13.9, False), (-1.0, False)])
def test_a_certificate_has_to_be_renewed_in_time(days: float | None, ok: bool | None) -> None:
    said = list(check_certificate(Answer({"node": "n1"}, None, 1.0, days)))
    assert [one.ok for one in said] == ([] if ok is None else [ok])
    assert all((one.advice is None) == one.ok for one in said)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"event": "ready", "level": "info"}, {"event": "link_up", "level": "info"}], None),
        ([{"event": "ready", "level": "info"}, {"event": "stopping", "level": "info"}], "it was told to stop"),
        ([{"event": "node_stops", "why": "entry 7 fails", "level": "error"}], "node_stops: entry 7 fails"),
    ],
    ids=["killed", "stopped", "ended by itself"],
)
def test_a_log_tells_why_its_node_ended(tmp_path: Path, lines: list[dict[str, str]], words: str | None) -> None:
    (tmp_path / "node.log").write_text("\n".join(["Traceback", *map(json.dumps, lines)]))
    assert last_words(tmp_path / "node.log") == words


def test_the_doctor_of_a_real_cluster(tmp_path: Path) -> None:
    made = Cluster(tmp_path / "c", free_port(nodes=3))
    try:
        assert made.start().code == 0
        well = run("doctor", "--dir", str(made.directory))
        assert [Finding(**row) for row in well.rows if row["check"] not in ("disk room", "disk speed")] != []
        assert {"clocks", "disk room", "disk speed", "open files"} <= {row["check"] for row in well.rows}
        assert [row for row in well.rows if not row["ok"] and not row["check"].startswith("disk")] == []
        victim = made.status().rows[1]
        os.kill(victim["pid"], signal.SIGKILL)
        file = made.directory / victim["node"] / "data" / "main" / "data.mdb"
        file.write_bytes(file.read_bytes()[:5000])
        ill = run("doctor", "--dir", str(made.directory))
        assert ill.code == 4
        assert {row["check"] for row in ill.rows if row["node"] == victim["node"] and not row["ok"]} == {
            "process",
            "data",
        }
    finally:
        made.stop()


def test_nobody_to_ask_is_no_diagnosis() -> None:
    refused = run("doctor", "--server", f"127.0.0.1:{free_port(nodes=1)}")
    assert refused.code == 3


def test_a_node_is_asked_where_it_answered_not_where_it_says_that_it_is() -> None:
    with speaking_nodes("n1", "n2", "n3") as servers:
        told = run("doctor", "--server", servers)
        status = run("status", "--server", servers)
    assert {row["node"] for row in told.rows if row["check"] == "disk room"} == {"n1", "n2", "n3"}
    assert [row for row in told.rows if row["check"] == "unseen"] == []
    assert (status.code, status.err) == (0, "")


def test_a_node_that_could_not_be_looked_at_is_a_problem() -> None:
    answers = {"n2": 2}  # to who it is, and to how it is; then no more
    with speaking_nodes("n1", "n2", "n3", answers=answers) as servers:
        told = run("doctor", "--server", servers, "--timeout", "1")
    assert told.code == 4
    assert [row["node"] for row in told.rows if row["check"] == "unseen" and not row["ok"]] == ["n2"]


def test_a_silent_learner_is_a_problem_of_its_own() -> None:
    members = {"n1": "voter", "n2": "learner"}
    rows = [{**_rows("leader")[0], "members": members}, _rows("leader", "unreachable")[1]]
    found = [one for one in findings(rows, [_answer(1)]) if not one.ok]
    assert [(one.check, one.node) for one in found] == [("unseen", "n2")]
    assert "does not vote" in found[0].found
