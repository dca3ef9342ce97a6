"""What one transaction does to a log's numbers, and what it may not do: the rules both stores share.

A `State` is written with every transaction, so that bounds, hard state and applied index are one checked value and
never a guess from what happens to be there: a key that is damaged or gone shows as a hole inside the bounds.

Invariants, asserted by `advance` (breaking one is a defect of the caller, and nothing is written)
1. Entries continue the log without a gap. Nothing at or below ``applied`` is ever truncated.
2. ``commit`` and ``applied`` never exceed the last entry (audit 9); ``applied`` and the term never fall.
3. The log begins at most at the applied index, and keeps two entries; it never begins earlier again.
4. A snapshot replaces the log only if it goes beyond all that is committed here, and only when it is whole.
5. Records continue without a gap up to ``applied``; their seqs are gapless (P2), their messages' timestamps rise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from lanyinglog.store.log_store import (
    Checkpoint,
    Entry,
    EntryRecord,
    HardState,
    SnapshotHead,
    Stage,
    Trim,
    Writes,
    entry_crc,
)


class State(NamedTuple):
    """``first`` and ``last`` index (``(1, 0)`` when empty); ``record_timestamp`` is the newest record's,
    ``last_timestamp`` the newest message's (ns); ``rows`` and ``postings`` count what is stored of each.

    ``base_*`` are the numbers of the base (see `Trim`), ``staging`` is the snapshot of which ``staged_rows`` are put
    aside, ``installing`` whether it is replacing the log: all numbers but ``hard`` and ``joined`` mean nothing then.
    ``transaction`` is the number of the LMDB transaction that wrote it, 0 where there is none."""

    first: int = 1
    last: int = 0
    hard: HardState = HardState()
    applied: int = 0
    next_seq: int = 1
    record_timestamp: int = 0
    last_timestamp: int = 0
    rows: int = 0
    postings: int = 0
    base_seq: int = 0
    base_timestamp: int = 0
    base_rows: int = 0
    joined: bool = True
    staging: SnapshotHead | None = None
    staged_rows: int = 0
    installing: bool = False
    transaction: int = 0

    @property
    def base(self) -> SnapshotHead:
        """What a snapshot of this log would be."""
        return SnapshotHead(self.first, self.base_seq, self.base_timestamp, self.base_rows)


def advance(state: State, writes: Writes) -> State:
    """The state after ``writes``, but for the counts of rows and postings, which only the store can tell."""
    assert not state.installing, "a snapshot is being installed"
    applied_before = state.applied
    last = state.last
    if writes.truncate_from is not None:
        assert writes.truncate_from > state.applied, f"truncation from {writes.truncate_from}, applied {state.applied}"
        last = min(last, writes.truncate_from - 1)
    for entry in writes.entries:
        assert entry.index == last + 1, f"entry {entry.index} after entry {last}"
        last = entry.index
    hard = writes.hard_state or state.hard
    assert hard.term >= state.hard.term, f"term {hard.term} after term {state.hard.term}"
    # Clamped when written, not when read: a commit index above the log's end must not come true by later appends.
    if hard.commit > last:
        hard = replace(hard, commit=last)
    state = state._replace(last=last, hard=hard, joined=state.joined or writes.joined)
    for mend in writes.mends:
        assert state.first <= mend.entry.index == mend.record.index <= state.applied, f"{mend.entry.index} is mended"
        assert mend.entry.crc == entry_crc(mend.entry.index, mend.entry.term, mend.entry.command)
    if writes.checkpoint is not None:
        state = _advance_applied(state, writes.checkpoint)
    if writes.trim is not None:
        state = _advance_first(state, writes.trim, applied_before)
    if writes.stage is not None:
        state = _advance_staging(state, writes.stage)
    return state if writes.install is None else _begin_install(state, writes.install)


def _advance_first(state: State, trim: Trim, applied: int) -> State:
    # By the checkpoint before this write: the base comes from entries whose records are on disk.
    assert state.first <= trim.first <= min(applied, state.last - 1), (
        f"a trim to {trim.first}: entries {state.first} to {state.last}, applied {applied}"
    )
    return state._replace(first=trim.first, base_seq=trim.last_seq, base_timestamp=trim.last_timestamp)


def _advance_staging(state: State, stage: Stage) -> State:
    assert stage.restart or stage.head == state.staging, f"a part of {stage.head} comes behind {state.staging}"
    before = 0 if stage.restart else state.staged_rows
    return state._replace(staging=stage.head, staged_rows=before + len(stage.rows))


def _begin_install(state: State, entries: Sequence[Entry]) -> State:
    head = state.staging
    assert head is not None and state.staged_rows == head.rows, f"{state.staged_rows} rows of {head} are here"
    assert [entry.index for entry in entries] == [head.first, head.first + 1], "its first two entries go with it"
    assert all(entry.crc == entry_crc(entry.index, entry.term, entry.command) for entry in entries)
    assert max(entry.term for entry in entries) <= state.hard.term
    committed = max(state.hard.commit, state.applied)
    assert head.first + 1 > committed, f"a snapshot up to {head.first + 1}, committed is {committed}"
    return state._replace(installing=True)


def installed(state: State) -> State:
    """The state when the installation is done: as if the log had been trimmed to the snapshot, with two entries."""
    head = state.staging
    assert state.installing and head is not None
    last = head.first + 1
    return State(
        first=head.first,
        last=last,
        hard=replace(state.hard, commit=last),
        applied=head.first - 1,
        next_seq=head.last_seq + 1,
        record_timestamp=head.last_timestamp,
        last_timestamp=head.last_timestamp,
        rows=head.rows,
        base_seq=head.last_seq,
        base_timestamp=head.last_timestamp,
        base_rows=head.rows,
        joined=state.joined,
    )


def at_base(state: State) -> State:
    """The state just before the first stored record: what that record must follow."""
    return state._replace(
        applied=state.first - 1,
        next_seq=state.base_seq + 1,
        record_timestamp=state.base_timestamp,
        last_timestamp=state.base_timestamp,
    )


def _advance_applied(state: State, checkpoint: Checkpoint) -> State:
    applied = checkpoint.applied
    assert state.applied <= applied <= state.last, f"applied {applied}: was {state.applied}, last {state.last}"
    for record in checkpoint.records:
        problem = discontinuity(state, record)
        assert problem is None, problem
        state = follow(state, record)
    assert state.applied == applied, f"records up to {state.applied}, applied {applied}"
    return state


def discontinuity(state: State, record: EntryRecord) -> str | None:
    """Why ``record`` can't be the next one after those that led to ``state``, in words; None if it can."""
    index = state.applied + 1
    if record.index != index:
        return f"record {record.index} in the place of record {index}"
    if record.first_seq != state.next_seq:
        return f"record {index} starts at seq {record.first_seq}, not {state.next_seq}"
    if record.timestamp < state.record_timestamp:
        return f"record {index} has timestamp {record.timestamp}, the one before {state.record_timestamp}"
    if record.count and record.timestamp <= state.last_timestamp:
        return f"record {index} has timestamp {record.timestamp}, a message before it {state.last_timestamp}"
    return None


def follow(state: State, record: EntryRecord) -> State:
    """The state once ``record`` is the newest."""
    last_timestamp = record.timestamp + record.count - 1 if record.count else state.last_timestamp
    return state._replace(
        applied=record.index,
        next_seq=record.first_seq + record.count,
        record_timestamp=record.timestamp,
        last_timestamp=last_timestamp,
    )
