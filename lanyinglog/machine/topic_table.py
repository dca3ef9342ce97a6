"""Which topics a log has, and in which blocks of entries each can be found.

A topic gets a number when it is first seen. Derived state, the same on every node; the block postings let a
subscription to a rare topic skip what does not concern it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lanyinglog import codec
from lanyinglog.machine.sorted_names import SortedNames
from lanyinglog.record import SkimmedRun
from lanyinglog.service import TopicPage, TopicStat
from lanyinglog.store.log_store import BLOCK_ENTRIES

TOPICS_MAX = 100_000
"""Topics a log may hold: each costs every node some hundred bytes of memory."""


@dataclass(slots=True)
class Topic:
    number: int
    messages: int = 0
    bytes: int = 0
    last_seq: int = 0
    last_timestamp: int = 0
    purged_seq: int = 0
    """What is not behind this is purged: so many messages and bytes."""
    purged_messages: int = 0
    purged_bytes: int = 0
    gone_messages: int = 0
    """Of so many none was left when that was last looked at; not stored."""


_NOTHING = Topic(0)


class TopicTable:
    """Topic name -> `Topic`; what changed since `take_changes`."""

    def __init__(self, *, topics_max: int = TOPICS_MAX) -> None:
        self._table: dict[str, Topic] = {}
        self._names: list[str] = []  # in order of first appearance: number - 1 is the place
        self._left = SortedNames()  # the names of topics that have messages left
        self._changed: set[str] = set()
        self._postings: list[tuple[int, int]] = []
        self._block = -1
        self._in_block: set[int] = set()
        self._topics_max = topics_max
        self.purged: Mapping[str, int] = {}
        """Topic -> the seq up to which it is purged, of those that were; replaced, never changed."""

    def has_room_for(self, runs: Sequence[SkimmedRun]) -> bool:
        """Whether the topics of all ``runs`` are known or may be added."""
        known = self._table
        for run in runs:
            if run[0] not in known:
                return len(known) + len({topic for topic, *_ in runs} - known.keys()) <= self._topics_max
        return True

    def count(self, name: str, index: int, messages: int, bytes: int, last_seq: int, last_timestamp: int) -> None:
        """A run of ``messages`` of topic ``name`` lies in entry ``index``."""
        topic = self._table.get(name)
        if topic is None:
            topic = self._table[name] = Topic(len(self._table) + 1)
            self._names.append(name)
        if topic.messages == topic.gone_messages:
            self._left.add(name)
        topic.messages += messages
        topic.bytes += bytes
        topic.last_seq = last_seq
        topic.last_timestamp = last_timestamp
        self._changed.add(name)
        block = index // BLOCK_ENTRIES
        if block != self._block:
            self._block = block
            self._in_block.clear()
        if topic.number not in self._in_block:
            self._in_block.add(topic.number)
            self._postings.append((topic.number, block))

    def purge(self, matches: Callable[[str], bool]) -> None:
        """All that was counted so far of the topics that match is not to be read any more."""
        for name, topic in self._table.items():
            if topic.messages > topic.purged_messages and matches(name):
                topic.purged_seq = topic.last_seq
                topic.purged_messages, topic.purged_bytes = topic.messages, topic.bytes
                self._note_gone(name, topic)
                self._changed.add(name)
        self._find_purged()

    def _find_purged(self) -> None:
        self.purged = {name: topic.purged_seq for name, topic in self._table.items() if topic.purged_seq}

    def __len__(self) -> int:
        return len(self._names)

    def names_from(self, place: int, count_max: int) -> list[str]:
        """Names in order of first appearance, from the one with number ``place + 1`` on."""
        return self._names[place : place + count_max]

    def stats(self) -> list[TopicStat]:
        """All topics that have messages, by name."""
        return self.stats_since(TopicTable())

    def stats_since(self, base: TopicTable) -> list[TopicStat]:
        """`stats` of what came after ``base``, an earlier state of this table."""
        return [stat for name in self._left.behind("") if (stat := self._stat(name, base)) is not None]

    def page_since(self, base: TopicTable, *, after: str, topics_max: int) -> TopicPage:
        """The next ``topics_max`` of `stats_since` behind the name ``after``."""
        found: list[TopicStat] = []
        for name in self._left.behind(after):
            if len(found) == topics_max:
                return TopicPage(found, True)
            stat = self._stat(name, base)
            if stat is not None:
                found.append(stat)
        return TopicPage(found, False)

    def _stat(self, name: str, base: TopicTable) -> TopicStat | None:
        """What came of a topic after ``base`` and is not purged; None for nothing."""
        topic, before = self._table[name], base._table.get(name, _NOTHING)
        messages = topic.messages - max(before.messages, topic.purged_messages)
        if not messages:
            return None
        size = topic.bytes - max(before.bytes, topic.purged_bytes)
        return TopicStat(name, messages, size, topic.last_seq, topic.last_timestamp)

    def note_trimmed(self, base: TopicTable, names: Iterable[str]) -> None:
        """Some messages of topics ``names`` went over into ``base``. Those that have none left are not looked at for
        statistics any more, however many they are."""
        before = base._table
        for name in names:
            topic = self._table[name]
            if topic.messages == max(before[name].messages, topic.purged_messages):
                self._note_gone(name, topic)

    def _note_gone(self, name: str, topic: Topic) -> None:
        if topic.messages > topic.gone_messages:
            topic.gone_messages = topic.messages
            self._left.remove(name)

    @property
    def changed(self) -> Collection[str]:
        """The topics that were counted or purged since `take_changes`."""
        return self._changed

    @property
    def topics_left(self) -> int:
        """How many topics have messages left."""
        return len(self._left)

    def hidden_since(self, base: TopicTable) -> int:
        """Of what came after ``base``, how many messages are purged."""
        return sum(max(0, self._table[name].purged_messages - base._messages(name)) for name in self.purged)

    def _messages(self, name: str) -> int:
        return self._table.get(name, _NOTHING).messages

    # ------------------------------------------------------------------------------------------- checkpoint
    def take_changes(self) -> tuple[dict[bytes, bytes | None], list[tuple[int, int]]]:
        """Rows changed, and new postings, since the last call."""
        rows: dict[bytes, bytes | None] = {}
        for name in sorted(self._changed):
            topic = self._table[name]
            row = [topic.number, topic.messages, topic.bytes, topic.last_seq, topic.last_timestamp]
            if topic.purged_seq:
                row += [topic.purged_seq, topic.purged_messages, topic.purged_bytes]
            rows[name.encode()] = codec.pack(row)
        postings = self._postings
        self._changed.clear()
        self._postings = []
        # Posted again for what comes in the same block: who trims deletes the postings of what he trimmed in each step.
        self._block = -1
        return rows, postings

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Take the table over from its rows. A block may be posted again after this: a posting is a set member."""
        loaded = [(key.decode(), Topic(*codec.unpack(value))) for key, value in rows.items()]
        self._left = SortedNames(name for name, topic in loaded if topic.messages > topic.purged_messages)
        loaded.sort(key=lambda pair: pair[1].number)
        self._table = dict(loaded)
        self._names = list(self._table)
        for topic in self._table.values():
            topic.gone_messages = topic.messages if topic.messages == topic.purged_messages else 0
        self._find_purged()
