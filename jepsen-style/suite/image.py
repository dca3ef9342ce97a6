"""What is on the nodes' disks after a run, read with the nodes stopped: the log, and where two nodes differ.

`Image` is the reference of every checker: seq -> (message id, timestamp), as columns. It is made from the entries
of one node; `compare` holds those of all others against it, entry by entry (index, term, bytes, and what applying it
gave), so it is theirs as well or there is a finding.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lanyinglog.errors import LanyingError
from lanyinglog.machine.state_machine import places
from lanyinglog.record import decode_run
from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.log_store import Entry, EntryRecord
from suite.messages import identify

READ_BYTES = 8 << 20
DIFFERENCES_MAX = 5
"""Differences of one node that are told: the first ones say it all."""


@dataclass(slots=True)
class Image:
    """The log: message ``seq`` has id ``identities[seq - 1]`` (-1: not one of ours) and ``timestamps[seq - 1]``."""

    identities: array[int] = field(default_factory=lambda: array("q"))
    timestamps: array[int] = field(default_factory=lambda: array("q"))
    entries: int = 0
    terms: int = 0

    @property
    def last_seq(self) -> int:
        return len(self.identities)

    def add(self, identity: int, timestamp: int) -> None:
        """The next message."""
        self.identities.append(identity)
        self.timestamps.append(timestamp)


def image_of(messages: Sequence[tuple[int, int]]) -> Image:
    """The image of a log that holds ``(id, timestamp)``."""
    image = Image()
    for identity, timestamp in messages:
        image.add(identity, timestamp)
    return image


UNREADABLE = 0
"""In the place of an entry's index: the file, or an entry in it, can't be read."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Two nodes' data files are not the same, or (`UNREADABLE`) one can't be read."""

    node: str
    other: str
    index: int
    words: str


class DataFile:
    """One node's log, opened for reading. The node must be stopped."""

    def __init__(self, node: str, directory: Path, *, cluster: str) -> None:
        self.node = node
        self._store = LmdbStore.open(directory, node=node, cluster=cluster, create=False)
        self.last = self._store.bounds()[1]
        self.applied = self._store.applied()

    def pairs(self, last: int) -> Iterator[tuple[Entry, EntryRecord]]:
        """Entries 1 to ``last`` (at most `applied`) with their records; `CorruptEntry` at a damaged one."""
        index = 1
        while index <= last:
            entries = self._store.entries(index, last, bytes_max=READ_BYTES)
            yield from zip(entries, self._store.records(index, entries[-1].index), strict=True)
            index = entries[-1].index + 1

    def close(self) -> None:
        self._store.close()


def read(directories: Mapping[str, Path], *, cluster: str) -> tuple[Image, list[Difference]]:
    """The log in the data directories of all nodes, and where they differ. Empty if none can be read."""
    files: list[DataFile] = []
    differences: list[Difference] = []
    try:
        for node, directory in directories.items():
            try:
                files.append(DataFile(node, directory, cluster=cluster))
            except LanyingError as error:
                differences.append(Difference(node, node, UNREADABLE, error.message))
        if not files:
            return Image(), differences
        reference = max(files, key=lambda one: one.applied)
        for other in files:
            if other is not reference:
                differences += compare(reference, other)
        return build(reference, differences), differences
    finally:
        for one in files:
            one.close()


def build(source: DataFile, differences: list[Difference]) -> Image:
    """The image of a node's log, as far as it is readable."""
    image = Image()
    try:
        for entry, record in source.pairs(source.applied):
            image.entries += 1
            image.terms = max(image.terms, entry.term)
            for _, first_seq, timestamp, _, start, stop in places(entry.command, record):
                for message in decode_run(entry.command[start:stop], first_seq=first_seq, timestamp=timestamp):
                    found = identify(message.topic, message.payload)
                    image.add(-1 if found is None else found, message.timestamp)
    except LanyingError as error:
        differences.append(Difference(source.node, source.node, UNREADABLE, error.message))
    return image


def compare(reference: DataFile, other: DataFile) -> list[Difference]:
    """Where ``other`` is not what ``reference`` is, up to the entry that both have applied."""
    found: list[Difference] = []
    both = min(reference.applied, other.applied)
    try:
        for (entry, record), (entry2, record2) in zip(reference.pairs(both), other.pairs(both), strict=True):
            words = difference(entry, entry2) or (
                None if record == record2 else f"applying it gave {record2}, there {record}"
            )
            if words is not None:
                found.append(Difference(other.node, reference.node, entry.index, words))
                if len(found) == DIFFERENCES_MAX:
                    break
    except LanyingError as error:
        found.append(Difference(other.node, reference.node, UNREADABLE, error.message))
    return found


def difference(entry: Entry, other: Entry) -> str | None:
    """How two entries at one index differ, in words."""
    if entry.term != other.term:
        return f"it has term {other.term}, there term {entry.term}"
    if entry.command != other.command:
        return f"its {len(other.command)} bytes are not the {len(entry.command)} bytes there"
    return None
