"""Topics are told of by name, a page at a time, whatever is purged and trimmed; and a page costs what is on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lanyinglog.machine import selections as selections_module
from lanyinglog.machine import sorted_names
from lanyinglog.machine.selections import Selections
from lanyinglog.machine.sorted_names import SortedNames
from lanyinglog.machine.topic_table import TopicTable
from lanyinglog.service import TopicStat
from lanyinglog.topics import matcher

NAMES = [f"{letter}.{number}" for letter in "abc" for number in range(6)]


class Log:
    """A present and a base table, and the messages that they count."""

    def __init__(self) -> None:
        self.present, self.base = TopicTable(), TopicTable()
        self.messages: list[str] = []
        self.first = 0  # place of the first message that is not trimmed
        self.purged: set[int] = set()

    def publish(self, name: str) -> None:
        self.messages.append(name)
        self._count(self.present, len(self.messages))

    def _count(self, table: TopicTable, number: int) -> None:
        table.count(self.messages[number - 1], number, 1, 10, number, number)

    def purge(self, pattern: str) -> None:
        self.present.purge(matcher((pattern,)))
        self.purged |= {place for place, name in enumerate(self.messages) if matcher((pattern,))(name)}

    def trim(self, count: int) -> None:
        stop = min(len(self.messages), self.first + count)
        for place in range(self.first, stop):
            self._count(self.base, place + 1)
        self.first = stop
        self.present.note_trimmed(self.base, self.base.changed)
        self.base.take_changes()

    def restart(self) -> None:
        """What is trimmed is in the base; of the present the rows are taken over."""
        loaded = TopicTable()
        rows = {name.encode(): self._row(name) for name in sorted(set(self.messages))}
        loaded.load(rows)
        loaded.note_trimmed(self.base, self.base.names_from(0, len(self.base)))
        self.present = loaded

    def _row(self, name: str) -> bytes:
        self.present._changed.add(name)
        rows, _ = self.present.take_changes()
        row = rows[name.encode()]
        assert row is not None
        return row

    def left(self) -> dict[str, list[int]]:
        """Topic -> numbers of the messages left."""
        found: dict[str, list[int]] = {}
        for place in range(self.first, len(self.messages)):
            if place not in self.purged:
                found.setdefault(self.messages[place], []).append(place + 1)
        return dict(sorted(found.items()))

    def stats(self) -> list[TopicStat]:
        return [
            TopicStat(name, len(numbers), 10 * len(numbers), numbers[-1], numbers[-1])
            for name, numbers in self.left().items()
        ]


def pages(log: Log, topics_max: int) -> list[TopicStat]:
    found: list[TopicStat] = []
    while True:
        page = log.present.page_since(log.base, after=found[-1].topic if found else "", topics_max=topics_max)
        assert len(page.topics) == topics_max or not page.more
        found += page.topics
        if not page.more:
            return found


steps = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(NAMES)),
    st.tuples(st.just("publish"), st.sampled_from(NAMES)),
    st.tuples(st.just("purge"), st.sampled_from(["a.*", "b.>", "*.3", ">"])),
    st.tuples(st.just("trim"), st.integers(1, 9)),
    st.tuples(st.just("restart"), st.none()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=60), st.integers(1, 7))
@example([("publish", "a.1"), ("trim", 1), ("purge", ">"), ("publish", "a.1")], 1)
@example([("publish", "a.1"), ("purge", ">"), ("trim", 1), ("restart", None), ("publish", "a.1")], 1)
def test_what_is_told_is_what_is_left(sequence: list[tuple[str, object]], topics_max: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_names, "BLOCK_NAMES_MAX", 4)
        log = Log()
        for step, what in sequence:
            act: Callable[..., None] = getattr(log, step)
            act(what) if what is not None else act()
            assert log.present.stats_since(log.base) == log.stats()
        assert pages(log, topics_max) == log.stats()
        assert log.present.topics_left == len(log.left())
        kept = len(log.messages) - log.first
        assert kept - log.present.hidden_since(log.base) == sum(map(len, log.left().values()))


def test_a_page_looks_at_no_more_than_it_tells_of(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    for number in range(3_000):
        log.publish(f"t.{number:04}")
    log.trim(2_000)
    looked_at: list[str] = []
    stat = TopicTable._stat

    def counted(self: TopicTable, name: str, base: TopicTable) -> TopicStat | None:
        looked_at.append(name)
        return stat(self, name, base)

    monkeypatch.setattr(TopicTable, "_stat", counted)
    page = log.present.page_since(log.base, after="t.0500", topics_max=10)
    assert page.topics[0].topic == "t.2000"
    assert len(looked_at) == 10


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=120), st.integers(0, 41), st.sets(st.integers()))
def test_sorted_names_are_a_sorted_set(moves: list[tuple[bool, int]], after: int, first: set[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_names, "BLOCK_NAMES_MAX", 4)
        model = {str(number) for number in first}
        names = SortedNames(model)
        for adds, number in moves:
            name = str(number)
            if adds and name not in model:
                names.add(name)
                model.add(name)
            elif not adds and name in model:
                names.remove(name)
                model.remove(name)
        assert list(names.behind("")) == sorted(model)
        assert list(names.behind(str(after))) == sorted(name for name in model if name > str(after))
        assert len(names) == len(model)


# ------------------------------------------------------------------------------------------------------- selections
def selected(selections: Selections, pattern: str) -> list[int] | None:
    selection = selections.of((pattern,))
    while not selection.step():
        pass
    return selection.numbers


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(NAMES)), max_size=5), st.integers(0, 6), st.integers(1, 5))
def test_filters_select_the_topics_that_match_by_now(
    rounds: list[list[str]], topics_max: int, selections_max: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selections_module, "STEP_NAMES", 2)
        patch.setattr(selections_module, "SELECTIONS_MAX", selections_max)
        table = TopicTable()
        selections = Selections(table, topics_max=topics_max)
        order: list[str] = []
        for names in rounds:
            for name in names:
                table.count(name, 1, 1, 1, 1, 1)
                order += [name] if name not in order else []
            for pattern in ("a.*", "b.2", "*.3", "none"):
                matching = [number for number, name in enumerate(order, start=1) if matcher((pattern,))(name)]
                assert selected(selections, pattern) == (matching if len(matching) <= topics_max else None)


def test_a_name_is_held_against_the_same_filters_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def matching(filters: object) -> Callable[[str], bool]:
        return lambda name: not asked.append(name)  # type: ignore[func-returns-value]

    monkeypatch.setattr(selections_module, "matcher", matching)
    table = TopicTable()
    selections = Selections(table, topics_max=10)
    for name in NAMES[:3]:
        table.count(name, 1, 1, 1, 1, 1)
    assert selected(selections, "a.*") == [1, 2, 3]
    assert selected(selections, "a.*") == [1, 2, 3]
    table.count(NAMES[3], 2, 1, 1, 2, 2)
    assert selected(selections, "a.*") == [1, 2, 3, 4]
    assert asked == NAMES[:4]
