"""What a node says: one JSON object a line whatever happens, and why it ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lanyinglog.cli.processes import free_port


def _node(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    port = free_port(nodes=1)
    command = [
        sys.executable, "-m", "lanyinglog", "node", "--id", "n1", "--data", str(directory), "--client-listen",
        f"127.0.0.1:{port}", "--peers", f"n1=127.0.0.1:{port + 100}", *arguments,
    ]  # fmt: skip
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_life_in_json_has_the_events_of_a_life(tmp_path: Path) -> None:
    with _node(tmp_path / "n1") as node:
        assert node.stderr is not None
        told = [json.loads(node.stderr.readline())]
        while not {"ready", "leader"} <= {one["event"] for one in told}:
            told.append(json.loads(node.stderr.readline()))
        node.send_signal(signal.SIGTERM)
        told += [json.loads(line) for line in node.stderr]
        assert node.wait(10) == 0
    assert told[-1]["event"] == "stopping"
    assert all({"event", "level", "timestamp"} <= set(one) for one in told)
    assert {one.get("leader") for one in told if one["event"] == "leader"} == {"n1"}


def test_a_node_that_can_not_go_on_says_why_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "n1" / "main").mkdir(parents=True)
    (tmp_path / "n1" / "main" / "data.mdb").write_bytes(b"not a log" * 1000)
    with _node(tmp_path / "n1") as node:
        assert node.stderr is not None
        (told,) = [json.loads(line) for line in node.stderr]
        assert node.wait(10) == 1
    assert told["event"] == "node_stops" and told["level"] == "error"
    assert told["kind"] == "StoreError" and "damaged" in told["why"] and told["advice"]


@pytest.mark.parametrize(("form", "is_json"), [("json", True), ("auto", True), ("text", False)])
def test_the_form_is_chosen(tmp_path: Path, form: str, is_json: bool) -> None:
    (tmp_path / "n1" / "main").mkdir(parents=True)
    (tmp_path / "n1" / "main" / "data.mdb").write_bytes(b"not a log" * 1000)
    with _node(tmp_path / "n1", "--log-format", form) as node:
        assert node.stderr is not None
        line = node.stderr.readline()
        assert node.wait(10) == 1
    assert line.startswith("{") == is_json
    assert "\x1b" not in line, "colours are for terminals"
    assert "node_stops" in line
