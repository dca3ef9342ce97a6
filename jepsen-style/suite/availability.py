"""When writes had to go on: the times in which one majority of the members was whole.

P9 promises that writes resume within two election timeouts *with a majority alive and connected*. Faults come thick: a
second one may cut or stop the nodes that were about to take over from the first. So a silence counts against the
promise only for as long as some majority was there without a break: each of its nodes in working order, and every link
among them, and from clients to them, as it should be. A reset breaks a link for a moment, and what is promised begins
anew behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from suite.links import CLIENT


@dataclass(frozen=True, slots=True)
class Trouble:
    """From ``t0`` to ``t1`` (ns since the run began) ``nodes`` could not do their part, or something was wrong with
    ``links`` (`links.Link.name`)."""

    t0: int
    t1: int
    nodes: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()

    def concerns(self, group: frozenset[str]) -> bool:
        """Whether the nodes of ``group`` could not work with each other, or with clients, because of it."""
        return not self.nodes.isdisjoint(group) or any(_ends(link) <= group for link in self.links)


def _ends(link: str) -> set[str]:
    """The nodes at the ends of a link: one if clients are at the other."""
    return set(link.split(">")) - {CLIENT}


class Availability:
    """See the module. ``members`` are ``(since ns, names)``, in order."""

    def __init__(self, troubles: Iterable[Trouble], members: Sequence[tuple[int, frozenset[str]]]) -> None:
        self._troubles = sorted(troubles, key=lambda trouble: trouble.t0)
        ends = [since for since, _ in members[1:]] + [1 << 62]
        self._members = [(since, end, names) for (since, names), end in zip(members, ends, strict=True)]

    def whole_ns(self, start: int, end: int) -> int:
        """The longest time without a break between ``start`` and ``end`` in which one majority was whole."""
        members = [one for one in self._members if one[0] < end and one[1] > start]
        near = [trouble for trouble in self._troubles if trouble.t0 < end and trouble.t1 >= start]
        # The majority of the largest of the sets that followed each other: enough in each of them.
        size = max((len(names) // 2 + 1 for _, _, names in members), default=0)
        everyone = sorted(frozenset().union(*(names for _, _, names in members)))
        longest = 0
        for group in map(frozenset, combinations(everyone, size)):
            broken = [(trouble.t0, trouble.t1) for trouble in near if trouble.concerns(group)]
            broken += [(since, until) for since, until, names in members if not group <= names]
            longest = max(longest, _longest_between(sorted(broken), start, end))
        return longest


def _longest_between(broken: Iterable[tuple[int, int]], start: int, end: int) -> int:
    """The longest time between ``start`` and ``end`` that none of the intervals ``broken``, sorted, touches."""
    longest, free_from = 0, start
    for begins, ends in broken:
        longest = max(longest, min(begins, end) - free_from)
        free_from = max(free_from, ends)
    return max(longest, end - free_from)
