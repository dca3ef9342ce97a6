"""What many measurements come to: the median and spread of runs, the quantiles of latencies.

A figure of one run is noise on a shared machine; what is reported is the median of several runs with the least and the
greatest beside it. Latencies are never averaged: a run's quantiles are taken from all its latencies, and the median
run's quantile is reported.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True, slots=True)
class Spread:
    """One metric over the runs of a benchmark, in the order of the runs."""

    runs: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("a spread of no runs")

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def low(self) -> float:
        return min(self.runs)

    @property
    def high(self) -> float:
        return max(self.runs)


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """The least value that at least ``fraction`` of the ``ordered`` values do not exceed (nearest rank)."""
    if not ordered:
        raise ValueError("a quantile of nothing")
    if not 0 < fraction <= 1:
        raise ValueError(f"a fraction is above 0 and at most 1, not {fraction}")
    return ordered[math.ceil(fraction * len(ordered)) - 1]


def latency_metrics(seconds: Sequence[float]) -> dict[str, float]:
    """``p50 ms``, ``p99 ms``, ``p99.9 ms`` and ``max ms`` of latencies in seconds."""
    ordered = sorted(seconds)
    metrics = {f"{name} ms": quantile(ordered, fraction) * 1e3 for name, fraction in QUANTILES.items()}
    return {**metrics, "max ms": ordered[-1] * 1e3}


def spreads(runs: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """The metrics of several runs, by name; a metric that only some runs have is the spread of those."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: Spread(tuple(run[name] for run in runs if name in run)) for name in names}


def longest_gap(moments: Sequence[float]) -> float:
    """The longest time between two of ``moments`` that follow each other, at least two, in order."""
    return max(after - before for before, after in pairwise(moments))
