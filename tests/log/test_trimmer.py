"""One step of trimming is bounded, in entries and in what it changes, for the node does nothing else meanwhile."""

from __future__ import annotations

import pytest
from log.test_tail import OneLog

from lanyinglog import trimmer


def trimming(topics_each: int) -> OneLog:
    """Thirty entries of ``topics_each`` topics of their own, most of which may go."""
    log = OneLog()
    for number in range(30):
        log.publish([(f"t.{number}.{place}", 1) for place in range(topics_each)])
    log.checkpoint()
    log.core.trimmer.checkpointed(log.store.applied(), 25)
    return log


@pytest.mark.parametrize(
    ("entries_added", "removed"), [(0, 2), (1, 2), (2.5, 5)], ids=["idle", "a little comes", "more comes than goes"]
)
def test_a_step_ends_when_it_has_changed_many_topics(
    entries_added: float, removed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trimmer, "STEP_TOPICS_MAX", 4)
    log = trimming(2)
    first = log.store.index_of_seq(1) or 0
    log.core.trimmer.step(first, bytes_added=0)  # what has no messages
    size = len(log.store.entry(first).command)
    trim = log.core.trimmer.step(25, bytes_added=int(entries_added * size))
    assert trim is not None
    assert trim.first - first == removed


def test_a_step_ends_after_so_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimmer, "STEP_ENTRIES_MAX", 7)
    log = trimming(1)
    first = log.core.trimmer.base.applied + 1
    trim = log.core.trimmer.step(25, bytes_added=0)
    assert trim is not None
    assert trim.first - first == 7
