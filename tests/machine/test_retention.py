"""Retention as the machine sees it: limits, trims, and a base that with the rest of the log gives the whole again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanyinglog.errors import BadRequest
from lanyinglog.machine.commands import KIND_SETTINGS, KIND_TRIM, NO_OP, encode_command, encode_entry
from lanyinglog.machine.retention import (
    BYTES_MIN,
    LogExtent,
    Retention,
    TrimPoint,
    encode_settings,
    encode_trim,
    trim_point,
)
from lanyinglog.machine.state_machine import StateMachine, places
from lanyinglog.record import OutgoingMessage, encode_batch, encode_run
from lanyinglog.service import Ack
from lanyinglog.store.log_store import EntryRecord

S = 1_000_000_000


def batch_entry(timestamp: int, count: int, *, topic: str = "t", producer: int = 1, number: int = 1) -> bytes:
    run = encode_run(topic, [OutgoingMessage(b"x")] * count)
    return encode_entry(timestamp, [encode_batch(bytes([producer]) * 16, number, [run])])


def machine_with(entries: Sequence[bytes]) -> StateMachine:
    machine = StateMachine()
    for command in entries:
        machine.apply(machine.applied + 1, command)
    return machine


def reloaded(machine: StateMachine, rows: dict[bytes, bytes]) -> StateMachine:
    """A machine made of ``rows`` and what ``machine`` has changed since they were taken."""
    checkpoint = machine.take_checkpoint()
    for key, row in checkpoint.rows.items():
        if row is None:
            rows.pop(key, None)
        else:
            rows[key] = row
    fresh = StateMachine()
    fresh.load(checkpoint.applied, sorted(rows.items()))
    return fresh


# ----------------------------------------------------------------------------------------------------------- commands
def test_a_settings_command_changes_what_it_names_and_nothing_else() -> None:
    machine = machine_with([NO_OP, encode_command(5, KIND_SETTINGS, encode_settings({"age_s": 60, "messages": 9}))])
    done = machine.apply(3, encode_command(6, KIND_SETTINGS, encode_settings({"messages": None})))
    assert machine.retention == Retention(age_s=60)
    assert isinstance(done.results[0], Ack) and done.results[0].count == 0
    assert done.record.count == 0 and done.runs == ()


@pytest.mark.parametrize(
    "changes",
    [{}, {"age": 5}, {"age_s": 0}, {"age_s": -1}, {"bytes": BYTES_MIN - 1}, {"messages": True}, {"messages": 1.5}],
    ids=repr,
)
def test_limits_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        encode_settings(changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [KIND_SETTINGS, KIND_TRIM])
@pytest.mark.parametrize("body", [b"", b"\xff", b"\x81\xa3age\x01", b"0" * 17], ids=repr)
def test_an_unreadable_command_is_an_error_result_and_changes_nothing(kind: int, body: bytes) -> None:
    machine = machine_with([NO_OP, batch_entry(5, 3)])
    done = machine.apply(3, encode_command(6, kind, body))
    assert isinstance(done.results[0], BadRequest)
    assert (machine.retention, machine.first_index, machine.first_seq) == (Retention(), 1, 1)


@pytest.mark.parametrize(
    ("point", "allowed"),
    [
        (TrimPoint(3, 4), True),
        (TrimPoint(4, 7), True),
        (TrimPoint(2, 1), False),
        (TrimPoint(1, 1), False),
        (TrimPoint(5, 7), False),
        (TrimPoint(4, 8), False),
    ],
    ids=str,
)
def test_a_trim_never_goes_back_nor_beyond_what_was_applied(point: TrimPoint, allowed: bool) -> None:
    machine = machine_with([NO_OP, batch_entry(5, 3), batch_entry(9, 3, number=2)])
    machine.first_index = 2
    done = machine.apply(4, encode_command(20, KIND_TRIM, encode_trim(point)))
    assert isinstance(done.results[0], Ack) is allowed
    assert (machine.first_index, machine.first_seq) == (point if allowed else (2, 1))


def test_an_entry_with_a_trim_has_no_messages_to_read() -> None:
    machine = machine_with([NO_OP, batch_entry(5, 3)])
    command = encode_command(20, KIND_TRIM, encode_trim(TrimPoint(2, 1)))
    assert places(command, machine.apply(3, command).record) == ()


# ---------------------------------------------------------------------------------------------------- where to trim
def extent(records: Sequence[EntryRecord], *, first_index: int = 1, first_seq: int = 1) -> LogExtent:
    newest = records[-1]
    return LogExtent(
        first_index,
        first_seq,
        newest.index,
        newest.first_seq + newest.count - 1,
        newest.end_bytes,
        lambda index: records[index - 1],
    )


def ten_entries() -> list[EntryRecord]:
    """Entries 1 to 10 of ten messages each, one a second, 1 MiB each."""
    return [EntryRecord(i, 10 * i - 9, 10, i * S, (), i << 20) for i in range(1, 11)]


@pytest.mark.parametrize(
    ("retention", "index"),
    [
        (Retention(), None),
        (Retention(messages=100), None),
        (Retention(messages=40), 7),
        (Retention(messages=41), 6),
        (Retention(bytes=3 << 20), 8),
        (Retention(bytes=(3 << 20) + 1), 7),
        (Retention(age_s=4), 6),
        (Retention(age_s=4, messages=90), 6),
        (Retention(age_s=9, messages=20), 9),
        (Retention(messages=1), 9),
    ],
    ids=str,
)
def test_the_trim_point_keeps_what_each_limit_names_and_no_entry_more(retention: Retention, index: int | None) -> None:
    point = trim_point(retention, extent(ten_entries()), now_ns=10 * S)
    assert point == (None if index is None else TrimPoint(index, 10 * index - 9))


def test_nothing_is_trimmed_twice() -> None:
    log = extent(ten_entries(), first_index=7, first_seq=61)
    assert trim_point(Retention(messages=40), log, now_ns=10 * S) is None


@given(
    counts=st.lists(st.integers(0, 5), min_size=3, max_size=40),
    limits=st.tuples(st.integers(1, 60), st.integers(1, 30)),
)
def test_what_is_kept_satisfies_every_limit_for_any_log(counts: list[int], limits: tuple[int, int]) -> None:
    records: list[EntryRecord] = []
    seq, end = 1, 0
    for i, count in enumerate(counts, 1):
        end += 1 << 20
        records.append(EntryRecord(i, seq, count, i * S, (), end))
        seq += count
    messages, age_s = limits
    log = extent(records)
    point = trim_point(Retention(messages=messages, age_s=age_s), log, now_ns=len(counts) * S)
    if point is None:
        return
    assert point.first_index <= log.stored - 1
    kept = log.last_seq - point.first_seq + 1
    old = [r for r in records if r.index < point.first_index]
    assert kept >= min(messages, log.last_seq) or all(r.timestamp < (len(counts) - age_s) * S for r in old)


def test_an_idle_log_becomes_empty_when_all_of_it_is_too_old() -> None:
    """The last messages can go only behind other entries, and a trim is one."""
    machine = machine_with([NO_OP, batch_entry(1 * S, 2), batch_entry(2 * S, 2, number=2)])
    records = machine.take_checkpoint().records
    known = list(records)
    for _ in range(10):
        log = LogExtent(
            machine.first_index,
            machine.first_seq,
            machine.applied,
            machine.last_seq,
            machine.end_bytes,
            lambda index: known[index - 1],
        )
        point = trim_point(Retention(age_s=1), log, now_ns=100 * S)
        if point is None:
            break
        known.append(machine.apply(machine.applied + 1, encode_command(100 * S, KIND_TRIM, encode_trim(point))).record)
    assert (machine.first_seq, machine.last_seq) == (5, 4)
    assert point is None, "and then it is at rest"


# ----------------------------------------------------------------------------------------------------------- the base
commands = st.one_of(
    st.just(NO_OP),
    st.builds(
        lambda topic, count, producer: (topic, count, producer),
        st.sampled_from(["a", "b.c", "d"]),
        st.integers(1, 4),
        st.integers(1, 3),
    ),
    st.builds(lambda n: encode_command(1, KIND_SETTINGS, encode_settings({"messages": n})), st.integers(1, 9)),
    st.integers(1, 30).map(lambda back: ("trim", back)),
)


@settings(max_examples=60, deadline=None)
@given(script=st.lists(commands, min_size=1, max_size=40), cut=st.integers(0, 40), reload_at=st.integers(0, 40))
def test_base_and_the_entries_behind_it_give_the_state_of_the_whole_log(
    script: list[object], cut: int, reload_at: int
) -> None:
    """What trimming relies on: the state as of any entry, stored as rows, goes on exactly like the one it was."""
    whole, base = StateMachine(), StateMachine()
    numbers = {1: 0, 2: 0, 3: 0}
    entries: list[bytes] = []
    starts: list[int] = []
    for each in script:
        if isinstance(each, bytes):
            command = each
        elif each[0] == "trim":  # type: ignore[index]
            index = max(1, whole.applied - each[1])  # type: ignore[index]
            command = encode_command(1, KIND_TRIM, encode_trim(TrimPoint(index, bisect_left(starts, index) + 1)))
        else:
            topic, count, producer = each  # type: ignore[misc]
            numbers[producer] += 1
            command = batch_entry(7, count, topic=topic, producer=producer, number=numbers[producer])
        entries.append(command)
        record = whole.apply(whole.applied + 1, command).record
        starts += [record.index] * record.count
    rows: dict[bytes, bytes] = {}
    for command in entries[:cut]:
        base.apply(base.applied + 1, command)
        if base.applied == reload_at:
            base = reloaded(base, rows)
    rebuilt = reloaded(base, rows)
    for command in entries[cut:]:
        rebuilt.apply(rebuilt.applied + 1, command)
    names = ("applied", "last_seq", "last_timestamp", "end_bytes", "retention", "first_index", "first_seq")
    assert [getattr(rebuilt, name) for name in names] == [getattr(whole, name) for name in names]
    assert rebuilt.topics.stats() == whole.topics.stats()
    for producer, number in numbers.items():
        key = bytes([producer]) * 16
        assert rebuilt.producers.verdict(key, max(1, number)) == whole.producers.verdict(key, max(1, number))
