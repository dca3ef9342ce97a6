"""What ``status`` shows and says: a table that fits, and in words what a cluster lacks."""

from __future__ import annotations

from typing import Any

import pytest

from lanyinglog.cli import output
from lanyinglog.cli.quorum import has_quorum, remarks
from lanyinglog.cli.rollcall import COLUMNS, DROPPABLE, with_lag


def _row(number: int, role: str, term: int | None = 7, **more: Any) -> dict[str, Any]:
    silent = role == "unreachable"
    known = {
        "node": f"n{number}", "pid": 4_194_304, "client": f"127.0.0.1:{7419 + number}",
        "peer": f"127.0.0.1:{7519 + number}", "role": role, "term": None if silent else term,
        "commit": None if silent else 1_234_567, "applied": None if silent else 1_234_567,
        "last_seq": None if silent else 123_456_789, "unconnected": None if silent else [], "storage_full": False,
    }  # fmt: skip
    return {**known, **more}


def _rows(*roles: str) -> list[dict[str, Any]]:
    return with_lag([_row(number, role) for number, role in enumerate(roles, start=1)])


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_table_fits_its_terminal_with_whole_cells(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    output.print_rows(_rows("leader", "follower", "unreachable"), COLUMNS, form="table", empty="", droppable=DROPPABLE)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    for column in ("node", "role", "term", "last seq", "lag"):
        assert column in lines[0]
    assert "123456789" in lines[2]
    assert ("peer" in lines[0]) == (width >= 100)


def test_what_is_wider_than_the_terminal_is_not_cut_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    output.print_table([{"topic": "t" * 120, "messages": 5}], ("topic", "messages"))
    assert "t" * 120 in capsys.readouterr().out


_MEMBERS = {"n1": "voter", "n2": "voter", "n3": "voter", "n4": "learner"}
CASES = {
    "all well": (_rows("leader", "follower", "follower"), True, []),
    "one silent of three": (_rows("leader", "follower", "unreachable"), True, ["n3 (127.0.0.1:7422)", "no other may"]),
    "voters that nobody could ask count": (
        [{**row, "members": {f"n{i}": "voter" for i in range(1, 6)}} for row in _rows("leader", "follower")]
        + _rows("leader", "follower", "unreachable")[2:],
        False, ["2 of 5 nodes answer and 3 are needed", "n4 (address unknown)"]),
    "only one that left answers": (
        [_row(4, "stranger", members={"n1": "voter"})],
        False, ["0 of 1 nodes answer and 1 are needed", "No answer from n1 (address unknown)"]),
    "one silent of five": (
        _rows("leader", "follower", "follower", "follower", "unreachable"), True, ["4 of 5", "1 more may fail"]),
    "a learner does not count": (
        _rows("leader", "follower", "unreachable", "learner"), True, ["2 of 3 nodes answer, no other may"]),
    "nor for a majority": (
        _rows("candidate", "unreachable", "unreachable", "learner", "learner"), False, ["1 of 3 nodes answer"]),
    "nor a silent one of which the leader knows": (
        [_row(1, "leader", members={"n1": "voter", "n2": "learner"}), _row(2, "unreachable")], True, []),
    "nor as the others know it, when none leads": (
        [_row(1, "follower", members=_MEMBERS), _row(2, "unreachable"), _row(3, "unreachable"),
         _row(4, "unreachable")], False, ["1 of 3 nodes answer and 2 are needed"]),
    "nor who is no member yet": (
        [_row(1, "leader", members={"n1": "voter"}), _row(2, "unreachable")], True, []),
    "an old leader's members do not count": (
        [_row(1, "leader", 6, members={"n1": "voter", "n2": "voter"}), _row(2, "leader", 7, members={"n2": "voter"})],
        True, []),
    "two silent of three": (
        _rows("candidate", "unreachable", "unreachable"), False,
        ["1 of 3 nodes answer and 2 are needed", "n2 (127.0.0.1:7421), n3 (127.0.0.1:7422)", "Start 1 of them"]),
    "two not reached from here": (
        _rows("leader", "unreachable", "unreachable"), False, ["1 of 3 nodes answer", "as a node leads, they may run"]),
    "all silent": (_rows("unreachable", "unreachable", "unreachable"), False, ["0 of 3", "Start 2 of them"]),
    "none leads": (_rows("follower", "follower", "unreachable"), False, ["2 of 3 nodes answer", "None leads"]),
    "apart": (
        [_row(1, "candidate", unconnected=["n2", "n3"]), _row(2, "candidate", unconnected=["n1", "n3"]),
         _row(3, "unreachable")], False, ["Not connected to each other: n1 and n2."]),
    "an old leader": (
        [_row(1, "leader", 7), _row(2, "follower", 8), _row(3, "follower", 8)], False, ["Only 1 of them"]),
    "a new directory": (
        [_row(1, "leader"), _row(2, "follower"), _row(3, "follower", catch_up="it has 40 % of a snapshot")], True,
        ["n3: it has 40 % of a snapshot"]),
    "a full disk": (
        [_row(1, "leader", storage_full=True), _row(2, "follower"), _row(3, "follower")], True,
        ["n1: its disk is full; publishes are declined"]),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "quorum", "words"), CASES.values(), ids=CASES.keys())
def test_what_is_missing_is_said_in_words(rows: list[dict[str, Any]], quorum: bool, words: list[str]) -> None:
    said = " ".join(remarks(rows))
    assert has_quorum(rows) is quorum
    assert bool(said) == bool(words)
    for word in words:
        assert word in said
