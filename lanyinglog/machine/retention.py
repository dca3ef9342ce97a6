"""How much of a log is kept: the limits, the two commands that change them and the log's start, and where to trim.

Limits are replicated state, so they change through the log, and so does the log's first message: the leader, when a
limit is exceeded, proposes "the log begins at entry I, with seq S" and every node does as the entry says. That is why
all nodes trim alike, whatever their clocks, and why applying reads no clock: time enters through the leader's choice
of I alone.

A limit names what is kept at least: an entry goes only when what stays without it still satisfies every limit. So a
log holds up to one entry (and what came since the last checkpoint) more than its limits, and a limit of 1,000 messages
means that the newest 1,000 can always be read. With several limits the one that keeps least decides.

Bytes are counted by `disk_bytes`, age in entry timestamps against the clock that gives them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from lanyinglog import codec
from lanyinglog.errors import BadRequest, ProtocolError
from lanyinglog.store.log_store import EntryRecord
from lanyinglog.store.search import first_where

AGE_S_MAX = 100 * 366 * 24 * 3600
BYTES_MIN = 1 << 20
"""A log of less than one full batch would trim what it has just taken."""
COUNT_MAX = (1 << 63) - 1
TRIM_BYTES_MIN = 1 << 20
"""Bytes that make a trim worth an entry although no message goes with them."""
_NS = 1_000_000_000
_TRIM = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Retention:
    """The limits of a log; None for no limit. ``age_s`` seconds, ``bytes`` by `disk_bytes`, ``messages``."""

    age_s: int | None = None
    bytes: int | None = None
    messages: int | None = None

    @property
    def is_unlimited(self) -> bool:
        return self.age_s is self.bytes is self.messages is None


class TrimPoint(NamedTuple):
    """The log is to begin at entry ``first_index``, whose first message is (or would be) ``first_seq``."""

    first_index: int
    first_seq: int


BOUNDS = {"age_s": (1, AGE_S_MAX), "bytes": (BYTES_MIN, COUNT_MAX), "messages": (1, COUNT_MAX)}
"""The least and the greatest value of each limit."""


# ----------------------------------------------------------------------------------------------------------- commands
def check_changes(changes: Mapping[str, object]) -> dict[str, int | None]:
    """``changes`` to a `Retention`, field -> new limit or None for no limit. `BadRequest` names what is wrong."""
    if not changes:
        raise BadRequest(f"nothing to change: give at least one of {', '.join(BOUNDS)}")
    checked: dict[str, int | None] = {}
    for name, value in changes.items():
        if name not in BOUNDS:
            raise BadRequest(f"a log has no limit {name!r}, but {', '.join(BOUNDS)}")
        low, high = BOUNDS[name]
        if value is None:
            checked[name] = None
        elif type(value) is int and low <= value <= high:
            checked[name] = value
        else:
            raise BadRequest(f"the limit {name} must be {low} to {high} or none, not {value!r}")
    return checked


def encode_settings(changes: Mapping[str, int | None]) -> bytes:
    """The body of a settings command: only what changes, so that two changes at a time both count."""
    return codec.pack(check_changes(changes))


def changed(retention: Retention, body: bytes) -> Retention:
    """``retention`` after the settings command ``body``; `BadRequest`."""
    try:
        return replace(retention, **check_changes(codec.unpack_map(body)))
    except ProtocolError as error:
        raise BadRequest(f"a settings command that can't be read: {error.message}") from error


def encode_trim(point: TrimPoint) -> bytes:
    """The body of a trim command."""
    return _TRIM.pack(*point)


def decode_trim(body: bytes) -> TrimPoint:
    """`BadRequest` unless it is what `encode_trim` wrote."""
    if len(body) != _TRIM.size:
        raise BadRequest(f"a trim command of {len(body)} bytes")
    return TrimPoint(*_TRIM.unpack(body))


# ---------------------------------------------------------------------------------------------------- where to trim
@dataclass(frozen=True, slots=True)
class LogExtent:
    """What is there to choose from: entries ``first_index`` (with ``first_seq``) to ``stored``, whose ``record`` can be
    looked up; in the whole log ``last_seq`` messages and ``end_bytes`` have come so far."""

    first_index: int
    first_seq: int
    stored: int
    last_seq: int
    end_bytes: int
    record: Callable[[int], EntryRecord]


def trim_point(retention: Retention, log: LogExtent, *, now_ns: int) -> TrimPoint | None:
    """Where the log should begin by its limits at ``now_ns``; None if nothing would be gained. A few dozen look-ups."""
    first, last = log.first_index, log.stored - 1  # two entries stay: the engine needs them
    if retention.is_unlimited or last <= first:
        return None
    keepers = _keepers(retention, log, now_ns)
    index = min(last, max(first_where(log.record, first, last, keeps) for keeps in keepers))
    if index <= first:
        return None
    seq = log.record(index).first_seq
    freed = log.record(index - 1).end_bytes - log.record(first).end_bytes
    # An idle log grows no entries behind which its last messages could go: the trim itself is one.
    goes_whole = log.first_seq <= log.last_seq and not all(keeps(log.record(log.stored)) for keeps in keepers)
    return TrimPoint(index, seq) if seq > log.first_seq or freed >= TRIM_BYTES_MIN or goes_whole else None


def _keepers(retention: Retention, log: LogExtent, now_ns: int) -> list[Callable[[EntryRecord], bool]]:
    """For each limit: whether it keeps an entry. Monotone: what keeps an entry keeps all behind it."""
    keepers: list[Callable[[EntryRecord], bool]] = []
    if retention.messages is not None:
        oldest = log.last_seq - retention.messages + 1
        keepers.append(lambda each: each.first_seq + each.count > oldest)
    if retention.bytes is not None:
        surplus = log.end_bytes - retention.bytes
        keepers.append(lambda each: each.end_bytes > surplus)
    if retention.age_s is not None:
        cutoff = now_ns - retention.age_s * _NS
        keepers.append(lambda each: each.timestamp + max(1, each.count) - 1 >= cutoff)
    return keepers


def as_dict(retention: Retention) -> dict[str, int | None]:
    """For JSON: ``age_s``, ``bytes``, ``messages``."""
    return {one.name: getattr(retention, one.name) for one in fields(retention)}
