"""The simulator itself: it repeats, it finds what was planted, it says what it found, and past failures stay gone.

Some dozens of seeds: campaigns of thousands are the program's own business (docs/simulation.md).
"""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pytest
from simulator import command, scoreboard
from simulator.campaign import campaign, seeds_of
from simulator.defects import DEFECTS
from simulator.history import History, Violation
from simulator.plan import FAULTS, make_plan
from simulator.world import Outcome, simulate, simulate_plan

from lanyinglog.raft.guard import Guard

QUICK = {
    "acknowledges_appended": 5,
    "answers_before_sync": 5,
    "apply_raises": 20,
    "clock_in_apply": 5,
    "commits_before_sync": 10,
    "disk_error_ignored": 20,
    "leader_counts_itself_early": 10,
    "no_deduplication": 20,
    "no_pre_vote": 30,
    "no_sync": 10,
    "seq_at_proposal": 5,
    "term_not_persisted": 20,
    "truncates_always": 10,
    "vote_not_persisted": 10,
    "votes_for_anyone": 60,
}
"""Defect -> seeds within which it must be caught, from seed 0 on."""


def regressions() -> list[int]:
    lines = (Path(__file__).parent / "regressions" / "seeds.txt").read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def test_some_dozens_of_seeds_hold() -> None:
    outcomes = [simulate(seed) for seed in range(5_000, 5_050)]
    assert [outcome.violation for outcome in outcomes if outcome.violation] == []
    assert sum(outcome.acknowledged for outcome in outcomes) > 1_000, "nothing was published: nothing was tested"
    assert sum(outcome.elections for outcome in outcomes) > 50
    happened = {fault for outcome in outcomes for fault in outcome.faults}
    assert happened >= {*FAULTS, "message lost", "message repeated", "message reordered", "message reset"}
    assert happened >= {"client sends again", "client reads elsewhere", "trim", "installation"}


@pytest.mark.parametrize("seed", regressions())
def test_a_seed_that_failed_once_holds(seed: int) -> None:
    assert simulate(seed).violation is None


def test_a_seed_is_the_same_run_in_every_process() -> None:
    assert scoreboard.check_determinism(7_000, 8) == 0


def on_trio(seed: int) -> Outcome:
    """``seed`` with the product's own loop and sessions, which few seeds have by themselves."""
    source = random.Random(seed)
    plan = make_plan(seed, source)
    plan.stack, plan.probes, plan.drift = True, False, 0.0
    plan.rates.pop("pause", None)
    return simulate_plan(plan, source, digest=True)


def test_whole_nodes_on_trio_hold_and_repeat() -> None:
    outcomes = [on_trio(seed) for seed in range(3)]
    assert [outcome.violation for outcome in outcomes if outcome.violation] == []
    assert sum(outcome.acknowledged for outcome in outcomes) > 100
    assert [on_trio(seed).digest for seed in range(3)] == [outcome.digest for outcome in outcomes]


def test_a_planted_defect_is_caught_on_trio_too() -> None:
    with DEFECTS["acknowledges_appended"].plant():
        violation = on_trio(0).violation
    assert violation is not None
    assert violation.rule == "P1 durable"


def test_two_seeds_are_two_runs() -> None:
    assert simulate(1, digest=True).digest != simulate(2, digest=True).digest


@pytest.mark.parametrize(("name", "seeds"), QUICK.items(), ids=list(QUICK))
def test_a_planted_defect_is_caught(name: str, seeds: int) -> None:
    caught = [outcome for outcome in campaign(seeds_of(0, seeds), None, 1, name) if outcome.violation]
    assert caught, f"{name} was not caught in {seeds} seeds"


def test_a_defect_is_gone_behind_its_run() -> None:
    before = {(where, name): vars(where).get(name) for each in DEFECTS.values() for where, name, _ in each.changes()}
    for each in DEFECTS.values():
        with each.plant():
            pass
    assert {(where, name): vars(where).get(name) for where, name in before} == before
    assert Guard._gate.__module__ == "lanyinglog.raft.guard"


def test_there_are_enough_defects_of_both_kinds() -> None:
    audit = [each for each in DEFECTS.values() if each.audit]
    assert len(DEFECTS) >= 25
    assert len(DEFECTS) - len(audit) >= 10
    numbers = {number for each in audit for number in each.audit.split(", ")}
    assert numbers >= {"1", "4", "7", "8", "9", "10", "12", "15", "16", "18", "19", "21", "22", "23", "27"}


def test_a_failure_says_seed_property_history_and_how_to_replay(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--from-seed", "0", "--seeds", "3", "--defect", "acknowledges_appended"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("seed 0\n")
    assert "seed 0: P1 durable: " in out
    assert "replay: python jepsen-style simulate --from-seed 0 --seeds 1 --defect acknowledges_appended" in out
    assert "acknowledges_appended: caught after 1 seeds" in out
    assert json.loads(out.splitlines()[-1])["failing_seeds"] == [0]


def test_a_campaign_ends_with_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--from-seed", "11", "--seeds", "3"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["first_seed"], summary["seeds"], summary["violations"]) == (11, 3, 0)


def test_an_unknown_defect_is_a_usage_error() -> None:
    assert command.main(["--defect", "none_of_that_name"]) == 2


def test_an_explanation_keeps_what_concerns_the_violation_and_the_faults() -> None:
    history = History()
    history.note(0.1, "fault", "kill", "n1")
    history.note(0.2, "write", ("node", "n1"), ("entry", 7))
    history.note(0.3, "write", ("node", "n1"), ("entry", 8))
    lines = history.explain(Violation("rule", "words", ("entry", 7)))
    assert [("kill" in line, "entry=7" in line, "entry=8" in line) for line in lines[1:]] == [
        (True, False, False),
        (False, True, False),
    ]


def test_a_violation_travels_between_processes():
    """Or the summary of a campaign in several of them waits for it for ever."""
    broken = Violation("P1 durable", "an acknowledged batch is gone", ("entry", 7), ("client", "p1"))
    again = pickle.loads(pickle.dumps(broken))
    assert (again.rule, again.words, again.about) == (broken.rule, broken.words, broken.about)
    assert str(again) == str(broken)


def test_the_table_in_the_docs_has_every_defect_that_can_be_planted() -> None:
    text = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()
    table = text.split("<!-- scoreboard -->")[1].split("<!-- end of scoreboard -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    assert sorted(row[:2] for row in rows[2:]) == sorted([each.name, each.audit] for each in DEFECTS.values())
    assert all(1 <= int(row[2]) <= command.DEFECT_SEEDS_MAX and row[4] != "NOT FOUND" for row in rows[2:])
