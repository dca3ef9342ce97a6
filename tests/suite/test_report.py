"""The report says the verdict first, shows what proves it, and needs no network; the manual names all that there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from suite import faults, report, scenarios, workloads
from suite.arena import Happened
from suite.availability import Availability, Trouble
from suite.checkers import ANOMALIES, Finding
from suite.report.figures import gaps, silences
from suite.report.page import page
from suite.runner import Outcome
from suite.settings import Settings
from worlds import world

SECOND = 1_000_000_000
MANUAL = Path(__file__).resolve().parents[2] / "docs" / "jepsen-style.md"


def _outcome(directory: Path) -> Outcome:
    made = world(3)
    settings = Settings(
        3, 10.0, 3, faults.NAMES, workloads.NAMES, directory, 100.0, replay="python jepsen-style run --seed 3"
    )
    outcome = Outcome(settings, "on loopback", {}, history=made.history, image=made.image, used_s=10.0)
    outcome.cluster_names = ("n1", "n2", "n3")
    outcome.book = [Happened(1, "kill", "SIGKILL of the leader n1", ("n1",), True, 2 * SECOND, 3 * SECOND)]
    return outcome


def _with_enough(outcome: Outcome) -> Outcome:
    outcome.history = world(3, operations=200).history
    return outcome


@pytest.mark.parametrize(
    ("counts", "problems", "valid"),
    [
        pytest.param({}, [], True, id="nothing-found"),
        pytest.param({"lost-write": 1}, [], False, id="found"),
        pytest.param({"lost-write": 1}, ["a fault failed"], False, id="found-although-the-run-failed"),
        pytest.param({}, ["a fault failed"], None, id="the-run-failed"),
    ],
)
def test_the_verdict_is_unknown_rather_than_valid_when_the_run_failed(
    tmp_path: Path, counts: dict[str, int], problems: list[str], valid: bool | None
) -> None:
    outcome = _with_enough(_outcome(tmp_path))
    outcome.counts, outcome.problems = counts, problems
    assert outcome.valid is valid
    words = {True: "VALID", False: "VIOLATION", None: "UNKNOWN"}[valid]
    assert f"<h1>{words}" in page(outcome)


def test_a_run_in_which_hardly_anything_was_acknowledged_says_nothing(tmp_path: Path) -> None:
    outcome = _outcome(tmp_path)
    outcome.history = world(3, operations=5).history
    assert outcome.valid is None


def test_a_page_shows_findings_with_proof_faults_and_the_replay_and_needs_no_network(tmp_path: Path) -> None:
    outcome = _with_enough(_outcome(tmp_path))
    outcome.findings = [Finding("lost-write", "<b>message 7</b> is gone", ({"f": "publish", "id": 77_123},))]
    outcome.counts = {"lost-write": 1}
    text = page(outcome)
    for piece in (
        "lost-write",
        "&lt;b&gt;message 7&lt;/b&gt; is gone",
        "77123",
        "SIGKILL of the leader n1",
        "--seed 3",
    ):
        assert piece in text, piece
    for far in ("http://", "https://", "src=", "@import"):
        assert far not in text.replace("http://www.w3.org/2000/svg", ""), far


def test_the_directory_holds_results_and_faults_as_json(tmp_path: Path) -> None:
    report.write(_with_enough(_outcome(tmp_path)))
    assert json.loads((tmp_path / "results.json").read_text())["valid"] is True
    assert json.loads((tmp_path / "faults.jsonl").read_text())["fault"] == "kill"


def test_the_manual_names_every_fault_workload_scenario_and_anomaly() -> None:
    text = MANUAL.read_text()
    for name in (*faults.NAMES, *workloads.NAMES, *scenarios.SCENARIOS, *ANOMALIES):
        assert name in text, name


def test_a_take_over_is_held_against_the_promise_for_as_long_as_a_majority_was_whole(tmp_path: Path) -> None:
    outcome = _outcome(tmp_path)
    cut = Trouble(int(2.5 * SECOND), int(4.0 * SECOND), links=frozenset({"n2>n3"}))
    outcome.availability = Availability([cut], [(0, frozenset({"n1", "n2", "n3"}))])
    outcome.used_s = 9.0
    times = [*range(0, 2 * SECOND, SECOND // 100), *range(5 * SECOND, 9 * SECOND, SECOND // 100)]
    (gap,) = gaps(outcome, times)
    assert gap.seconds == pytest.approx(3.0)
    assert gap.whole_s == pytest.approx(3.0), "nothing says that n1 was out: it and n2 were whole"
    down = Trouble(2 * SECOND, 6 * SECOND, nodes=frozenset({"n1"}))
    outcome.availability = Availability([cut, down], [(0, frozenset({"n1", "n2", "n3"}))])
    (gap,) = gaps(outcome, times)
    assert gap.whole_s == pytest.approx(1.0)
    assert [one.whole_s for one in silences(outcome, times)] == [pytest.approx(1.0)]
    assert silences(outcome, times[:200])[0].whole_s == pytest.approx(5.0), "the run's end ends the last silence"
    assert "SIGKILL of the leader n1" in silences(outcome, times)[0].meanwhile(outcome)


@pytest.mark.parametrize(
    ("valid", "words"),
    [
        ((True, True), "VALID: no promise was broken in 2 rounds"),
        ((True, "unknown"), "UNKNOWN: of 2 rounds"),
        (("unknown", False), "VIOLATION in 2 rounds: lost-write"),
    ],
    ids=str,
)
def test_the_page_of_several_rounds_says_what_they_came_to(
    tmp_path: Path, valid: tuple[bool | str, ...], words: str
) -> None:
    rounds = []
    for number, one in enumerate(valid):
        found = {"lost-write": 1} if one is False else {}
        told = {"valid": one, "seed": number, "operations": {"ok": 5}, "faults": {"kill": 2}, "anomalies": found}
        rounds.append((tmp_path / f"round-{number}", told))
    report.write_rounds(tmp_path, rounds)
    text = (tmp_path / "index.html").read_text()
    assert f"<h1>{words}" in text
    assert all(f'href="round-{number}/index.html"' in text for number in range(len(valid)))
    assert "http" not in text
