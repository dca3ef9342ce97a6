"""What floors above may ask of a store: the contract that the LMDB environment and its memory twin both keep.

One store holds one log of one node. A Raft entry is written once, here, and that is where its messages live
(design: the Raft log *is* the message log). All else in it is small derived state, moved forward together with the
applied index, in the same transaction.

Order of effects: `LogStore.write` is one atomic, synced transaction. When it returns, all of its `Writes` survive a
power cut; when the process dies in it, all or none do. Writes are made one at a time; reads may run beside them from
any thread and see either the state before or after, never between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import google_crc32c

ENTRY_BYTES_MAX = 4 << 20
"""The largest ``command`` of an entry; a group commit stops well below (see `batcher`)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One Raft entry. ``index`` from 1 without gaps; ``command`` is opaque here; ``crc`` is `entry_crc` of the rest."""

    index: int
    term: int
    command: bytes
    crc: int


def entry_crc(index: int, term: int, command: bytes) -> int:
    """CRC32C over index and term (8 bytes each, little-endian) and command; covers the entry from leader to reader."""
    head: int = google_crc32c.value(index.to_bytes(8, "little") + term.to_bytes(8, "little"))
    crc: int = google_crc32c.extend(head, command)
    return crc


_PAGE_BYTES = 4_096
_INLINE_BYTES_MAX = 2_000
_ENTRY_EXTRA_BYTES = 128


def disk_bytes(command_bytes: int) -> int:
    """About what an entry with a ``command`` of so many bytes takes of a data file, whole pages where it has its own.

    A fixed formula and no measurement: limits in bytes must come out alike on every node (`machine.retention`)."""
    size = command_bytes + _ENTRY_EXTRA_BYTES  # header, key, record, its share of the trees
    return size if size <= _INLINE_BYTES_MAX else -(-size // _PAGE_BYTES) * _PAGE_BYTES


@dataclass(frozen=True, slots=True)
class HardState:
    """What Raft must not forget (Raft paper, figure 2), and its commit index, which it may."""

    term: int = 0
    vote: str | None = None
    commit: int = 0


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """What applying one entry decided: derived, the same on every node, needed to serve the entry's messages.

    ``first_seq`` is the seq of its first message, ``count`` how many it has (0 for entries without messages: then
    ``first_seq`` is the seq that comes next), ``timestamp`` that of the first message, in ns. ``dropped`` holds the
    ordinals of commands in the entry that were refused (duplicates, errors) and have no messages. ``end_bytes`` are the
    `disk_bytes` of all entries up to and including this one since the log began, trimmed ones too.

    ``first_seq``, ``timestamp`` and ``end_bytes`` never fall as ``index`` rises, so they can be searched by bisection.
    """

    index: int
    first_seq: int
    count: int
    timestamp: int
    dropped: tuple[int, ...] = ()
    end_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Derived state as it is when every entry up to ``applied`` has been applied.

    ``records`` continue those already stored, in order, up to ``applied``. ``rows`` are key -> value of the state
    machine's tables, None to delete. ``postings`` are ``(topic id, block)`` pairs: block ``index //
    BLOCK_ENTRIES`` has at least one message of that topic.
    """

    applied: int
    records: Sequence[EntryRecord] = ()
    rows: Mapping[bytes, bytes | None] = field(default_factory=dict)
    postings: Sequence[tuple[int, int]] = ()


BLOCK_ENTRIES = 64
"""Entries a block of the topic index spans: small enough to skip well, large enough to stay sparse."""


@dataclass(frozen=True, slots=True)
class Trim:
    """The log is to begin at entry ``first``: entries and records below it go, and the *base* becomes the derived
    state as of the entry before it.

    ``rows`` are what changes in the base's tables, ``last_seq`` and ``last_timestamp`` (ns) of the newest message
    before ``first``, ``postings`` those of the entries that go. ``first`` is at most the applied index, and two entries
    stay.
    """

    first: int
    last_seq: int
    last_timestamp: int
    rows: Mapping[bytes, bytes | None] = field(default_factory=dict)
    postings: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True)
class SnapshotHead:
    """Which snapshot: the base of a log that begins at entry ``first``, in ``rows`` rows; see `Trim` for the rest."""

    first: int
    last_seq: int
    last_timestamp: int
    rows: int


@dataclass(frozen=True, slots=True)
class Stage:
    """Part of a snapshot that another node sent, put aside until the whole is there. ``restart`` forgets what was put
    aside before, which is of another snapshot."""

    head: SnapshotHead
    rows: Sequence[tuple[bytes, bytes]]
    restart: bool = False


