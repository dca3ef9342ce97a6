"""Replacing a log by a snapshot, on disk, in bounded steps that a crash may interrupt anywhere.

A snapshot arrives in parts, which are put aside (databases ``staged`` and ``arrivals``) while the old log goes on to be
the log. When it is whole one small transaction says so (`State.installing`): that is the moment at which the log is
another one. What is left needs no other node and is the same work whenever it is gone on with: the old content goes,
some of it a transaction; the rows put aside become the tables, both as they are and as they were at the log's first
entry; the two entries become the log. Term and vote stay where they are all the time, in the state.

Where it stands is read off the databases: as long as all rows are still put aside, the old content is being removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lmdb

from lanyinglog.store import layout
from lanyinglog.store.log_store import Writes
from lanyinglog.store.room import PAGES_PER_TRANSACTION
from lanyinglog.store.state import State, installed

STEP_KEYS_MAX = 1_000
STEP_BYTES_MAX = 4 << 20
"""What one transaction removes or moves at most: large ones write large lists of free pages and stall the disk."""
_OLD = (layout.ENTRIES, layout.RECORDS, layout.POSTINGS, layout.ROWS, layout.BASE)

Databases = Mapping[bytes, Any]


def step_pages(page_bytes: int) -> int:
    """The pages that a step may take: each row goes into two databases."""
    return PAGES_PER_TRANSACTION + 4 * STEP_KEYS_MAX + 2 * STEP_BYTES_MAX // page_bytes


def take_step(txn: lmdb.Transaction[bytes], databases: Databases, state: State) -> State:
    """The next step in ``txn``; the state behind it, which is no longer ``installing`` when it was the last one."""
    assert state.installing and state.staging is not None
    left = txn.stat(databases[layout.STAGED])["entries"]
    if left == state.staging.rows and _remove_some(txn, databases):
        return state
    if left:
        _move_some(txn, databases)
        return state
    arrivals = databases[layout.ARRIVALS]
    with txn.cursor(db=arrivals) as cursor:
        for key, value in cursor:
            txn.put(key, value, db=databases[layout.ENTRIES], append=True)
    txn.drop(arrivals, delete=False)
    return installed(state)


def _remove_some(txn: lmdb.Transaction[bytes], databases: Databases) -> bool:
    """Removes old content; False if there is none."""
    keys = size = 0
    for name in _OLD:
        with txn.cursor(db=databases[name]) as cursor:
            more = cursor.first()
            while more:
                if keys >= STEP_KEYS_MAX or size >= STEP_BYTES_MAX:
                    return True
                keys += 1
                size += len(cursor.value())
                more = cursor.delete() and bool(cursor.key())
    return keys > 0


def _move_some(txn: lmdb.Transaction[bytes], databases: Databases) -> None:
    moved = []
    size = 0
    with txn.cursor(db=databases[layout.STAGED]) as cursor:
        for key, value in cursor:
            moved.append((key, value))
            size += len(value)
            if len(moved) >= STEP_KEYS_MAX or size >= STEP_BYTES_MAX:
                break
    for key, value in moved:
        txn.put(key, value, db=databases[layout.ROWS], append=True)
        txn.put(key, value, db=databases[layout.BASE], append=True)
        txn.delete(key, db=databases[layout.STAGED])


def stage(txn: lmdb.Transaction[bytes], databases: Databases, writes: Writes, after: State) -> State:
    """Puts aside what ``writes`` brings of a snapshot; the state with what is there now."""
    part = writes.stage
    staged, arrivals = databases[layout.STAGED], databases[layout.ARRIVALS]
    if part is not None:
        if part.restart:
            txn.drop(staged, delete=False)
        for key, row in part.rows:
            assert 1 <= len(key) <= layout.KEY_BYTES_MAX, f"a row key of {len(key)} bytes"
            txn.put(key, layout.seal(key, row), db=staged)
        after = after._replace(staged_rows=txn.stat(staged)["entries"])
    if writes.install is not None:
        txn.drop(arrivals, delete=False)
        for entry in writes.install:
            txn.put(layout.index_key(entry.index), layout.encode_entry(entry), db=arrivals, append=True)
    return after
