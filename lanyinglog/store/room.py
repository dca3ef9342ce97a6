"""How much of a disk a transaction may need: what is set aside before it begins, so that it can't run full half-way.

An upper bound in pages beyond the last one in use, as if no page were free: one for each key on a leaf of its own,
whole pages for values, and the branches of the trees and of the list of free pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lanyinglog.store import layout
from lanyinglog.store.log_store import Entry, Writes

PAGES_PER_TRANSACTION = 128


def pages_at_most(writes: Writes, page_bytes: int) -> int:
    """The pages that ``writes`` may take. An entry that is trimmed changes a leaf; the pages of its value are freed."""
    pages = PAGES_PER_TRANSACTION + _of_entries(writes.entries, page_bytes)
    if writes.checkpoint is not None:
        checkpoint = writes.checkpoint
        pages += len(checkpoint.postings) + len(checkpoint.records) + _of_rows(checkpoint.rows, page_bytes)
    if writes.trim is not None:
        pages += len(writes.trim.postings) + _of_rows(writes.trim.rows, page_bytes)
    if writes.stage is not None:
        pages += _of_rows(dict(writes.stage.rows), page_bytes)
    return pages + _of_entries(writes.install or (), page_bytes)


def _of_entries(entries: Sequence[Entry], page_bytes: int) -> int:
    return sum(2 + (len(entry.command) + layout.ENTRY_HEADER_BYTES) // page_bytes for entry in entries)


def _of_rows(rows: Mapping[bytes, bytes | None], page_bytes: int) -> int:
    return 2 * len(rows) + sum(len(row) for row in rows.values() if row is not None) // page_bytes
