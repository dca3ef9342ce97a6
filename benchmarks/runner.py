"""Runs questions fairly: in each round every system gets a fresh cluster and the same questions, one after the other.

Systems alternate within a run, and who begins moves on by one each round, so that what the machine does meanwhile (a
neighbour, a warm disk, a throttled core) meets all of them alike. What fails is reported in words beside the others'
figures; it never ends the run.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.processes import Trouble
from benchmarks.question import Metrics, Question, Scale
from benchmarks.samples import Spread, spreads
from benchmarks.system import System

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """One system's figures for one variant of a question."""

    question: str
    system: str
    cell: str
    metrics: dict[str, Spread]


@dataclass(slots=True)
class Outcome:
    """All answers of a run, and what went wrong."""

    runs: dict[tuple[str, str, str], list[Metrics]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    def answers(self) -> list[Answer]:
        """Medians and spreads, by question, then variant, then system."""
        return [
            Answer(question, system, cell, spreads(runs))
            for (question, cell, system), runs in self.runs.items()
            if runs
        ]


def rotated(systems: Sequence[System], round_number: int) -> list[System]:
    """The order of a round: everybody is first once in ``len(systems)`` rounds."""
    if not systems:
        return []
    first = round_number % len(systems)
    return [*systems[first:], *systems[:first]]


def compare(
    questions: Sequence[Question],
    systems: Sequence[System],
    outcome: Outcome,
    *,
    rounds: int,
    scale: Scale,
    report: Report,
    settle: Callable[[], object] = lambda: None,
) -> None:
    """All ``questions`` to all ``systems``, ``rounds`` times, into ``outcome``, which has all so far when it is
    interrupted; ``report`` hears of each figure as it comes. ``settle`` brings the machine into the same state before
    each."""
    outcome.runs |= {key: [] for question in questions for key in _keys(question, systems, scale)}
    for question in questions:
        for round_number in range(rounds):
            for system in rotated([one for one in systems if question.name in one.answers], round_number):
                report(f"{question.name}, round {round_number + 1} of {rounds}: {system.name}")
                settle()
                try:
                    _ask(question, system, scale, outcome, report)
                except Exception as error:
                    words = str(error) if isinstance(error, Trouble) else traceback.format_exc(limit=-5)
                    outcome.troubles.append(f"{question.name}, {system.name}: {words}")
                    report(f"  {words}")


def _keys(question: Question, systems: Sequence[System], scale: Scale) -> Iterator[tuple[str, str, str]]:
    for cell in question.cells(scale):
        for system in systems:
            yield question.name, cell.label, system.name


def _ask(question: Question, system: System, scale: Scale, outcome: Outcome, report: Report) -> None:
    with system.running() as cluster:
        for cell in question.cells(scale):
            if cell.only is None or system.name in cell.only:
                metrics = cell.measure(cluster, scale)
                outcome.runs[question.name, cell.label, system.name].append(metrics)
                report(f"  {cell.label}: {in_words(metrics)}")


def in_words(metrics: Metrics) -> str:
    """A run's figures on one line."""
    return ", ".join(f"{number(value)} {name}" for name, value in metrics.items())


def number(value: float) -> str:
    """A figure with three digits that mean something."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
