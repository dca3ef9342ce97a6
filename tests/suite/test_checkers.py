"""The checkers find every anomaly that is planted, and nothing where there is nothing; and they are quick."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from suite.checkers import ANOMALIES, check
from suite.history import OK, Poll, Publish, Run
from suite.messages import message_id
from worlds import SPOILERS, World, world

SEEN_ELSEWHERE = {"replica-divergence", "unreadable-data", "node-ended", "ignored-io-error", "no-recovery"}
"""Anomalies that no history shows: data files, processes and faults tell of them."""


def test_a_thousand_clean_histories_raise_no_alarm() -> None:
    for seed in range(1_000):
        made = world(seed)
        findings = check(made.history, made.image)
        assert not findings.counts, (seed, findings.told)


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_planted_anomaly_is_found_with_its_proof(spoil: Callable[[World], None], seed: int) -> None:
    made = world(seed)
    spoil(made)
    findings = check(made.history, made.image)
    anomaly = SPOILERS[spoil]
    assert findings.counts.get(anomaly), findings.counts
    told = [one for one in findings.told if one.anomaly == anomaly]
    assert told[0].words and len(told) <= 5


@pytest.mark.parametrize(("code", "found"), [("producer_unknown", True), ("not_leader", False), ("busy", False)])
def test_a_repetition_whose_producer_is_forgotten_is_an_anomaly_and_other_errors_are_none(
    code: str, found: bool
) -> None:
    made = world(4)
    history = made.history
    one = made.publishes[made.acked()]
    history.add(
        {
            "f": "again",
            "w": one.worker,
            "t0": one.t1,
            "t1": one.t1 + 5,
            "r": "fail",
            "id": one.identity,
            "n": 1,
            "e": code,
        }
    )
    findings = check(history, made.image)
    assert findings.counts == ({"changed-answer": 1} if found else {})
    if found:
        assert findings.told[0].proof[0]["id"] == one.identity


def test_every_anomaly_that_a_history_can_show_is_planted() -> None:
    assert set(SPOILERS.values()) == set(ANOMALIES) - SEEN_ELSEWHERE


def test_many_anomalies_of_a_kind_are_counted_and_a_few_are_told() -> None:
    made = World(log=[(-1, i) for i in range(1, 101)])
    findings = check(made.history, made.image)
    assert findings.counts == {"phantom": 100}
    assert len(findings.told) == 5


def test_a_history_of_hundred_thousand_operations_is_checked_in_seconds() -> None:
    """Two million in a minute is the aim: a twentieth of both, with room for a slow machine."""
    made = World()
    history, image = made.history, made.image
    count = 100_000
    for i in range(count):
        image.add(message_id(1 + i % 50, i // 50), 1_000 + i)
        t0 = i * 1_000
        history.add_publish(
            Publish(t0, t0 + 500, 1 + i % 50, OK, message_id(1 + i % 50, i // 50), 1, i + 1, 1_000 + i, again=False)
        )
        if i % 50 == 49:
            runs = tuple(Run(i - 48 + k, 1_000 + i - 49 + k, message_id(1 + k, i // 50), 1) for k in range(50))
            history.add_poll(Poll(1 << 50, 1 << 50, 9, 1, "n1", -1, i - 49, i + 1, 0, runs))
    began = time.process_time()
    findings = check(history, image)
    assert not findings.counts, findings.told
    assert time.process_time() - began < 6
