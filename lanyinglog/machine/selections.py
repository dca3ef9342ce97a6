"""Which topics the filters of a subscription select, by number: found once, a bounded stretch at a time, and kept.

A page of history asks the index for the topics that match. To hold a hundred thousand names against the filters costs
tens of milliseconds, in which a node would do nothing else. But topics only ever come, and get their numbers in that
order: so what was found is true for ever, and only those that came since have to be looked at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from lanyinglog.machine.topic_table import TopicTable
from lanyinglog.topics import matcher

SELECTIONS_MAX = 256
"""Filters of which is kept what they select; those asked for least lately are forgotten."""
STEP_NAMES = 1_000
"""Names that one step looks at: about half a millisecond."""


class Selection:
    """What one sequence of filters selects. More than ``topics_max`` topics count as all, for good."""

    def __init__(self, topics: TopicTable, matches: Callable[[str], bool], topics_max: int) -> None:
        self._topics = topics
        self._matches = matches
        self._topics_max = topics_max
        self._looked_at = 0
        self._found: list[int] | None = []

    @property
    def numbers(self) -> list[int] | None:
        """The numbers of the topics that match, of those that were looked at; None for more than are counted."""
        return None if self._found is None else list(self._found)

    def step(self) -> bool:
        """Look at more names; whether there are none left."""
        if self._found is None:
            return True
        names = self._topics.names_from(self._looked_at, STEP_NAMES)
        self._found += [number for number, name in enumerate(names, self._looked_at + 1) if self._matches(name)]
        self._looked_at += len(names)
        if len(self._found) > self._topics_max:
            self._found = None
        return self._found is None or self._looked_at == len(self._topics)


class Selections:
    """The selections among ``topics`` that are kept. ``topics_max`` is that of each `Selection`."""

    def __init__(self, topics: TopicTable, *, topics_max: int) -> None:
        self._topics = topics
        self._topics_max = topics_max
        self._kept: OrderedDict[tuple[str, ...], Selection] = OrderedDict()

    def of(self, filters: Sequence[str]) -> Selection:
        """The selection of ``filters``, as far as it was looked for."""
        key = tuple(filters)
        selection = self._kept.pop(key, None)
        if selection is None:
            selection = Selection(self._topics, matcher(filters), self._topics_max)
            while len(self._kept) >= SELECTIONS_MAX:
                self._kept.popitem(last=False)
        self._kept[key] = selection
        return selection