@dataclass(frozen=True, slots=True)
class Mend:
    """What belongs in the place of a stored, applied entry that is damaged: it and its record, as they were."""

    entry: Entry
    record: EntryRecord


@dataclass(frozen=True, slots=True)
class Writes:
    """One transaction: first drop all entries from ``truncate_from`` on, then append ``entries``, then the rest, in the
    order of the fields.

    ``entries`` continue the log that truncation leaves, without a gap. An empty `Writes` is still a sync. ``joined``:
    from now on this node may vote. ``install``: the staged snapshot is whole, and with these entries, its first two, it
    replaces the log; from here on the store does nothing else before `LogStore.install_step` says that it is done.
    ``mends`` take the place of what is stored; if more than these values is damaged, `write` raises `StoreError`.
    """

    truncate_from: int | None = None
    entries: Sequence[Entry] = ()
    hard_state: HardState | None = None
    checkpoint: Checkpoint | None = None
    trim: Trim | None = None
    joined: bool = False
    stage: Stage | None = None
    install: Sequence[Entry] | None = None
    mends: Sequence[Mend] = ()


class LogStore(Protocol):
    """See the module. Unless said otherwise a method may raise `CorruptEntry` (naming the entry) or `StoreError`;
    `write` raises `StorageFull` (ENOSPC: nothing was written, the store stays usable) or `OSError` (EIO: the caller
    must end the process, for a later sync can succeed with the data gone)."""

    def bounds(self) -> tuple[int, int]:
        """``(first index, last index)`` of the stored entries; ``(1, 0)`` when there are none."""

    def hard_state(self) -> HardState:
        """As last written; ``commit`` never exceeds the last index (audit 9)."""

    def applied(self) -> int:
        """The index of the last checkpoint, 0 if none; never above the last index."""

    def rows(self) -> list[tuple[bytes, bytes]]:
        """All rows of the state machine's tables, in key order, as of `applied`."""

    def write(self, writes: Writes) -> None:
        """One synced transaction; one at a time, from whichever thread."""

    def entry(self, index: int) -> Entry:
        """The entry, CRC32C checked. `KeyError` if there is none."""

    def entries(self, first: int, last: int, *, bytes_max: int) -> list[Entry]:
        """Entries from ``first`` on, checked, until ``last``, the log's end, or the one that reaches ``bytes_max``."""

    def term(self, index: int) -> int:
        """The term of an entry, from its checked header alone. `KeyError` if there is none."""

    def record(self, index: int) -> EntryRecord:
        """The record of an applied entry at or below `applied`. `KeyError` if there is none."""

    def records(self, first: int, last: int) -> list[EntryRecord]:
        """Records of ``first`` to ``last``, as far as they are stored."""

    def index_of_seq(self, seq: int) -> int | None:
        """The entry with the message ``seq``; None if no stored record has it."""

    def index_of_time(self, timestamp: int) -> int | None:
        """The first entry holding a message at or after ``timestamp`` (ns); None if all stored ones are earlier."""

    def next_block(self, topic_ids: Sequence[int], block: int) -> int | None:
        """The first block at or after ``block`` with a message of one of the topics; None if there is none. The block
        in which the log begins, if a part of it is trimmed, counts as having one of each."""

    def bytes_used(self) -> int:
        """Bytes the log takes on disk."""

    def has_room(self) -> bool:
        """Whether the last write left the store with its reserve, so that more may be taken on; True before any."""

    def joined(self) -> bool:
        """False for a directory that was made anew and whose node has not yet found out what it may have promised
        before (`raft.joining`)."""

    # ------------------------------------------------------------------------------------------- base and snapshots
    def base(self) -> SnapshotHead:
        """Of the derived state as of the entry before the first stored one."""

    def base_rows(self, first: int, *, after: bytes = b"", bytes_max: int | None = None) -> list[tuple[bytes, bytes]]:
        """The base's rows behind key ``after``, in order, until they reach ``bytes_max``. `KeyError` if the log does
        not begin at ``first`` (any more): the base is another one then."""

    def installing(self) -> bool:
        """Whether an installation was begun and is not done. Nothing but `install_step` may be called until it is; a
        restart does not change that."""

    def install_step(self) -> bool:
        """One bounded, synced step of the installation; False once it is done. Raises as `write` does."""

    def close(self) -> None:
        """Releases the directory; the store can't be used afterwards. Does not write."""
