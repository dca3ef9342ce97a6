"""Bisection over the records of a log: which entry has a seq, which the first message at or after a time.

Works on any ``record`` function that answers for 1 to ``applied``. Records without messages sit anywhere between the
others; the seq and the timestamp they carry are only bounds.
"""

from __future__ import annotations

from collections.abc import Callable

from lanyinglog.store.log_store import EntryRecord

Records = Callable[[int], EntryRecord]


def find_seq(record: Records, first: int, applied: int, seq: int) -> int | None:
    """The index of the entry that has the message ``seq``; None if no record from ``first`` to ``applied`` does."""
    # The end of a record only rises where it has messages, so the first one to end behind seq is no empty one.
    index = first_where(record, first, applied, lambda each: each.first_seq + each.count > seq)
    if index > applied or record(index).first_seq > seq:
        return None
    return index


def find_time(record: Records, first: int, applied: int, timestamp: int) -> int | None:
    """The index of the first entry with a message at or after ``timestamp`` (ns); None if there is none."""
    index = first_where(record, first, applied, lambda each: each.timestamp >= timestamp)
    if first > applied:
        return None
    if index > applied:
        newest = record(applied)
        next_seq = newest.first_seq + newest.count
    else:
        next_seq = record(index).first_seq
    # The run of messages that began before the time may reach into it.
    before = find_seq(record, first, applied, next_seq - 1)
    if before is not None:
        straddling = record(before)
        if straddling.timestamp + straddling.count > timestamp:
            return before
    return find_seq(record, first, applied, next_seq)


def first_where(record: Records, low: int, high: int, holds: Callable[[EntryRecord], bool]) -> int:
    """The first index from ``low`` to ``high`` whose record ``holds``, which is monotone; ``high + 1`` if none."""
    high += 1
    while low < high:
        middle = (low + high) // 2
        if holds(record(middle)):
            high = middle
        else:
            low = middle + 1
    return low
