"""What one transaction does to a log's numbers, and what it may not do: the rules both stores share.

A `State` is written with every transaction, so that bounds, hard state and applied index are one checked value and
never a guess from what happens to be there: a key that is damaged or gone shows as a hole inside the bounds.

Invariants, asserted by `advance` (breaking one is a defect of the caller, and nothing is written)
1. Entries continue the log without a gap. Nothing at or below ``applied`` is ever truncated.
2. ``commit`` and ``applied`` never exceed the last entry (audit 9); ``applied`` and the term never fall.
3. Records continue without a gap up to ``applied``; their seqs are gapless (P2), their messages' timestamps rise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lanyinglog.store.log_store import Checkpoint, EntryRecord, HardState, Writes


@dataclass(frozen=True, slots=True)
class State:
    """``first`` and ``last`` index (``(1, 0)`` when empty); ``record_timestamp`` is the newest record's,
    ``last_timestamp`` the newest message's (ns); ``rows`` and ``postings`` count what is stored of each;
    ``transaction`` is the number of the LMDB transaction that wrote it, 0 where there is none."""

    first: int = 1
    last: int = 0
    hard: HardState = field(default_factory=HardState)
    applied: int = 0
    next_seq: int = 1
    record_timestamp: int = 0
    last_timestamp: int = 0
    rows: int = 0
    postings: int = 0
    transaction: int = 0


def advance(state: State, writes: Writes) -> State:
    """The state after ``writes``, but for the counts of rows and postings, which only the store can tell."""
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
    hard = replace(hard, commit=min(hard.commit, last))
    state = replace(state, last=last, hard=hard)
    return state if writes.checkpoint is None else _advance_applied(state, writes.checkpoint)


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
    return replace(
        state,
        applied=record.index,
        next_seq=record.first_seq + record.count,
        record_timestamp=record.timestamp,
        last_timestamp=last_timestamp,
    )
