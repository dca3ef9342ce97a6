"""What a node tells Prometheus is what docs/monitoring.md says, in values that are its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from lanyinglog.gateway.figures import Figures
from lanyinglog.gateway.metrics import routes
from lanyinglog.health import WRITE_BOUNDS_S, WriteTimes

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "monitoring.md").read_text()

STATUS: dict[str, Any] = {
    "node": "n1", "log": "main", "role": "leader", "term": 7, "commit": 41, "applied": 40, "durable": 42,
    "last_seq": 1_000, "first_seq": 11, "leader": "n1", "catch_up": None, "damaged": [5, 6], "storage_full": False,
    "file_bytes": 4096,
    "peers": {"n2": {"connected": True, "lag": 3}, "n3": {"connected": False, "lag": None}},
    "members": {"n1": "voter", "n2": "voter", "n3": "learner"},
    "health": {"version": "0.1.0", "engine": "0.3.17", "disk_bytes": 100, "disk_free_bytes": 60},
}  # fmt: skip


def _figures(**changes: Any) -> Figures:
    writes = WriteTimes()
    for seconds in (0.0005, 0.001, 0.004, 2.0):
        writes.add(seconds)
    return Figures(
        {**STATUS, **changes},
        connections=9,
        waiting_batches=2,
        waiting_bytes=300,
        appended_bytes=5_000,
        kept_bytes=4_000,
        writes=writes,
    )


def _samples() -> dict[str, float]:
    """name{labels} -> value, of the node's own metrics."""
    answer = routes(_figures)["/metrics"]()
    assert answer.status == 200
    return {
        sample.name + "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items())): sample.value
        for family in parsed(answer.body.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lanyinglog_role{role=leader}", 1),
        ("lanyinglog_role{role=follower}", 0),
        ("lanyinglog_members{kind=voter}", 2),
        ("lanyinglog_has_leader", 1),
        ("lanyinglog_catching_up", 0),
        ("lanyinglog_term", 7),
        ("lanyinglog_commit_index", 41),
        ("lanyinglog_applied_index", 40),
        ("lanyinglog_durable_index", 42),
        ("lanyinglog_messages_total", 1_000),
        ("lanyinglog_appended_bytes_total", 5_000),
        ("lanyinglog_first_seq", 11),
        ("lanyinglog_kept_bytes", 4_000),
        ("lanyinglog_damaged_entries", 2),
        ("lanyinglog_peer_connected{peer=n3}", 0),
        ("lanyinglog_peer_lag_entries{peer=n2}", 3),
        ("lanyinglog_client_connections", 9),
        ("lanyinglog_waiting_batches", 2),
        ("lanyinglog_waiting_bytes", 300),
        ("lanyinglog_storage_full", 0),
        ("lanyinglog_disk_free_bytes", 60),
        ("lanyinglog_write_seconds_bucket{le=0.001}", 2),
        ("lanyinglog_write_seconds_bucket{le=0.005}", 3),
        ("lanyinglog_write_seconds_bucket{le=1.0}", 3),
        ("lanyinglog_write_seconds_count", 4),
        ("lanyinglog_write_seconds_sum", 2.0055),
    ],
)
def test_a_metric_is_what_the_node_says(name: str, value: float) -> None:
    assert _samples()[name] == pytest.approx(value)


def test_a_follower_tells_no_lag() -> None:
    assert "lanyinglog_peer_lag_entries{peer=n3}" not in _samples()


def test_the_page_has_every_metric_with_its_type() -> None:
    told = dict(re.findall(r"^\| `(lanyinglog_\w+)` \| (\w+) \|", PAGE, re.MULTILINE))
    text = routes(_figures)["/metrics"]().body.decode()
    said = dict(re.findall(r"^# TYPE (lanyinglog_\w+) (\w+)$", text, re.MULTILINE))
    said["lanyinglog_node_info"] = "info" if said["lanyinglog_node_info"] == "gauge" else "?"
    assert told == said


def test_expressions_of_the_page_name_metrics_that_there_are() -> None:
    names = {name.partition("{")[0] for name in _samples()}
    asked = re.findall(r"lanyinglog_\w+", PAGE[PAGE.index("## What to watch") :])
    assert asked and set(asked) <= names


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({}, 200, "ready"),
        ({"role": "follower", "leader": "n2"}, 200, "ready"),
        ({"leader": None, "role": "candidate"}, 503, "it knows no leader"),
        ({"catch_up": "it is at entry 4 of 900"}, 503, "it is at entry 4 of 900"),
        ({"role": "stranger", "leader": "n2"}, 503, "it is no member"),
    ],
)
def test_a_node_is_ready_when_it_can_serve(changes: dict[str, Any], status: int, words: str) -> None:
    answer = routes(lambda: _figures(**changes))["/ready"]()
    assert answer.status == status
    assert words in answer.body.decode()


def test_a_write_counts_in_its_bound_and_all_above() -> None:
    times = WriteTimes()
    times.add(WRITE_BOUNDS_S[2])
    assert [count for _, count in times.cumulative()] == [0, 0, *[1] * (len(WRITE_BOUNDS_S) - 1)]
