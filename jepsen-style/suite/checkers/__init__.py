"""What a history says about the promises: pure functions of a history and of the log that the nodes' disks hold.

Each checker looks for a few anomalies and returns `Finding` values, at most `PROOFS_MAX` of a kind: each with the few
operations that prove it. `check` runs them all. `ANOMALIES` names every anomaly and says in prose what it is; the
report prints it, a test plants each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from suite.history import History
from suite.image import Image

PROOFS_MAX = 5
"""Findings of a kind that are told in full; beyond it they are counted."""

ANOMALIES = {
    "lost-write": "P1: a message was acknowledged, and it is not in the log.",
    "inconsistent-offsets": "P2: a message was acknowledged at one seq, or with one timestamp, and has another.",
    "aborted-read": "P7: an error said that a message would never be stored, and it is there (Jepsen: G1a).",
    "duplicate": "P4: a message is in the log more than once.",
    "phantom": "a message in the log was never sent.",
    "reordered": "P5: messages of one lane are not in the order in which it sent them.",
    "realtime-order": "P2: a message was sent after another had been acknowledged, and stands before it in the log.",
    "torn-batch": "P3: a part of a batch is in the log, another part is not, or something stands between them.",
    "timestamp-order": "P2: a timestamp is not above the one before it.",
    "changed-answer": "P4: a repeated batch was answered with other numbers than the first time.",
    "inconsistent-read": "P2: a reader got another message at a seq than the one that is in the log.",
    "dirty-read": "P1: a reader got a message beyond the log's end: it was shown, and is gone.",
    "read-before-write": "a reader got a message before it was sent.",
    "poll-skip": "P2: a subscription went past a message that matches, without handing it out.",
    "nonmonotonic-poll": "P2: a subscription went back, or handed out a seq twice.",
    "garbled-message": "a reader got a message that is not, byte for byte, one that was sent.",
    "stale-read": "a client's read up to the newest message ended before one that this client had seen acknowledged.",
    "torn-read": "P3: a read up to the newest message ended inside a batch.",
    "replica-divergence": "P2: the data files of two nodes differ in an entry that both have applied.",
    "unreadable-data": "P1: the data file of a node can't be read after the run, or an entry in it fails its checksum.",
    "node-ended": "a node ended although nothing was done to it that it may not survive.",
    "ignored-io-error": "P1: a node went on after a sync of its disk had failed.",
    "no-recovery": "P9: after everything was healed, the cluster did not come back in time.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One anomaly: ``words`` tell it, ``proof`` are its operations as lines of the history, ``t_ns`` is about when it
    happened (0: unknown)."""

    anomaly: str
    words: str
    proof: tuple[dict[str, Any], ...] = ()
    t_ns: int = 0


class Findings:
    """Collects findings of the same kinds: the first few in full, the rest as a number."""

    def __init__(self) -> None:
        self.told: list[Finding] = []
        self.counts: dict[str, int] = {}

    def add(self, anomaly: str, words: str, *proof: dict[str, Any], t_ns: int = 0) -> None:
        """One more."""
        assert anomaly in ANOMALIES, anomaly
        self.counts[anomaly] = self.counts.get(anomaly, 0) + 1
        if self.counts[anomaly] <= PROOFS_MAX:
            self.told.append(Finding(anomaly, words, proof, t_ns))

    def drop(self, anomaly: str) -> None:
        """Forget what was found of this kind: the history can't prove it."""
        self.counts.pop(anomaly, None)
        self.told = [one for one in self.told if one.anomaly != anomaly]

    def full(self, anomaly: str) -> bool:
        """Whether further ones of this kind are only counted: their words need not be made."""
        return self.counts.get(anomaly, 0) >= PROOFS_MAX


Checker = Callable[[History, Image, Findings], None]


def check(history: History, image: Image, findings: Findings | None = None) -> Findings:
    """Everything that the history and the log say against the product, added to ``findings``."""
    from suite.checkers import readers, writers

    findings = findings or Findings()
    for checker in (*writers.CHECKERS, *readers.CHECKERS):
        checker(history, image, findings)
    return findings
