"""A question: what is asked of a system, in which variants, and what counts as its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.payloads import Payload
from benchmarks.system import Cluster

T = TypeVar("T")
Metrics = Mapping[str, float]
"""Figures of one run by name, the unit last: ``messages/s``, ``p99 ms``."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. ``quick`` looks for the order of magnitude in seconds; reports come from a full run."""

    quick: bool
    lines: Sequence[bytes] = field(repr=False, default=())
    pools: dict[Payload, list[bytes]] = field(repr=False, default_factory=dict)

    def pick(self, full: T, quick: T) -> T:
        """One of the two."""
        return quick if self.quick else full

    def pool(self, payload: Payload) -> list[bytes]:
        """Payloads of a kind, made once."""
        if payload not in self.pools:
            self.pools[payload] = payload.pool(self.lines)
        return self.pools[payload]


@dataclass(frozen=True, slots=True)
class Cell:
    """One variant of a question: how people call it, and what is measured."""

    label: str
    measure: Callable[[Cluster, Scale], Metrics]
    only: frozenset[str] | None = None
    """Names of systems that know this variant; None for all."""


@dataclass(frozen=True, slots=True)
class Question:
    """``cells`` are put to a cluster in their order, one after the other."""

    name: str
    asks: str
    headline: str
    """The metric that plots show."""
    cells: Callable[[Scale], Sequence[Cell]]
