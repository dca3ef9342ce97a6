"""Many seeds: one after the other, or in several processes, and what they add up to."""

from __future__ import annotations

import gc
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from typing import Any

from simulator import (  # noqa: F401  # they register themselves
    defects_log,
    defects_membership,
    defects_raft,
    defects_repair,
    defects_retention,
)
from simulator.defects import DEFECTS
from simulator.history import Violation
from simulator.world import Outcome, simulate

CHUNK = 8
"""Seeds handed to a process at once."""
FAILING_MAX = 20
"""Failing seeds that a summary names."""


def seeds_of(first: int, count: int | None) -> Iterator[int]:
    """``count`` seeds from ``first`` on, or seeds without end."""
    return iter(itertools.count(first) if count is None else range(first, first + count))


def run_seed(seed: int, defect: str | None) -> Outcome:
    """One seed, perhaps with a planted defect. Whatever breaks the simulator itself is a violation too: of its own."""
    with DEFECTS[defect].plant() if defect else nullcontext(), _garbage_at_the_end():
        try:
            return simulate(seed)
        except Exception as error:
            if defect is None:
                raise RuntimeError(f"the simulator failed on seed {seed}") from error
            words = f"{type(error).__name__}: {error}"
            return Outcome(seed, Violation("simulator", words), 0, 0.0, 0, 0, {}, "")


@contextmanager
def _garbage_at_the_end() -> Iterator[None]:
    """A run keeps all its events, so looking for garbage meanwhile finds little and costs a tenth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)  # all that the run made is that young
        if was:
            gc.enable()


def _run_chunk(work: tuple[list[int], str | None]) -> list[Outcome]:
    seeds, defect = work
    return [run_seed(seed, defect) for seed in seeds]


def campaign(seeds: Iterable[int], seconds: float | None, jobs: int, defect: str | None) -> Iterator[Outcome]:
    """Outcomes in the order of seeds, until they end or ``seconds`` are over."""
    ends = None if seconds is None else time.monotonic() + seconds
    in_time = itertools.takewhile(lambda _: ends is None or time.monotonic() < ends, seeds)
    if jobs <= 1:
        for seed in in_time:
            yield run_seed(seed, defect)
        return
    with get_context("spawn").Pool(jobs) as pool:
        chunks = ((chunk, defect) for chunk in iter(lambda: list(itertools.islice(in_time, CHUNK)), []))
        for outcomes in _bounded_map(pool, chunks, 2 * jobs):
            yield from outcomes


def _bounded_map(pool: Any, chunks: Iterator[Any], ahead: int) -> Iterator[list[Outcome]]:
    """`Pool.imap` would take seeds without end at once."""
    waiting = [pool.apply_async(_run_chunk, (chunk,)) for chunk in itertools.islice(chunks, ahead)]
    while waiting:
        yield waiting.pop(0).get()
        waiting += [pool.apply_async(_run_chunk, (chunk,)) for chunk in itertools.islice(chunks, 1)]


class Tally:
    """Sums over outcomes."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.seeds = 0
        self.failing: list[int] = []
        self._steps = self._acknowledged = self._elections = 0
        self._virtual_s = 0.0
        self._faults: Counter[str] = Counter()
        self._rules: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Count one run."""
        self.seeds += 1
        self._steps += outcome.steps
        self._virtual_s += outcome.virtual_s
        self._acknowledged += outcome.acknowledged
        self._elections += outcome.elections
        self._faults.update(outcome.faults)
        if outcome.violation is not None:
            self._rules[outcome.violation.rule] += 1
            self.failing.append(outcome.seed)

    def summary(self, seconds: float, jobs: int) -> dict[str, Any]:
        """The last line."""
        return {
            "first_seed": self.first,
            "seeds": self.seeds,
            "violations": sum(self._rules.values()),
            "rules": dict(self._rules),
            "failing_seeds": self.failing[:FAILING_MAX],
            "steps": self._steps,
            "virtual_seconds": round(self._virtual_s, 1),
            "seconds": round(seconds, 1),
            "jobs": jobs,
            "seeds_per_minute_per_core": round(self.seeds / max(seconds, 1e-9) * 60 / jobs),
            "messages_acknowledged": self._acknowledged,
            "elections": self._elections,
            "faults": dict(sorted(self._faults.items())),
        }
